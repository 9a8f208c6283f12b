"""HTTP/1.1 over kept connections with as little Python as can be, so that the bench is not what is measured."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import cast
from urllib.parse import urlsplit

import httptools

# Shorter than the five seconds after which common servers close an idle connection.
KEPT_SECONDS = 4.0

REASONS = {200: b"OK", 404: b"Not Found"}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


class Lost(Exception):
    """The connection ended, or never stood, before the whole answer had come."""


class _Connection(asyncio.Protocol):
    """One that asks, one request at a time."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._answered: asyncio.Future[Answer] | None = None
        self.usable = True
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        self._answered = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answered

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        answer = Answer(self._parser.get_status_code(), b"".join(self._parts))
        self.usable = self._parser.should_keep_alive()
        self._parts, self._parser = [], httptools.HttpResponseParser(self)
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(Lost(repr(error)))


class Caller:
    """Asks one server, over connections that it keeps; no more than `most` at a time."""

    def __init__(self, url: str, most: int) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._place = parts.hostname, parts.port
        self._host = f"Host: {parts.netloc}\r\n"
        self._room = asyncio.Semaphore(most)
        self._idle: list[_Connection] = []

    async def post(self, path: str, body: bytes, headers: str = "") -> Answer:
        """`headers` are lines, each ended. Raises Lost."""
        head = f"POST {path} HTTP/1.1\r\n{self._host}{headers}Content-Length: {len(body)}\r\n\r\n"
        async with self._room:
            connection = self._kept() or await self._connect()
            answer = await connection.ask(head.encode() + body)
            if connection.usable:
                connection.idle_since = monotonic()
                self._idle.append(connection)
            return answer

    async def _connect(self) -> _Connection:
        try:
            return (await asyncio.get_running_loop().create_connection(_Connection, *self._place))[1]
        except OSError as error:
            raise Lost(repr(error)) from error

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and monotonic() - connection.idle_since < KEPT_SECONDS:
                return connection
            connection.transport.abort()
        return None

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.abort()


# Method, path with its query, and body in; status and body out, and what to do once they are sent.
Handler = Callable[[bytes, str, bytes], tuple[int, bytes, Callable[[], Awaitable[None]] | None]]


class Answering(asyncio.Protocol):
    """A connection that answers at once, as `handler` says."""

    def __init__(self, handler: Handler, begin: Callable[[Awaitable[None]], None]) -> None:
        self._handler = handler
        self._begin = begin
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._parts: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, part: bytes) -> None:
        self._url += part

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        url, body = self._url.decode(), b"".join(self._parts)
        self._url, self._parts = b"", []
        status, answer, then = self._handler(self._parser.get_method(), url, body)
        head = b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._transport.write(head % (status, REASONS[status], len(answer)) + answer)
        if then is not None:
            self._begin(then())
