"""How the figures grow: with clients, open streams, the size of an input, finished jobs, and jobs since the start."""

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import uvloop

from bench import plausible, report
from bench.front import make_jobs, open_streams
from bench.measuring import difference
from bench.processes import cpu_seconds, memory_bytes
from bench.retention import removed_a_second
from bench.stacks import OURS, OWN_PROCESSES, Started, ask_record, calm, started
from bench.workplace import data_directory, tell
from bench.yardstick import Run, Yardstick
from service.keys import SCOPES, create_key
from service.local.listening import listening

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
STREAMS = (0, 10, 100, 300, 1_000)
KILOBYTES = (1, 10, 100, 1_000, 5_000)
# Of one size, so that the largest inputs take no more time than the smallest.
MOST_BYTES = 200 * 10**6
FEWEST_JOBS = 20
PARTS = 10

# Whose jobs those beside a large record are.
TENANT = "bench"
EMPTY = "empty"

REMOVAL_HEADS = ("removed, jobs/s", "of empty", "the oldest removed, jobs/s")
HEADS = ("jobs/s", "CPU ms a job", "registration p50 / p99, ms", "end to end p50 / p99, ms")

Row = tuple[str, ...]
Cost = Mapping[str, float]


class Incomplete(Exception):
    """A job did not come round, so that the figures say nothing."""


def draw(options: argparse.Namespace) -> int:
    """Print each table that was asked for. 1 if a job did not come round."""
    print(f"{report.machine()}\n", flush=True)
    with listening("127.0.0.1", 0) as listener:
        yardstick = Yardstick(listener)
        for name in options.growth:
            tell(f"Growth with {name} …")
            try:
                rows = _rows(yardstick, options) if name == "rows" else _curve(CURVES[name], yardstick, options)
            except Incomplete as error:
                tell(f"{name}: {error}")
                return 1
            print(f"{report.table(rows)}\n", flush=True)
    return 0


