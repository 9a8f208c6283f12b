"""A server on the loopback that says exactly the bytes it was given, well-formed or not."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Canned:
    port: int
    requests: list[str] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def answer(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    named = {"content-length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items() if value)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


@asynccontextmanager
async def answering(
    *answers: bytes, pause: float = 0, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Canned]:
    """Give each request the next answer, the last one for good; an empty answer hangs up."""
    turn = iter(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        canned.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                canned.requests.append(head)
                said = next(turn, answers[-1])
                await asyncio.sleep(pause)
                writer.write(said)
                await writer.drain()
                if not said or b"connection: close" in said:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the client left, which many tests want
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    canned = Canned(port=server.sockets[0].getsockname()[1])
    try:
        yield canned
    finally:
        server.close()
