"""A TCP proxy of our own for one edge between two processes: it delays, cuts, corrupts, swallows, refuses.

Corruption is a fair fault only where somebody verifies: at the webhook receiver, whose signature catches it, and at
the broker, whose messages carry nothing. Anywhere else it would stand for an accident that TCP's checksum and TLS
prevent, and would prove nothing when it altered what is stored.
"""

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

CHUNK_BYTES = 65_536
# Closed with this, a connection ends in a reset, as that of a host that lost power does.
NO_LINGER = struct.pack("ii", 1, 0)
# Below the ports that the kernel lends to outgoing connections, so that a refusing edge gets its own port again.
PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Trouble:
    """What an edge suffers. None of it: the bytes go straight through."""

    latency: float = 0.0
    jitter: float = 0.0
    # A connection is reset when it has carried so many bytes from now on.
    cut_after: int | None = None
    # The share of chunks in which one byte is wrong.
    corruption: float = 0.0
    blackhole: bool = False
    refuse: bool = False


CALM = Trouble()


class Edge:
    """Listens on a port of 127.0.0.1 and leads to `upstream`."""

    def __init__(self, name: str, upstream: Callable[[], Awaitable[Streams]]) -> None:
        self.name = name
        self.port = free_port()
        self.trouble = CALM
        self._upstream = upstream
        self._chance = random.Random(name)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=1024)

    async def close(self) -> None:
        await self._stop_listening()
        self.reset()
        for task in list(self._carrying):
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def suffer(self, trouble: Trouble) -> None:
        self.trouble = trouble
        if trouble.refuse:
            await self._stop_listening()
            self.reset()
        elif self._server is None:
            await self._listen_again()
        if trouble.blackhole:
            self._flowing.clear()
        else:
            self._flowing.set()

    async def heal(self) -> None:
        await self.suffer(CALM)

    def reset(self) -> None:
        """End every connection at once, without a word."""
        for writer in list(self._writers):
            abort(writer)

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _listen_again(self) -> None:
        for _ in range(100):
            try:
                await self.open()
            except OSError:
                await asyncio.sleep(0.05)
            else:
                return
        raise OSError(f"port {self.port} of {self.name} is lost")

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        try:
            there_reader, there_writer = await self._upstream()
        except OSError:
            abort(writer)
            return
        both = {writer, there_writer}
        self._writers |= both
        budget = [0]
        try:
            await asyncio.gather(
                self._pump(reader, there_writer, budget, both), self._pump(there_reader, writer, budget, both)
            )
        finally:
            self._writers -= both
            for each in both:
                abort(each)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        carried: list[int],
        both: set[asyncio.StreamWriter],
    ) -> None:
        """One direction; `carried` counts both of them."""
        # uvloop says RuntimeError of a transport that was aborted meanwhile.
        with suppress(OSError, RuntimeError):
            while data := await source.read(CHUNK_BYTES):
                await self._flowing.wait()
                trouble = self.trouble
                if trouble.latency or trouble.jitter:
                    await asyncio.sleep(trouble.latency + self._chance.uniform(0, trouble.jitter))
                if trouble.corruption and self._chance.random() < trouble.corruption:
                    data = corrupted(data, self._chance)
                carried[0] = carried[0] + len(data) if trouble.cut_after is not None else 0
                if trouble.cut_after is not None and carried[0] > trouble.cut_after:
                    for each in both:
                        abort(each)
                    return
                target.write(data)
                await target.drain()
            if target.can_write_eof():
                target.write_eof()


def corrupted(data: bytes, chance: random.Random) -> bytes:
    """One byte of it is another one."""
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ chance.randint(1, 255)]) + data[place + 1 :]


def abort(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    # uvloop says ValueError of one that is closed already.
    with suppress(OSError, ValueError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    writer.transport.abort()


def free_port() -> int:
    # Not by the seed: two runs of one seed at the same time want two ports.
    while True:
        port = random.choice(PORTS)
        with socket.socket() as tried, suppress(OSError):
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(("127.0.0.1", port))
            return port


def to_port(port: int) -> Callable[[], Awaitable[Streams]]:
    return lambda: asyncio.open_connection("127.0.0.1", port)


def to_socket(path: str) -> Callable[[], Awaitable[Streams]]:
    return lambda: asyncio.open_unix_connection(path)
