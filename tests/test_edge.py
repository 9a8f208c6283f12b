"""How the HTTP server takes its leave: no request that comes in the meantime is lost, and nobody waits for long."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from service import edge
from service.app import create_app
from service.context import Context
from service.settings import Settings
from tests import making, serving

ASK = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"
PAUSE = 0.5


class Server(edge.Server, serving.Server):
    """Told by the test what a signal would tell it."""

    def end(self) -> None:
        self.handle_exit(signal.SIGTERM, None)

    async def leave(self) -> None:
        """Until it has begun to end."""
        self.end()
        while not self.server_state.leaving:  # noqa: ASYNC110 - the server has a flag for it, and no event
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)


@asynccontextmanager
async def serve(app: ASGIApp, lifespan: str = "off") -> AsyncIterator[tuple[Server, str]]:
    config = uvicorn.Config(app, log_config=None, lifespan=lifespan, http=edge.LimitedProtocol)  # type: ignore[arg-type]
    config.timeout_graceful_shutdown = 20
    server, listener = Server(config), serving.listening_socket()
    running = asyncio.create_task(server.serve([listener]))
    await server.up.wait()
    yield server, serving.address_of(listener)
    server.end()
    await running


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    async def hello(_: Request) -> Response:
        return Response("hello")

    async with serve(Starlette(routes=[Route("/", hello)])) as started:
        yield started


@pytest.fixture
def connection(server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(edge, "LAST_REQUEST_SECONDS", PAUSE)
    url = httpx.URL(server[1])
    with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
        yield connection


async def received(connection: socket.socket) -> bytes:
    """One answer, whole; nothing at the end."""
    answer = b""
    while not answer.endswith(b"hello") and (more := await asyncio.to_thread(connection.recv, 65_536)):
        answer += more
    return answer


async def test_an_idle_connection_is_answered_once_more_and_then_closed(
    server: tuple[Server, str], connection: socket.socket
) -> None:
    connection.sendall(ASK)
    assert b"connection: close" not in await received(connection)
    await server[0].leave()
    connection.sendall(ASK)
    answer = await received(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
    assert await received(connection) == b""


async def test_a_connection_on_which_nothing_came_yet_is_answered_too(
    server: tuple[Server, str], connection: socket.socket
) -> None:
    await asyncio.sleep(0.1)
    await server[0].leave()
    connection.sendall(ASK[:20])
    await asyncio.sleep(2 * PAUSE)
    connection.sendall(ASK[20:])
    assert b"connection: close" in await received(connection)


async def test_a_connection_on_which_nothing_comes_is_closed_soon(
    server: tuple[Server, str], connection: socket.socket
) -> None:
    connection.sendall(ASK)
    await received(connection)
    await server[0].leave()
    assert await received(connection) == b""


async def test_a_request_that_is_not_read_yet_keeps_its_connection_open(
    server: tuple[Server, str], connection: socket.socket
) -> None:
    """The time was over while the machine was busy elsewhere."""
    connection.sendall(ASK)
    await received(connection)
    [protocol] = server[0].server_state.connections
    connection.sendall(ASK)
    protocol.timeout_keep_alive_handler()  # type: ignore[union-attr]
    assert (await received(connection)).startswith(b"HTTP/1.1 200")


async def test_waits_and_streams_end_with_the_process(
    settings: Settings, context: Context, client: httpx.AsyncClient
) -> None:
    job_id = await making.queued(context.db, await making.make_tenant(context.db, "ours"))
    async with serve(create_app(settings), "on") as (server, url):
        there = httpx.AsyncClient(base_url=url, headers=client.headers, trust_env=False, timeout=30)
        async with there:
            async with there.stream("GET", f"/v1/jobs/{job_id}/stream") as stream:
                lines = stream.aiter_lines()
                assert (await anext(lines)).startswith("id: ")
                waiting = asyncio.create_task(there.get(f"/v1/jobs/{job_id}?wait=60"))
                while len(server.server_state.tasks) < 2:  # noqa: ASYNC110 - they are uvicorn's
                    await asyncio.sleep(0.01)
                server.end()
                assert (await waiting).json()["status"] == "queued"
                assert [line async for line in lines][-1] == ""
            # The head of the stream said nothing of an end, so its connection is used again.
            assert (await there.get(f"/v1/jobs/{job_id}")).headers["connection"] == "close"


async def test_a_client_that_leaves_in_the_middle_of_its_request_is_no_error(
    settings: Settings, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(create_app(settings), "on") as (server, url):
        there = httpx.URL(url)
        with socket.create_connection((there.host, there.port or 80), timeout=10) as connection:
            head = f"POST /v1/jobs HTTP/1.1\r\nhost: here\r\nauthorization: {client.headers['authorization']}\r\n"
            connection.sendall(f'{head}content-length: 100\r\n\r\n{{"model"'.encode())
            while not server.server_state.tasks:  # noqa: ASYNC110 - they are uvicorn's
                await asyncio.sleep(0.01)
        while server.server_state.tasks:  # noqa: ASYNC110 - they are uvicorn's
            await asyncio.sleep(0.01)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
