"""A server that speaks OpenAI's chat protocol as vLLM's does, and says what a test tells it to."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.serving import serving

KEY = "sk-of-the-server"


@dataclass
class Chat:
    url: str = ""
    models: list[str] = field(default_factory=lambda: ["llava"])
    words: list[str] = field(default_factory=lambda: [" Leonardo", " da", " Vinci"])
    # Instead of the answer, from the start or after some of its words.
    status: int = 200
    error: Any = None
    break_off_after: int | None = None
    endless: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def pictures(self) -> list[Image.Image]:
        """Of the last request."""
        content = self.asked[-1]["messages"][0]["content"]
        uris = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        return [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in uris]

    async def list_models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name} for name in self.models]})

    async def complete(self, request: Request) -> Response:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("authorization"))
        if self.status != 200:
            return JSONResponse(self.error, self.status)
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[str]:
        try:
            said = 0
            while self.endless or said < len(self.words):
                if said == self.break_off_after:
                    if self.error:
                        yield _event({"error": self.error})
                    return
                last = not self.endless and said == len(self.words) - 1
                word = self.words[said % len(self.words)]
                choice = {"index": 0, "delta": {"content": word}, "finish_reason": "stop" if last else None}
                yield _event({"choices": [choice]})
                said += 1
                await asyncio.sleep(0.01 if self.endless else 0)
            usage = {"prompt_tokens": 9, "completion_tokens": said, "total_tokens": 9 + said}
            yield _event({"choices": [], "usage": usage})
            yield "data: [DONE]\n\n"
        finally:
            self.left.set()


def _event(content: Any) -> str:
    return f"data: {json.dumps(content)}\n\n"


@asynccontextmanager
async def chatting() -> AsyncIterator[Chat]:
    chat = Chat()
    routes = [Route("/v1/models", chat.list_models), Route("/v1/chat/completions", chat.complete, methods=["POST"])]
    async with serving(Starlette(routes=routes)) as url:
        chat.url = f"{url}/v1"
        yield chat
