"""What the HTTP server itself takes from strangers, and how it takes its leave; uvicorn leaves both open."""

import asyncio
import select
import socket
from contextlib import suppress
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

LARGEST_HEAD = 64 * 1024
MOST_HEADERS = 100

# Connections at a time, those of waiting clients and open streams among them; more are answered 503.
MOST_CONNECTIONS = 4_000

# How long an idle connection is kept. The side that closes it first must be the client: a request that crosses the
# server's close is lost, and httpx gives connections up after 5 s, aiohttp after 15, load balancers after 60.
IDLE_SECONDS = 65

# How long after SIGTERM: a client may be sending its next request at that moment.
# Who sends more seldom finds the connection closed when he looks for it.
LAST_REQUEST_SECONDS = 6.0

# Between two ticks, at each of which the Date header is renewed.
TICK_SECONDS = 1.0


class HeadTooLarge(Exception):
    """Ends the request with a 400."""


class LimitedProtocol(HttpToolsProtocol):
    """Counts a request's head while it comes, and answers one more before it closes an idle connection."""

    _head_bytes = 0
    _head_lines = 0

    def on_message_begin(self) -> None:
        self._head_bytes = self._head_lines = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_lines += 1
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def _count(self, length: int) -> None:
        self._head_bytes += length
        if self._head_bytes > LARGEST_HEAD or self._head_lines > MOST_HEADERS:
            raise HeadTooLarge

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._leaving:
            self.shutdown()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self._leaving and self.cycle is not None:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        self.timeout_keep_alive = LAST_REQUEST_SECONDS  # type: ignore[assignment]
        if self.cycle is not None and not self.cycle.response_complete:
            # Where the head is out and did not say that it is the last, one more request may follow.
            self.cycle.keep_alive = self.cycle.keep_alive and self.cycle.response_started
            return
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(LAST_REQUEST_SECONDS, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """On a busy machine a request may lie here unread: to close now would reset it."""
        if not self._something_unread():
            super().timeout_keep_alive_handler()

    def _something_unread(self) -> bool:
        if (connection := self.transport.get_extra_info("socket")) is None or connection.fileno() < 0:
            return False
        looking = select.poll()
        looking.register(connection.fileno(), select.POLLIN)
        return bool(looking.poll(0))

    @property
    def _leaving(self) -> bool:
        return isinstance(self.server_state, SharedState) and self.server_state.leaving


class SharedState(ServerState):
    """What the server and its connections know of one another."""

    leaving = False


class Server(uvicorn.Server):
    """Tells the application of its end before the connections are waited for, not after."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state: SharedState = SharedState()
        self._exiting = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        """Ticks once a second, and at once when a signal came.

        Uvicorn's own ticks ten times a second to look for it, and each tick wakes a machine that may be at rest.
        """
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._exiting.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._exiting.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.server_state.leaving = True
        if (waiting := self.lifespan.state.get("waiting")) is not None:
            waiting.stop()
        await super().shutdown(sockets)
