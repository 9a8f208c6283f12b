"""One run: start everything, load it while the schedule runs, let it settle, look at all of it."""

import asyncio
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from faults import checks, clocks, evidence
from faults.disk import Disk, disk_under
from faults.evidence import Evidence
from faults.findings import Finding
from faults.forging import Forger
from faults.history import History, Json
from faults.injecting import Injector
from faults.load import Client, Load
from faults.orders import make_orders
from faults.processes import Service, started
from faults.schedule import Fault, make_schedule
from service.artifacts import copying, decoders
from service.local.stopping import Stopped

LONG_AGO_SECONDS = 7_200
# By its own limits a copy may take as long as this: its download, its decoders, and its lease if its worker died.
DECODING_SECONDS = (len(copying.PAUSES) + 1) * decoders.WALL_SECONDS + sum(copying.PAUSES)
COPY_SECONDS = copying.COPY_SECONDS + DECODING_SECONDS + copying.LEASE_SECONDS
COPIES_SECONDS = 300.0
SPOOL_SECONDS = 45.0
LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Size:
    """`seconds` is how long the faults and the load last."""

    jobs: int
    seconds: float
    kills: int
    forged: int
    readers: int
    bound: float = 60.0


@dataclass(frozen=True)
class Run:
    seed: int
    size: Size
    schedule: list[Fault]
    history: History
    evidence: Evidence
    findings: list[Finding]
    disk: str
    # How long after the last fault the last job ended.
    settled: float

    @property
    def red(self) -> list[Finding]:
        return [each for each in self.findings if each.red]


@contextmanager
def folders(seed: int) -> Iterator[tuple[Path, Path]]:
    """Where the servers live, which goes at the end, and where what was seen is kept, which stays."""
    data = Path(tempfile.mkdtemp(prefix="roundtrip-faults-"))
    data.chmod(0o711)  # PostgreSQL runs as another account when we are root, and has to get in.
    logs = Path(tempfile.mkdtemp(prefix=f"roundtrip-faults-{seed}-seen-"))
    try:
        yield data, logs
    except Stopped:
        shutil.rmtree(logs)
        raise
    finally:
        shutil.rmtree(data, ignore_errors=True)


async def carry_out(
    service: Service,
    disk: Disk,
    history: History,
    seed: int,
    size: Size,
    schedule: list[Fault],
    needed: Sequence[Json],
) -> Run:
    orders = {order.number: order for order in make_orders(seed, size.jobs, needed)}
    async with AsyncExitStack() as stack:
        for edge in service.edges.values():
            await edge.open()
            stack.push_async_callback(edge.close)
        ports = {name: edge.port for name, edge in service.edges.items()}
        history.note("addresses", sandbox=service.sandbox_url, api=service.api_url, ports=ports)
        await service.ready()
        client, after = Client(service.client_url, service.admin_key), Client(service.api_url, service.admin_key)
        stack.push_async_callback(client.close)
        stack.push_async_callback(after.close)
        load = Load(client, history, seed)
        forger = Forger(service.sandbox_url, service.journal, history, load, seed)
        await forger.open()
        stack.push_async_callback(forger.close)
        injector = Injector(service, disk, history)

        reading = await stack.enter_async_context(readers(load, size.readers))
        history.note("load", phase="began")
        async with asyncio.TaskGroup() as group:
            registering = group.create_task(load.register_all(list(orders.values()), size.seconds))
            forging = group.create_task(forger.forge(size.forged, size.seconds))
            await injector.carry_out(schedule)
            await injector.heal()
            history.note("load", phase="healed")
            healed = time.time()
            # By now all clients are served; one that is not does not hold the run up.
            await asyncio.wait([registering, forging], timeout=size.bound)
            registering.cancel()
            forging.cancel()
        await settle(service, healed + size.bound)
        settled = time.time() - healed
        history.note("load", phase="settled")
        await end(reading)
        await load.read_all()
        await copies_made(service)
        history.note("load", phase="copied")
        left = await parts_left(service)
        history.note("load", phase="cleared")
        rows = await evidence.read_rows(service.database_url)
        served = await evidence.read_served(after, rows["artifacts"])
    seen = Evidence(
        orders=orders,
        history={what: history.of(what) for what in ("register", "read", "forged", "fault", "cancel")},
        rows=rows,
        journal=evidence.read_journal(service.journal),
        files=evidence.read_store(service.artifacts),
        served=served,
        parts_left=left,
        healed=healed,
        bound=size.bound,
    )
    keep_rows(history.folder / "rows.jsonl", rows)
    return Run(seed, size, schedule, history, seen, checks.check(seen), disk.how, settled)


