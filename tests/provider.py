"""A provider on a real socket that says what a test tells it to say, or hangs up instead."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from tests.stand_in.signing import Key


@dataclass(frozen=True)
class Call:
    """One request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def webhook_url(self) -> str:
        return self.query["fal_webhook"]


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    pause: float = 0.0
    """Seconds between any two bytes of the body."""

    @property
    def wire(self) -> bytes:
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Unheard Of"
        lines = {**self.headers, "content-length": str(len(self.body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"HTTP/1.1 {self.status} {phrase}\r\n{head}\r\n".encode("latin-1") + self.body


Handler = Callable[[Call], Awaitable[Reply | None]]  # None hangs up.


def reply(value: Any, status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): word for name, word in headers.items()}
    return Reply(status, json.dumps(value).encode(), {"content-type": "application/json", **named})


def page(status: int) -> Reply:
    """What something in front of the queue says."""
    return Reply(status, b"<html><h1>nginx</h1></html>", {"content-type": "text/html"})


async def dripping(_: Call) -> Reply:
    """A good answer, byte by byte, for a minute and more."""
    return Reply(200, b'{"status": "COMPLETED", "request_id": "r-1"' + b" " * 2_000 + b"}", pause=0.04)


def says(*replies: Reply | None) -> Handler:
    """Each call gets the next one, the last one for good."""
    left = list(replies)

    async def handle(_: Call) -> Reply | None:
        return left.pop(0) if len(left) > 1 else left[0]

    return handle


class Provider:
    def __init__(self) -> None:
        self.url = ""
        self.key = Key()
        self.user_id = "account-1"
        self.reset()

    def reset(self) -> None:
        self.calls: list[Call] = []
        self.submit: Handler = self.accept
        self.status: Handler = says(reply({"status": "IN_QUEUE", "queue_position": 3}, 202))
        self.result: Handler = says(reply({"detail": "Request not found"}, 404))
        self.cancel: Handler = says(reply({"status": "CANCELLATION_REQUESTED"}, 202))
        self.keys: Handler = self.publish

    async def accept(self, call: Call) -> Reply:
        return reply(self.acceptance(call, str(uuid4())))

    def acceptance(self, call: Call, request_id: str) -> dict[str, Any]:
        base = f"{self.url}{'/'.join(call.path.split('/')[:3])}/requests/{request_id}"
        return {
            "status": "IN_QUEUE",
            "request_id": request_id,
            "response_url": base,
            "status_url": f"{base}/status",
            "cancel_url": f"{base}/cancel",
            "queue_position": 0,
        }

    async def publish(self, _: Call) -> Reply:
        return reply({"keys": [self.key.jwk("first")]})

    def ended(self, result: Reply, error: str | None = None) -> None:
        """Let status polls see an end, and result reads this."""
        self.status = says(reply({"status": "COMPLETED"} | ({"error": error} if error else {})))
        self.result = says(result)

    @property
    def submissions(self) -> list[Call]:
        return [call for call in self.calls if call.method == "POST"]

    def asked(self, ending: str) -> list[Call]:
        return [call for call in self.calls if call.path.endswith(ending)]

    def _handler(self, call: Call) -> Handler:
        match call.method:
            case "POST":
                return self.submit
            case "PUT":
                return self.cancel
        if call.path.endswith("/jwks.json"):
            return self.keys
        return self.status if call.path.endswith("/status") else self.result

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                call = await read_call(reader)
                self.calls.append(call)
                said = await self._handler(call)(call)
                if said is None:
                    break
                await send(writer, said)
        writer.close()


async def send(writer: asyncio.StreamWriter, said: Reply) -> None:
    wire, drops = said.wire, len(said.body) if said.pause else 0
    writer.write(wire[: len(wire) - drops])
    await writer.drain()
    for position in range(len(wire) - drops, len(wire)):
        await asyncio.sleep(said.pause)
        writer.write(wire[position : position + 1])
        await writer.drain()


async def read_call(reader: asyncio.StreamReader) -> Call:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return Call(method, parts.path, query, headers, body)


@asynccontextmanager
async def running_provider() -> AsyncIterator[Provider]:
    provider = Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0, backlog=512)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        server.close()
