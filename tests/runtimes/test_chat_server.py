"""A model in an OpenAI-compatible server beside the worker: asked over HTTP, streamed, ended, and found to be away."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.catalog import Catalog
from service.gpu.runtimes import Cancelled, CannotLoad, InputRefused, Product, Runtime, ServerAway, find
from tests.runtimes.chat import Chat, chatting

LLAVA, MINICPM = "fal-ai/llava-next", "fal-ai/mini-cpm"
URL = "https://example.com/picture.png"
PICTURE = Image.new("RGB", (7, 5), (1, 2, 3))


class Told:
    def __init__(self, cancel_at: int | None = None) -> None:
        self.steps: list[tuple[int, int | None]] = []
        self._cancel_at = cancel_at

    def step(self, done: int, of: int | None) -> None:
        if len(self.steps) == self._cancel_at:
            raise Cancelled
        self.steps.append((done, of))

    def log(self, line: str) -> None:
        raise AssertionError(line)


@pytest.fixture
async def chat() -> AsyncIterator[Chat]:
    async with chatting() as chat:
        yield chat


async def opened(chat: Chat, model: str = LLAVA, **options: str) -> Runtime:
    runtime = find(model, folder=Path("/nowhere"), device="cpu", options={"server_url": chat.url, **options})
    await asyncio.to_thread(runtime.load)
    return runtime


async def answer(runtime: Runtime, told: Told | None = None, model: str = LLAVA, **fields: Any) -> Product:
    files = {"image_urls": [URL, URL]} if model == MINICPM else {"image_url": URL}
    schema = Catalog().find(model).Input
    assert schema is not None
    input = schema.model_validate(files | {"prompt": "who?"} | fields)
    pictures = [PICTURE, Image.new("RGB", (2, 2), "white")] if model == MINICPM else [PICTURE]
    return await asyncio.to_thread(runtime.run, input, pictures, told or Told(), loaded_seconds=1.5)


async def test_the_answer_is_the_models(chat: Chat) -> None:
    told = Told()
    product = await answer(await opened(chat), told, max_tokens=40)
    assert product.output == {"output": "Leonardo da Vinci", "partial": False}
    assert product.notes["usage"] == {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    assert product.notes["finish_reason"] == "stop"
    assert product.notes["timings"]["total_time"] > 1.5
    assert [step for step in told.steps if step[0]] == [(1, 40), (2, 40), (3, 40), (3, 40)]


async def test_settings_prompt_and_picture_are_sent(chat: Chat) -> None:
    await answer(await opened(chat, server_key="sk-of-the-server"), temperature=0, top_p=0.5, prompt="who is she?")
    sent = chat.asked[0]
    assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["top_p"]) == ("llava", 64, 0, 0.5)
    assert sent["messages"][0]["content"][1] == {"type": "text", "text": "who is she?"}
    [picture] = chat.pictures()
    assert picture.tobytes() == PICTURE.tobytes()
    assert chat.keys == ["Bearer sk-of-the-server"]


async def test_minicpm_sends_its_pictures_in_order_and_its_own_settings(chat: Chat) -> None:
    product = await answer(await opened(chat, MINICPM), model=MINICPM)
    assert product.output == {"output": "Leonardo da Vinci"}
    assert [picture.size for picture in chat.pictures()] == [(7, 5), (2, 2)]
    assert (chat.asked[0]["temperature"], chat.asked[0]["top_k"]) == (0.7, 100)
    assert chat.keys == [None]


async def test_many_are_asked_at_once(chat: Chat) -> None:
    runtime = await opened(chat)
    products = await asyncio.gather(*(answer(runtime, prompt=f"{number}") for number in range(30)))
    assert len(products) == len(chat.asked) == 30
    assert {sent["messages"][0]["content"][1]["text"] for sent in chat.asked} == {str(number) for number in range(30)}


async def test_a_cancelled_run_ends_the_servers_work_too(chat: Chat) -> None:
    chat.endless = True
    with pytest.raises(Cancelled):
        await answer(await opened(chat), Told(cancel_at=5))
    await asyncio.wait_for(chat.left.wait(), 30)


async def test_what_the_server_refuses_is_the_models_own_answer(chat: Chat) -> None:
    runtime = await opened(chat)
    chat.status, chat.error = 400, {"error": {"message": "This model's maximum context length is 4096 tokens."}}
    with pytest.raises(InputRefused, match="maximum context length"):
        await answer(runtime)


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
async def test_any_other_answer_says_nothing_of_the_input(chat: Chat, status: int) -> None:
    runtime = await opened(chat)
    chat.status, chat.error = status, ["no error of OpenAI's form"]
    with pytest.raises(ServerAway, match=str(status)):
        await answer(runtime)


@pytest.mark.parametrize("error", [None, {"message": "engine died"}])
async def test_half_an_answer_is_none(chat: Chat, error: Any) -> None:
    runtime = await opened(chat)
    chat.break_off_after, chat.error = 2, error
    with pytest.raises(ServerAway, match="engine died" if error else "broke off"):
        await answer(runtime)


async def test_a_server_that_went_away_is_told_as_such() -> None:
    async with chatting() as chat:
        runtime = await opened(chat)
    with pytest.raises(ServerAway):
        await answer(runtime)


async def test_a_server_that_is_not_there_or_serves_something_else_cannot_be_loaded(chat: Chat) -> None:
    with pytest.raises(CannotLoad, match="serves llava; name one"):
        await opened(chat, server_model="other")
    chat.models = ["a", "b"]
    with pytest.raises(CannotLoad, match="serves a, b"):
        await opened(chat)
    assert await opened(chat, server_model="b")
    with pytest.raises(CannotLoad, match="does not answer"):
        await opened(chat, server_url="http://127.0.0.1:9/v1")


async def test_limits_hold_before_anybody_is_asked(chat: Chat) -> None:
    with pytest.raises(InputRefused):
        await answer(await opened(chat), temperature=-1)
    assert chat.asked == []
