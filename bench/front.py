"""The fal front door: status reads beside the least that a handler can do, and the memory of open streams.

`python -m bench.front` prints the figures, and ends with 1 if they are not what they have to be; in a shorter form
nothing is asserted.
"""

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from statistics import median
from time import monotonic, sleep
from typing import cast
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import httpx
import uvloop
from uuid_utils.compat import uuid7

from bench import report
from bench.counters import PUBLISHED_AFTER_SECONDS
from bench.processes import cpu_seconds, memory_bytes
from bench.stand_in import running_provider
from bench.workplace import data_directory, settings_for, tell
from service.keys import digest
from service.local.listening import address, listening
from service.local.stopping import until_stopped
from service.local.up import running

MODEL = "fal-ai/llava-next"
KEY = "bench:0123456789abcdef"
TRIES = 100

# What the door has to do, said of the whole form.
STREAMS, SECONDS, TURNS = 1_000, 3.0, 5
LEAST_RATIO = 0.5
MOST_MEMORY = 150e6


class Reader(asyncio.Protocol):
    """One connection that asks again as soon as it has been answered. It costs little, so that the server shows."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""
        self.answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if separator:
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r")[0])
            if len(body) >= length:
                assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")), head
                self._received = b""
                self.answers += 1
                self._transport.write(self._request)

    def close(self) -> None:
        self._transport.abort()


async def reads_a_second(url: str, path: str, clients: int, seconds: float) -> float:
    parts = urlsplit(url)
    request = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Key {KEY}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(lambda: Reader(request), parts.hostname, parts.port) for _ in range(clients)]
    await asyncio.sleep(0.3)
    begun, before = monotonic(), sum(reader.answers for _, reader in opened)
    await asyncio.sleep(seconds)
    answered, took = sum(reader.answers for _, reader in opened) - before, monotonic() - begun
    for _, reader in opened:
        reader.close()
    return answered / took


async def make_job(connection: "asyncpg.Connection[asyncpg.Record]", tenant: UUID) -> UUID:
    """A job that its provider has, and that nobody has to look at for a day."""
    job_id = uuid7()
    await connection.execute(
        "INSERT INTO jobs (id, tenant_id, model, provider, priority, metadata, tags)"
        " VALUES ($1, $2, $3, 'fal', 'normal', '{}', '{}')",
        job_id,
        tenant,
        MODEL,
    )
    await connection.execute("INSERT INTO inputs (job_id, body) VALUES ($1, '{}')", job_id)
    await connection.execute(
        "INSERT INTO live_jobs (job_id, tenant_id, status, duty, due_at, rank, attempt, queue_position)"
        " VALUES ($1, $2, 'submitted', 'report', now() + interval '1 day', 0, 1, 0)",
        job_id,
        tenant,
    )
    return job_id


async def make_jobs(database_url: str, count: int) -> list[UUID]:
    connection = await asyncpg.connect(database_url)
    try:
        tenant = await connection.fetchval("SELECT id FROM tenants")
        key_id, _, secret = KEY.partition(":")
        await connection.execute(
            "INSERT INTO api_keys (id, tenant_id, secret_sha256, scopes) VALUES ($1, $2, $3, '{read}')",
            key_id,
            tenant,
            digest(secret),
        )
        return [await make_job(connection, tenant) for _ in range(count)]
    finally:
        await connection.close()


@asynccontextmanager
async def open_streams(url: str, jobs: list[UUID]) -> AsyncIterator[None]:
    parts = urlsplit(url)
    writers = []
    for job_id in jobs:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        path = f"/fal/queue/{MODEL}/requests/{job_id}/status/stream?logs=1"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Key {KEY}\r\n\r\n".encode())
        await reader.readuntil(b'"status"')
        writers.append(writer)
    yield
    for writer in writers:
        writer.transport.abort()


async def statements(database_url: str) -> int:
    connection = await asyncpg.connect(database_url)
    try:
        return int(
            await connection.fetchval("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
        )
    finally:
        await connection.close()


@contextmanager
def bare_server(database_url: str) -> Iterator[tuple[str, int]]:
    with listening("127.0.0.1", 0) as listener:
        url, port = address(listener), listener.getsockname()[1]
    # It makes its own socket: with one that is handed over, its answers would wait for Nagle's algorithm.
    command = [sys.executable, "-m", "uvicorn", "bench.bare:app", "--port", str(port)]
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    process = subprocess.Popen([*command, *options], env=os.environ | {"DATABASE_URL": database_url})
    try:
        wait_until_up(url)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(10)


def wait_until_up(url: str) -> None:
    for _ in range(TRIES):
        try:
            httpx.get(f"{url}/no/such", trust_env=False, timeout=0.2)
        except httpx.HTTPError:
            sleep(0.05)
            continue
        return
    raise RuntimeError(f"nothing answers at {url}")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.front", description=__doc__)
    parser.add_argument("--streams", type=int, default=STREAMS, help="streams to open on one process")
    parser.add_argument("--clients", type=int, default=32, help="connections that read statuses")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of one turn of reading")
    parser.add_argument("--turns", type=int, default=TURNS, help="turns of each server")
    parser.add_argument("--idle", type=float, default=20.0, help="seconds with the streams open")
    return parser.parse_args()


async def main_async(url: str, pid: int, database_url: str, options: argparse.Namespace) -> list[str]:
    """Returns what was not as it has to be."""
    jobs = await make_jobs(database_url, options.streams)
    path = f"/fal/queue/{MODEL}/requests/{jobs[0]}/status"
    with bare_server(database_url) as (bare_url, bare_pid):
        ours, bare = [], []
        spent = cpu_seconds({"ours": pid, "bare": bare_pid})
        for turn in range(options.turns):
            tell(f"Reading statuses, turn {turn + 1} of {options.turns} …")
            bare.append(await reads_a_second(bare_url, f"/{jobs[0]}", options.clients, options.seconds))
            ours.append(await reads_a_second(url, path, options.clients, options.seconds))
        used = cpu_seconds({"ours": pid, "bare": bare_pid})
    cost = {name: (used[name] - spent[name]) * 1_000 for name in used}
    ratio = f"{median(ours) / median(bare):.2f}"
    counts = {"ours": sum(ours) * options.seconds, "bare": sum(bare) * options.seconds}
    print(
        report.table(
            [
                (f"status reads, {options.clients} connections", "/fal/…/status", "bare Starlette + asyncpg", "ratio"),
                (
                    "reads/s, median",
                    f"{median(ours):,.0f}",
                    f"{median(bare):,.0f}",
                    ratio,
                ),
                ("CPU ms a read", *(f"{cost[name] / counts[name]:.3f}" for name in ("ours", "bare")), ""),
            ]
        )
    )
    tell(f"Opening {options.streams} streams …")
    before = memory_bytes({"api": pid})["api"]
    async with open_streams(url, jobs):
        opened = memory_bytes({"api": pid})["api"]
        await asyncio.sleep(PUBLISHED_AFTER_SECONDS)
        told, used = await statements(database_url), cpu_seconds({"api": pid})["api"]
        await asyncio.sleep(options.idle)
        commits = await statements(database_url) - told
        busy = cpu_seconds({"api": pid})["api"] - used
        await asyncio.sleep(PUBLISHED_AFTER_SECONDS)
        later = memory_bytes({"api": pid})["api"]
    rows = [
        (f"{options.streams:,} open status streams on one process", "before", "open", f"after {options.idle:g} s"),
        ("memory (PSS), MB", *(f"{amount / 1e6:.0f}" for amount in (before, opened, later))),
        ("transactions a second, all processes", "", "", f"{commits / options.idle:.1f}"),
        ("CPU of the API, %", "", "", f"{busy / options.idle * 100:.1f}"),
    ]
    print(f"\n{report.table(rows)}", flush=True)
    if options.streams < STREAMS or options.seconds < SECONDS or options.turns < TURNS:
        return []
    failures = []
    if median(ours) < LEAST_RATIO * median(bare):
        failures.append(f"status reads: less than {LEAST_RATIO} of the bare handler's")
    if (most := max(opened, later)) > MOST_MEMORY:
        failures.append(f"open streams: {most / 1e6:.0f} MB are more than {MOST_MEMORY / 1e6:.0f} MB")
    return failures


def main() -> None:
    options = read_options()
    machine, failures = report.machine(), ["stopped before the end"]
    with until_stopped(), data_directory() as data, running_provider() as provider_url:
        tell("Starting the service …")
        with running(settings_for(data, provider_url), port=0) as service:
            pid = service.supervisor.children["api"].pid or 0
            print(f"{machine}\n")
            failures = uvloop.run(main_async(service.url, pid, service.database_url, options))
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
