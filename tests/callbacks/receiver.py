"""A client's server on the loopback: it notes what comes, and answers what a test tells it to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.provider import Call, Handler, Reply, read_call, says, send


@dataclass
class Receiver:
    handler: Handler = field(default_factory=lambda: says(Reply()))
    url: str = ""
    calls: list[Call] = field(default_factory=list)
    connections: int = 0
    at_once: int = 0
    """The most calls that were ever under way together."""
    _under_way: int = 0

    @property
    def address(self) -> str:
        return f"{self.url}/hook?a=1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                call = await read_call(reader)
                self.calls.append(call)
                self._under_way += 1
                self.at_once = max(self.at_once, self._under_way)
                try:
                    said = await self.handler(call)
                finally:
                    self._under_way -= 1
                if said is None:
                    break
                await send(writer, said)
        writer.close()


@asynccontextmanager
async def receiving(*replies: Reply | None, handler: Handler | None = None) -> AsyncIterator[Receiver]:
    """Each call gets the next reply, the last one for good; None hangs up."""
    receiver = Receiver(handler or says(*(replies or (Reply(),))))
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, backlog=512)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield receiver
    finally:
        server.close()


def slowly(seconds: float, reply: Reply | None = None) -> Handler:
    async def handle(_: Call) -> Reply | None:
        await asyncio.sleep(seconds)
        return reply or Reply()

    return handle


def dead_address() -> str:
    """Where nobody listens."""
    return "http://127.0.0.1:9/hook"
