"""PyPI's `fal-client`, unmodified, in its synchronous and its asynchronous form."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import fal_client
import httpx
import pytest
from fal_client import client as fal_module
from PIL import Image

from tests.journeys.driver import new_tag, sample_input
from tests.journeys.running import Service
from tests.stand_in import Outcome, Script, StandIn
from tests.stand_in.outputs import LLAVA, MODELS, SA2VA

AT_ONCE = 200


@pytest.fixture(scope="module", autouse=True)
def aimed(service: Service) -> Iterator[None]:
    """As `docs/fal-clients.md` aims it over plain HTTP; the recipes over HTTPS are in test_recipes.py."""
    aims = {
        "QUEUE_URL_FORMAT": f"{service.url}/fal/queue/",
        "RUN_URL_FORMAT": f"{service.url}/fal/run/",
        "REST_URL": f"{service.url}/fal/rest",
        "CDN_URL": f"{service.url}/fal/cdn",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in aims.items():
            assert getattr(fal_module, name)
            patch.setattr(fal_module, name, value)
        yield


@pytest.fixture
def client(service: Service) -> fal_client.SyncClient:
    return fal_client.SyncClient(key=service.admin_key)


@pytest.fixture
def async_client(service: Service) -> fal_client.AsyncClient:
    return fal_client.AsyncClient(key=service.admin_key)


@pytest.mark.parametrize("model", MODELS)
def test_subscribe(client: fal_client.SyncClient, service: Service, fal: StandIn, model: str) -> None:
    tag = new_tag()
    updates: list[fal_client.Status] = []
    ids: list[str] = []
    output = client.subscribe(
        model,
        arguments=sample_input(model, tag),
        with_logs=True,
        on_enqueue=ids.append,
        on_queue_update=updates.append,
    )
    job = service.client().get(f"/v1/jobs/{ids[0]}").json()
    # The files may have moved to their copies between the two looks.
    files = {"masks", "image"}
    assert {name: value for name, value in output.items() if name not in files} == {
        name: value for name, value in job["output"].items() if name not in files
    }
    assert job["input"] == sample_input(model, tag)
    assert isinstance(updates[-1], fal_client.Completed)
    assert updates[-1].logs is not None
    assert updates[-1].logs[-1]["message"] == "The request is completed."
    assert len(fal.submits_of(tag)) == 1


def test_a_handle(client: fal_client.SyncClient, service: Service, fal: StandIn) -> None:
    tag = new_tag()
    hook = "https://optional.webhook.url/for/results"
    handle = client.submit(SA2VA, arguments=sample_input(SA2VA, tag), webhook_url=hook, priority="low", hint="h-1")
    assert client.get_handle(SA2VA, handle.request_id) == handle
    assert len(handle.get()["masks"]) == len(client.result(SA2VA, handle.request_id)["masks"]) == 3
    assert isinstance(handle.status(with_logs=True), fal_client.Completed)
    job = service.client().get(f"/v1/jobs/{handle.request_id}").json()
    assert (job["webhook_url"], job["priority"]) == (hook, "low")
    assert fal.submits_of(tag)[0].headers["x-fal-runner-hint"] == "h-1"


def test_a_request_in_each_of_its_states(client: fal_client.SyncClient, fal: StandIn) -> None:
    tag = new_tag()
    fal.script(tag, Script(holds=True, cancel="requested"))
    handle = client.submit(LLAVA, arguments=sample_input(LLAVA, tag))
    seen = set()
    for status in handle.iter_events(interval=0.2):
        seen.add(type(status))
        if isinstance(status, fal_client.InProgress) and not fal.run(tag).ended:
            fal.finish(fal.run(tag))
    assert seen == {fal_client.Queued, fal_client.InProgress, fal_client.Completed}


def test_a_cancel(client: fal_client.SyncClient, fal: StandIn) -> None:
    tag = new_tag()
    fal.script(tag, Script(holds=True))
    handle = client.submit(LLAVA, arguments=sample_input(LLAVA, tag))
    fal.run(tag)
    handle.cancel()
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        handle.get()
    assert caught.value.status_code == 499
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        client.cancel(LLAVA, handle.request_id)
    assert caught.value.status_code == 400


def test_a_failure_of_the_models(client: fal_client.SyncClient, fal: StandIn) -> None:
    tag = new_tag()
    fal.script(tag, Script(outcome=lambda _: Outcome(b'{"detail": "Too dark."}', 500)))
    with pytest.raises(fal_client.FalClientHTTPError, match="Too dark") as caught:
        client.subscribe(LLAVA, arguments=sample_input(LLAVA, tag))
    assert caught.value.status_code == 500
    assert len(fal.submits_of(tag)) == 1


def test_an_input_that_does_not_fit(client: fal_client.SyncClient) -> None:
    with pytest.raises(fal_client.FalClientHTTPError, match="image_url") as caught:
        client.subscribe(LLAVA, arguments={"prompt": "What?"})
    assert caught.value.status_code == 422


def test_its_own_deadline(client: fal_client.SyncClient, service: Service, fal: StandIn) -> None:
    tag = new_tag()
    fal.script(tag, Script(holds=True))
    with pytest.raises(fal_client.FalClientTimeoutError) as caught:
        client.subscribe(LLAVA, arguments=sample_input(LLAVA, tag), client_timeout=3)
    job = service.client().get(f"/v1/jobs/{caught.value.request_id}", params={"wait": 20}).json()
    assert job["status"] == "cancelled"


def test_run_and_stream(client: fal_client.SyncClient, fal: StandIn) -> None:
    tag = new_tag()
    output = client.run(LLAVA, arguments=sample_input(LLAVA, tag))
    streamed = list(client.stream(LLAVA, arguments=sample_input(LLAVA, tag)))
    assert [output, *streamed] == [run.output for run in fal.runs_of(tag)]


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        return bytes(response.read())


def test_uploads(client: fal_client.SyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ein Bild.txt"
    file.write_text("Hello, World!")
    picture = Image.new("RGB", (8, 6))
    assert read(client.upload(b"abc", "text/plain")) == b"abc"
    assert read(client.upload_file(file)) == b"Hello, World!"
    assert Image.open(BytesIO(read(client.upload_image(picture, format="png")))).size == (8, 6)
    # In parts, as it sends a file of more than 100 MB: ten at a time, listed in the order in which they came.
    large = bytes(range(256)) * 4 * 1_024 * 9
    monkeypatch.setattr(fal_module, "MULTIPART_THRESHOLD", 2**20)
    monkeypatch.setattr(fal_module, "MULTIPART_CHUNK_SIZE", 2**20)
    assert read(client.upload(large, "application/octet-stream", file_name="large.bin")) == large
    whole = tmp_path / "large.bin"
    whole.write_bytes(large)
    assert read(client.upload_file(whole)) == large
    # Where it turns to when the CDN does not take the file.
    assert read(client.upload(b"xyz", "text/plain", repository="fal")) == b"xyz"


def test_an_upload_is_an_input(client: fal_client.SyncClient, fal: StandIn) -> None:
    tag = new_tag()
    url = client.upload_image(Image.new("RGB", (8, 6)))
    client.subscribe(LLAVA, arguments={"image_url": url, "prompt": f"tag:{tag}"})
    assert json.loads(fal.submits_of(tag)[0].body)["image_url"] == url


async def test_two_hundred_at_once_all_end(async_client: fal_client.AsyncClient, fal: StandIn) -> None:
    tag = new_tag()
    fal.script(tag, Script(seconds=0.5))

    async def one(number: int) -> str:
        output = await async_client.subscribe(LLAVA, arguments=sample_input(LLAVA, tag, prompt=f"{number}"))
        return str(output["output"])

    outputs = await asyncio.gather(*(one(number) for number in range(AT_ONCE)))
    assert outputs == ["Leonardo da Vinci"] * AT_ONCE
    assert len(fal.submits_of(tag)) == AT_ONCE


async def test_the_asynchronous_form(async_client: fal_client.AsyncClient, service: Service, fal: StandIn) -> None:
    tag = new_tag()
    handle = await async_client.submit(LLAVA, arguments=sample_input(LLAVA, tag))
    assert await async_client.get_handle(LLAVA, handle.request_id) == handle
    output = await handle.get()
    assert output == await async_client.result(LLAVA, handle.request_id) == fal.run(tag).output
    assert isinstance(await handle.status(), fal_client.Completed)
    url = await async_client.upload(b"abc", "text/plain")
    async with httpx.AsyncClient(trust_env=False) as anybody:
        assert (await anybody.get(url)).content == b"abc"
    held = new_tag()
    fal.script(held, Script(holds=True))
    handle = await async_client.submit(LLAVA, arguments=sample_input(LLAVA, held))
    await async_client.cancel(LLAVA, handle.request_id)
    job = service.client().get(f"/v1/jobs/{handle.request_id}", params={"wait": 20}).json()
    assert job["status"] == "cancelled"
    assert await async_client.run(LLAVA, arguments=sample_input(LLAVA, tag)) == output
