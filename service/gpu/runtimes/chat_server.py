"""An OpenAI-compatible server of a vision model, such as vLLM's or SGLang's, beside the worker."""

import asyncio
import base64
import io
import json
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import httpx
from PIL.Image import Image

from service.gpu.runtimes.base import CannotLoad, InputRefused, ServerAway, Watch
from service.gpu.runtimes.options import Server
from service.network import open_http

READY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    finish_reason: str | None
    usage: dict[str, int]
    seconds: float

    def notes(self, loaded_seconds: float) -> dict[str, Any]:
        return {
            "finish_reason": self.finish_reason,
            "usage": self.usage,
            "timings": {"total_time": loaded_seconds + self.seconds},
        }


class ChatServer:
    """It can be asked by many threads at once; its connections belong to a loop in a thread of its own."""

    def __init__(self, options: Server) -> None:
        assert options.server_url is not None
        self._options = options
        self._url = options.server_url.rstrip("/")
        self._model = options.server_model
        self._loop = asyncio.new_event_loop()
        self._http: httpx.AsyncClient | None = None

    def open(self) -> None:
        """Raises CannotLoad when the server does not answer, or does not serve the model."""
        threading.Thread(target=self._loop.run_forever, daemon=True, name="chat-server").start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def ask(self, pictures: Sequence[Image], prompt: str, settings: Mapping[str, Any], watch: Watch) -> Answer:
        """Raises Cancelled, which ends the server's work too, InputRefused, or ServerAway."""
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": _data_uri(picture)}} for picture in pictures
        ]
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}],
            "stream": True,
            "stream_options": {"include_usage": True},
            **settings,
        }
        return asyncio.run_coroutine_threadsafe(self._ask(body, watch), self._loop).result()

    async def _open(self) -> None:
        seconds = self._options.server_seconds
        # The operator named the address, so no guard of strangers' addresses stands before it.
        self._http = open_http(guard=None, read_seconds=seconds, max_connections=1000)
        try:
            response = await self._http.get(f"{self._url}/models", headers=self._headers(), timeout=READY_SECONDS)
            response.raise_for_status()
            served = [str(each["id"]) for each in response.json()["data"]]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise CannotLoad(f"{self._url} does not answer as an OpenAI-compatible server: {error}") from error
        if self._model is None and len(served) == 1:
            self._model = served[0]
        if self._model not in served:
            raise CannotLoad(f"{self._url} serves {', '.join(served) or 'nothing'}; name one with server_model")

    async def _ask(self, body: dict[str, Any], watch: Watch) -> Answer:
        assert self._http is not None
        start = perf_counter()
        text: list[str] = []
        finish_reason: str | None = None
        usage: dict[str, int] = {}
        ended = False
        try:
            async with self._http.stream(
                "POST", f"{self._url}/chat/completions", json=body, headers=self._headers()
            ) as response:
                if response.status_code != httpx.codes.OK:
                    raise _refusal(response.status_code, await response.aread())
                async for event in _events(response):
                    if event == "[DONE]":
                        ended = True
                        break
                    chunk = json.loads(event)
                    if "error" in chunk:
                        raise ServerAway(f"{self._url}: {str(chunk['error'])[:300]}")
                    for choice in chunk.get("choices") or ():
                        text.append((choice.get("delta") or {}).get("content") or "")
                        finish_reason = choice.get("finish_reason") or finish_reason
                    usage = {
                        name: number for name, number in (chunk.get("usage") or {}).items() if type(number) is int
                    } or usage
                    # Raised from in here, it closes the connection, by which the server knows to stop.
                    watch.step(len(text), body.get("max_tokens"))
        except (httpx.HTTPError, ValueError, AttributeError) as error:
            raise ServerAway(f"{self._url}: {type(error).__name__}: {error}") from error
        if not ended:
            raise ServerAway(f"{self._url}: the answer broke off")
        return Answer("".join(text).strip(), finish_reason, usage, perf_counter() - start)

    def _headers(self) -> dict[str, str]:
        key = self._options.server_key
        return {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        name, _, value = line.partition(":")
        if name == "data":
            yield value.strip()


def _refusal(status: int, body: bytes) -> Exception:
    words = body.decode(errors="replace")[:300]
    try:
        said = json.loads(body)
        words = str((said.get("error") or said)["message"])[:300]
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # It is no error of OpenAI's form, so its text has to do.
    if status in {400, 413, 422}:
        return InputRefused("prompt", words)
    return ServerAway(f"the model's server answered {status}: {words}")


def _data_uri(picture: Image) -> str:
    content = io.BytesIO()
    picture.save(content, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