async def clients(yardstick: Yardstick, stack: Started, options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = [("clients", *HEADS)]
    for number in CLIENTS:
        # One alone would take long for as many jobs.
        jobs = min(options.jobs, 100 + 150 * number)
        rows.append((f"{number}", *await _closed(yardstick, stack, f"clients{_letters(number)}", jobs, number)))
    return rows


async def streams(yardstick: Yardstick, stack: Started, options: argparse.Namespace) -> list[Row]:
    """Streams of jobs that nothing happens to, beside the load."""
    rows: list[Row] = [("open streams", *HEADS, f"end to end at {options.rate:g}/s p50 / p99, ms", "API's PSS, MB")]
    held = await make_jobs(stack.database_url, max(STREAMS))
    for number in STREAMS:
        async with AsyncExitStack() as opened:
            if number:
                await opened.enter_async_context(open_streams(stack.target.url, held[:number]))
            row = await _closed(yardstick, stack, f"streams{_letters(number)}", options.jobs, options.clients)
            slow = await yardstick.open_loop(f"slow{_letters(number)}", options.rate, options.seconds)
            pss = memory_bytes({"api": stack.pids["api"]})["api"]
        rows.append((f"{number:,}", *row, report.percentiles(slow.ends), report.megabytes([pss])))
    return rows


async def payload(yardstick: Yardstick, stack: Started, options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = [("input, KB", *HEADS)]
    for kilobytes in KILOBYTES:
        size, most = kilobytes * 1_000, min(options.clients, 8)
        jobs = min(options.jobs, max(FEWEST_JOBS, MOST_BYTES // size))
        rows.append(
            (f"{kilobytes:,}", *await _closed(yardstick, stack, f"payload{_letters(kilobytes)}", jobs, most, size))
        )
    return rows


async def memory(yardstick: Yardstick, stack: Started, options: argparse.Namespace) -> list[Row]:
    """In ten parts, to show whether it is flat."""

    def row(jobs: int, rate: str) -> Row:
        sizes = memory_bytes(stack.pids)
        own = [sizes[part] for part in OWN_PROCESSES]
        columns = ([size] for size in (*own, sum(own), sizes["postgres"]))
        return (f"{jobs:,}", *map(report.megabytes, columns), rate)

    part = max(1, options.memory_jobs // PARTS)
    rows: list[Row] = [("jobs so far", *OWN_PROCESSES, "together, PSS in MB", "postgres", "jobs/s")]
    rows.append(row(options.warm_up, ""))
    for number in range(PARTS):
        run = await yardstick.closed_loop(f"memory{_letters(number)}", part, options.clients)
        _check(run, part)
        rows.append(row(options.warm_up + (number + 1) * part, f"{run.jobs_a_second:,.0f}"))
    return rows


Curve = Callable[[Yardstick, Started, argparse.Namespace], Awaitable[list[Row]]]
CURVES: dict[str, Curve] = {"clients": clients, "streams": streams, "payload": payload, "memory": memory}
NAMES = (*CURVES, "rows")


def _curve(curve: Curve, yardstick: Yardstick, options: argparse.Namespace) -> list[Row]:
    """On a service of its own, with an empty database."""

    async def drawn(stack: Started) -> list[Row]:
        async with _warm(yardstick, stack, options):
            return await curve(yardstick, stack, options)

    with data_directory() as place, started(OURS, place / "data", yardstick.url) as stack:
        return uvloop.run(drawn(stack))


@dataclass(frozen=True)
class Filled:
    """What a database with so many finished jobs did: jobs a second, and how many old ones it removed."""

    name: str
    finished: int
    figures: Row
    rate: float
    removed: float
    oldest_removed: float | None


def _rows(yardstick: Yardstick, options: argparse.Namespace) -> list[Row]:
    """An empty database, then those that were named, then an empty one again.

    The bench's jobs are a tenant's own, and are removed in the end; so are as many of the oldest that were there.
    """

    async def put(name: str, stack: Started) -> Filled:
        finished = await ask_record(stack.database_url, "SELECT count(*) FROM outcomes")
        key = await create_key(stack.database_url, TENANT, SCOPES)
        stack = replace(stack, target=replace(stack.target, headers=f"Authorization: Key {key}\r\n"))
        async with _warm(yardstick, stack, options):
            cost: dict[str, float] = {}
            async with _measured(stack, cost):
                # Smaller rows than those that lie there would go into the room that old pages have left, each its own.
                run = await yardstick.closed_loop("rows", options.jobs, options.clients, rich=True)
            _check(run, options.jobs)
            # Else it is the counting of these jobs that is waited for.
            await calm(stack)
            if await ask_record(stack.database_url, "SELECT count(*) FROM uncounted"):
                tell(f"{name}: not all jobs are counted yet, so removing whole jobs waits for those who count them")
            removed = [
                await removed_a_second(stack.database_url, tenant, options.jobs)
                for tenant in (TENANT, *([plausible.TENANTS[0][0]] if finished else []))
            ]
        figures = _figures(run, options.jobs, cost)
        return Filled(name, finished, figures, run.jobs_a_second, removed[0], removed[1] if finished else None)

    found: list[Filled] = []
    with data_directory() as place:
        for where in ("", *options.rows_of, ""):
            address = where if "://" in where else None
            data = Path(where) if where and address is None else place / f"data-{len(found)}"
            words = ("its address" if address else where) or EMPTY
            with started(OURS, data, yardstick.url, database_url=address) as stack:
                found.append(uvloop.run(put(words, stack)))
    rate, removed = (mean(getattr(each, name) for each in found if each.name == EMPTY) for name in ("rate", "removed"))
    rows: list[Row] = [("database", "finished jobs", *HEADS, "jobs/s, of empty", *REMOVAL_HEADS)]
    for each in found:
        oldest = f"{each.oldest_removed:,.0f}" if each.oldest_removed is not None else ""
        removals = (f"{each.removed:,.0f}", f"{each.removed / removed:.2f}", oldest)
        rows.append((each.name, f"{each.finished:,}", *each.figures, f"{each.rate / rate:.2f}", *removals))
    return rows


@asynccontextmanager
async def _warm(yardstick: Yardstick, stack: Started, options: argparse.Namespace) -> AsyncIterator[None]:
    await calm(stack)
    async with yardstick.session(stack.target):
        await yardstick.closed_loop("warm", options.warm_up, options.clients)
        yield
    if stack.died:
        raise Incomplete("; ".join(stack.died))


async def _closed(yardstick: Yardstick, stack: Started, phase: str, jobs: int, clients: int, size: int = 0) -> Row:
    cost: dict[str, float] = {}
    async with _measured(stack, cost):
        run = await yardstick.closed_loop(phase, jobs, clients, size)
    _check(run, jobs)
    return _figures(run, jobs, cost)


@asynccontextmanager
async def _measured(stack: Started, cost: dict[str, float]) -> AsyncIterator[None]:
    before = cpu_seconds(stack.pids)
    yield
    cost.update(difference(cpu_seconds(stack.pids), before))


def _figures(run: Run, jobs: int, cost: Cost) -> Row:
    return (
        f"{run.jobs_a_second:,.0f}",
        f"{sum(cost.values()) * 1_000 / jobs:.2f}",
        report.percentiles(run.registrations),
        report.percentiles(run.ends),
    )


def _check(run: Run, jobs: int) -> None:
    if run.heard < jobs:
        raise Incomplete(f"of {jobs} jobs {run.heard} came round: {' '.join(run.refusals[:3])}")


def _letters(number: int) -> str:
    """A phase's name holds letters only."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))