@asynccontextmanager
async def readers(load: Load, count: int) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.create_task(load.read_for_ever()) for _ in range(count)]
    try:
        yield tasks
    finally:
        await end(tasks)


async def end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def keep_rows(path: Path, rows: Mapping[str, Sequence[Json]]) -> None:
    """What the database held at the end, for who looks into a failure."""
    with path.open("w") as file:
        for table, listed in rows.items():
            file.writelines(json.dumps({"table": table, **row}, default=repr) + "\n" for row in listed)


async def settle(service: Service, until: float) -> None:
    """Until every job that the database has is over, or the time is."""

    async def all_over() -> bool:
        with suppress(OSError, TimeoutError, asyncpg.TooManyConnectionsError):
            return not await evidence.count(service.database_url, "live_jobs")
        return False

    await wait_for(all_over, until - time.time())


async def copies_made(service: Service) -> None:
    """Until no copy is owed soon, or none is made for a while: one that fails is tried more and more seldom."""
    left = await evidence.count(service.database_url, "copies")
    made = time.monotonic()

    async def none_owed() -> bool:
        nonlocal left, made
        now = await evidence.count(service.database_url, "copies")
        if now < left:
            left, made = now, time.monotonic()
        stuck = time.monotonic() - made > COPY_SECONDS
        return stuck or not await evidence.count(service.database_url, "owed_soon")

    await wait_for(none_owed, COPIES_SECONDS)


async def parts_left(service: Service) -> list[str]:
    """What killed workers left is cleared an hour later at a worker's start: make it old, and start one."""

    async def none_left() -> bool:
        return not evidence.parts_in(service.artifacts)

    if not await none_left():
        await service.kill("worker-1")
        for part in (service.artifacts / "spool").glob("*"):
            with suppress(FileNotFoundError):
                os.utime(part, (time.time() - LONG_AGO_SECONDS,) * 2)
        await wait_for(none_left, SPOOL_SECONDS)
    return evidence.parts_in(service.artifacts)


async def wait_for(done: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Until it is done, or the time is over."""
    last = time.monotonic() + seconds
    while not await done():
        await asyncio.sleep(LOOK_SECONDS)
        if time.monotonic() > last:
            return


async def until_stopped(work: Coroutine[Any, Any, Run]) -> Run:
    """Ctrl-C and SIGTERM end the work from within the loop: raised in one of its callbacks, it would swallow them."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise Stopped from None
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def run(seed: int, size: Size, plants: tuple[str, ...] = (), needed: Sequence[Json] = ()) -> Run:
    """All of it. Nothing is left running, whatever happens; the folder of the history stays.

    `needed` is the provider's misbehaviour without which a planted bug does nothing.
    """
    schedule = make_schedule(seed, size.seconds, size.kills, clocks=clocks.library() is not None)
    with folders(seed) as (data, logs), disk_under(data / "artifacts") as disk:
        history = History(logs)
        try:
            history.note("run", seed=seed, size=vars(size), plants=plants, schedule=[str(fault) for fault in schedule])
            with started(data, logs, data / "artifacts", plants) as service:
                return uvloop.run(until_stopped(carry_out(service, disk, history, seed, size, schedule, needed)))
        finally:
            history.close()
