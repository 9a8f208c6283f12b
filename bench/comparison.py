"""The same work on Roundtrip and its peers, in turns, so that what else the machine does hits all of them."""

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from time import process_time

import uvloop

from bench import report
from bench.counters import PUBLISHED_AFTER_SECONDS, Counters
from bench.measuring import difference
from bench.processes import cpu_seconds, memory_bytes
from bench.stacks import (
    FLOOR,
    NAMES,
    OURS,
    OWN_PROCESSES,
    Started,
    ask_record,
    calm,
    completed_statement,
    server_of,
    started,
)
from bench.workplace import data_directory, tell
from bench.yardstick import Run, Yardstick
from service.local.listening import listening

WEBHOOKS_A_SECOND = 200.0
# A stack may have more to do with a job once its webhook has been answered.
RECORD_SECONDS = 20.0


class Stuck(Exception):
    """A stack does no work at all, so that going on would only take time."""


@dataclass
class Turn:
    """What one stack did in one turn, by the name of the measure."""

    stack: str
    server: str = ""
    load_average: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)


def compare(options: argparse.Namespace) -> int:
    """Print the tables. 1 if a job of Roundtrip's was lost, submitted twice, or one of its processes died."""
    print(f"{report.machine()}\n", flush=True)
    turns: list[Turn] = []
    with data_directory() as place, listening("127.0.0.1", 0) as listener:
        yardstick = Yardstick(listener)
        for number in range(options.rounds):
            # There and back, so that nobody always follows the same one.
            for name in options.stacks[:: -1 if number % 2 else 1]:
                tell(f"Round {number + 1} of {options.rounds}: {name} …")
                # What the one before has left to be written is not written in this turn.
                os.sync()
                data = place / name.lower()
                with started(name, data, yardstick.url) as stack:
                    last = number == options.rounds - 1
                    turns.append(uvloop.run(take_turn(name, stack, yardstick, options, last)))
    names = [name for name in NAMES if name in options.stacks]
    found = {name: summary([turn.figures for turn in turns if turn.stack == name]) for name in names}
    print(f"{turns_line(turns, options)}\n\n{figures_table(found)}\n\n{goals_table(found)}", flush=True)
    for turn in turns:
        for trouble in turn.troubles:
            tell(f"{turn.stack}: {trouble}")
    return int(any(turn.troubles for turn in turns if turn.stack == OURS))


async def take_turn(name: str, stack: Started, yardstick: Yardstick, options: argparse.Namespace, last: bool) -> Turn:
    turn = Turn(name, await server_of(stack.database_url), os.getloadavg()[0])
    try:
        async with yardstick.session(stack.target):
            await _measure(turn, stack, yardstick, options, last)
    except Stuck as stuck:
        turn.troubles.append(f"given up: {stuck}")
    turn.troubles += stack.died
    return turn


async def _measure(turn: Turn, stack: Started, yardstick: Yardstick, options: argparse.Namespace, last: bool) -> None:
    """What takes long, and hardly differs from turn to turn, is measured in the `last`. Raises Stuck."""
    figures, record = turn.figures, _Record(turn.stack, stack)
    counted = partial(_counted if last and not options.quick else _not_counted, stack, figures, options.settle)
    await record.begin()
    await calm(stack)
    run = await yardstick.closed_loop("warm", options.warm_up, options.clients)
    await record.check(run, options.warm_up)

    async with counted("closed", options.jobs):
        with spent(stack, figures, "closed", options.jobs):
            run = await yardstick.closed_loop("closed", options.jobs, options.clients)
    figures["closed driver share"] = run.own_cpu_seconds * run.jobs_a_second / options.jobs
    figures["closed jobs/s"] = run.jobs_a_second
    _percentiles(figures, "closed end to end", run.ends)
    figures["memory all"] = sum(memory_bytes(stack.pids).values()) / 1e6
    own = {part: pid for part, pid in stack.pids.items() if part in OWN_PROCESSES}
    figures["memory own"] = sum(memory_bytes(own).values()) / 1e6
    turn.troubles += await record.check(run, options.jobs)

    # What is done with ended jobs once in a while is not the next phase's.
    await calm(stack)
    jobs = max(1, round(options.rate * options.seconds))
    async with counted("open", jobs):
        with spent(stack, figures, "open", jobs):
            run = await yardstick.open_loop("open", options.rate, options.seconds)
    _percentiles(figures, "open end to end", run.ends)
    _percentiles(figures, "open registration", run.registrations)
    turn.troubles += await record.check(run, jobs)

    run = await yardstick.one_by_one("alone", options.alone)
    _percentiles(figures, "registration alone", run.registrations)
    _percentiles(figures, "alone end to end", run.ends)
    turn.troubles += await record.check(run, options.alone)

    # The bare handler before and after, so that neither of the two has the better minute.
    bare = [await _bare(yardstick, stack, "barea", options)]
    run = await yardstick.webhooks_at("hooks", options.webhooks, WEBHOOKS_A_SECOND)
    _percentiles(figures, "webhook", run.webhooks)
    turn.troubles += await record.check(run, options.webhooks)
    await calm(stack)
    bare.append(await _bare(yardstick, stack, "bareb", options))
    if stack.bare_url is not None:
        _percentiles(figures, "bare webhook", [seconds for each in bare for seconds in each])

    if last and turn.stack == OURS:
        await _idle(stack, figures, options.idle)


@asynccontextmanager
async def _counted(
    stack: Started, figures: dict[str, float], settle: float, phase: str, jobs: int
) -> AsyncIterator[None]:
    """Transactions a job, with what the stack does of itself meanwhile and until they are published."""
    async with Counters(stack.database_url, None) as counters:
        await asyncio.sleep(settle)
        before = await counters.read()
        yield
        await asyncio.sleep(settle)
        figures[f"{phase} transactions"] = (await counters.read() - before).transactions / jobs


@asynccontextmanager
async def _not_counted(*_: object) -> AsyncIterator[None]:
    yield


async def _bare(yardstick: Yardstick, stack: Started, phase: str, options: argparse.Namespace) -> list[float]:
    if stack.bare_url is None:
        return []
    return (await yardstick.posts_at(phase, stack.bare_url, options.webhooks // 2, WEBHOOKS_A_SECOND)).webhooks


async def _idle(stack: Started, figures: dict[str, float], seconds: float) -> None:
    assert stack.broker_url is not None
    async with Counters(stack.database_url, stack.broker_url) as counters:
        await counters.vacuum()
        await asyncio.sleep(PUBLISHED_AFTER_SECONDS)
        counted, used = await counters.read(), cpu_seconds(stack.pids)
        await asyncio.sleep(seconds)
        spent_idle = difference(cpu_seconds(stack.pids), used)
        counts = await counters.read() - counted
    figures["idle CPU"] = sum(spent_idle.values()) / counts.at * 100
    figures["idle transactions"] = counts.transactions / counts.at * 60


class _Record:
    """How many jobs a stack itself says to have completed, against how many it should have."""

    def __init__(self, name: str, stack: Started) -> None:
        self._stack = stack
        self._statement = completed_statement(name)
        self._known = 0

    async def begin(self) -> None:
        """What is there from earlier turns is known."""
        self._known = await ask_record(self._stack.database_url, self._statement)

    async def settle(self, jobs: int) -> int:
        """Waits a while for so many more. Returns how many there are."""
        async with asyncio.timeout(RECORD_SECONDS + 5):
            for _ in range(int(RECORD_SECONDS * 5)):
                found = await ask_record(self._stack.database_url, self._statement)
                if found - self._known >= jobs:
                    break
                await asyncio.sleep(0.2)
        more, self._known = found - self._known, found
        return more

    async def check(self, run: Run, jobs: int) -> list[str]:
        if not run.heard:
            raise Stuck(f"none of {jobs} jobs came round; {' '.join(run.refusals[:3])}")
        found = await self.settle(jobs)
        troubles = [f"a registration failed: {words}" for words in run.refusals[:3]]
        if found < jobs or run.heard < jobs:
            troubles.append(f"of {jobs} jobs {run.heard} were heard of and {found} are in the record as completed")
        if run.submitted_again:
            troubles.append(f"{run.submitted_again} jobs were submitted again")
        if run.turned_away:
            troubles.append(f"{run.turned_away} webhooks had to be posted again")
        return troubles


@contextmanager
def spent(stack: Started, figures: dict[str, float], phase: str, jobs: int) -> Iterator[None]:
    """CPU ms a job of each process, and of the bench itself."""
    before, own = cpu_seconds(stack.pids), process_time()
    yield
    used = difference(cpu_seconds(stack.pids), before)
    for part, seconds in used.items():
        figures[f"{phase} CPU {part}"] = seconds * 1_000 / jobs
    figures[f"{phase} CPU"] = sum(used.values()) * 1_000 / jobs
    figures[f"{phase} CPU driver"] = (process_time() - own) * 1_000 / jobs


def _percentiles(figures: dict[str, float], name: str, seconds: Sequence[float]) -> None:
    for words, share in (("p50", 0.5), ("p99", 0.99)):
        figures[f"{name} {words}"] = report.percentile(seconds, share) * 1_000


def summary(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of all turns, of each measure."""
    names = dict.fromkeys(name for turn in turns for name in turn)
    return {name: median([turn[name] for turn in turns if name in turn]) for name in names}


def turns_line(turns: Sequence[Turn], options: argparse.Namespace) -> str:
    loads = ", ".join(f"{turn.stack} {turn.load_average:.1f}" for turn in turns)
    servers = ", ".join(sorted({turn.server for turn in turns}))
    return (
        f"PostgreSQL {servers}, fsync, full_page_writes and synchronous_commit on. Medians of {options.rounds} rounds; "
        f"load average at the start of each turn: {loads}"
    )


ROWS: tuple[tuple[str, str, str], ...] = (
    ("jobs/s, closed loop", "closed jobs/s", ",.0f"),
    ("CPU ms a job, closed loop", "closed CPU", ".2f"),
    *((f"- {part}", f"closed CPU {part}", ".2f") for part in ("api", "worker", "beat", "postgres", "valkey")),
    ("PostgreSQL transactions a job, closed loop", "closed transactions", ".2f"),
    ("end to end, closed loop, p50 ms", "closed end to end p50", ".0f"),
    ("end to end, closed loop, p99 ms", "closed end to end p99", ".0f"),
    ("CPU ms a job, open loop", "open CPU", ".2f"),
    *((f"- {part}", f"open CPU {part}", ".2f") for part in ("api", "worker", "beat", "postgres", "valkey")),
    ("PostgreSQL transactions a job, open loop", "open transactions", ".2f"),
    ("end to end, open loop, p50 ms", "open end to end p50", ".1f"),
    ("end to end, open loop, p99 ms", "open end to end p99", ".1f"),
    ("registration, open loop, p50 ms", "open registration p50", ".2f"),
    ("registration, open loop, p99 ms", "open registration p99", ".2f"),
    ("registration, one by one, p50 ms", "registration alone p50", ".2f"),
    ("registration, one by one, p99 ms", "registration alone p99", ".2f"),
    ("end to end, one by one, p50 ms", "alone end to end p50", ".1f"),
    ("end to end, one by one, p99 ms", "alone end to end p99", ".1f"),
    (f"webhook's answer at {WEBHOOKS_A_SECOND:.0f}/s, p50 ms", "webhook p50", ".2f"),
    (f"webhook's answer at {WEBHOOKS_A_SECOND:.0f}/s, p99 ms", "webhook p99", ".2f"),
    ("the same of a bare handler, p50 ms", "bare webhook p50", ".2f"),
    ("the same of a bare handler, p99 ms", "bare webhook p99", ".2f"),
    ("memory (PSS) with its servers, MB", "memory all", ".0f"),
    ("memory (PSS) of its own processes, MB", "memory own", ".0f"),
    ("idle: transactions a minute", "idle transactions", ".0f"),
    ("idle: CPU, % of a core", "idle CPU", ".2f"),
    ("the bench itself: CPU ms a job, closed loop", "closed CPU driver", ".2f"),
    ("the bench itself: share of a core, closed loop", "closed driver share", ".2f"),
)


def figures_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """A column a stack."""
    rows = [("", *found)]
    for words, key, shape in ROWS:
        if any(key in figures for figures in found.values()):
            rows.append((words, *(format(each[key], shape) if key in each else "" for each in found.values())))
    return report.table(rows)


@dataclass(frozen=True)
class Goal:
    words: str
    key: str
    # What is compared with: another stack by its name, or a figure of our own, or nothing.
    beside: str | None
    own_key: str | None
    bound: float
    at_least: bool = False

    def row(self, found: Mapping[str, Mapping[str, float]]) -> tuple[str, ...] | None:
        ours = found[OURS].get(self.key)
        other = 1.0 if self.own_key is None and self.beside is None else self._other(found)
        if ours is None or other is None:
            return None
        ratio = ours / other if other else float("nan")
        met = ratio >= self.bound if self.at_least else ratio <= self.bound
        if self.own_key is None and self.beside is None:
            return (self.words, f"{ours:.2f}", "", "", f"≤ {self.bound:g}", "yes" if met else "**no**")
        sign, name = "≥" if self.at_least else "≤", self.beside or "bare handler"
        goal = f"{sign} {self.bound:g} times {name}"
        return (self.words, f"{ours:.2f}", f"{other:.2f}", f"{ratio:.2f}", goal, "yes" if met else "**no**")

    def _other(self, found: Mapping[str, Mapping[str, float]]) -> float | None:
        if self.own_key is not None:
            return found[OURS].get(self.own_key)
        return found.get(self.beside or "", {}).get(self.key)


GOALS = (
    *(
        Goal("jobs/s, closed loop", "closed jobs/s", name, None, times, at_least=True)
        for name, times in ((FLOOR, 0.7), ("Procrastinate", 2), ("Celery", 3), ("DBOS", 9))
    ),
    Goal("CPU ms a job, closed loop", "closed CPU", FLOOR, None, 2),
    Goal("CPU ms a job, open loop", "open CPU", FLOOR, None, 2),
    Goal("end to end, open loop, p50 ms", "open end to end p50", FLOOR, None, 2),
    *(
        Goal("end to end, open loop, p50 ms", "open end to end p50", name, None, 1)
        for name in ("Procrastinate", "Celery", "DBOS")
    ),
    Goal("end to end, open loop, p99 ms", "open end to end p99", FLOOR, None, 2),
    Goal("registration, open loop, p50 ms", "open registration p50", FLOOR, None, 1.5),
    Goal("registration, one by one, p50 ms", "registration alone p50", FLOOR, None, 1.5),
    Goal("webhook's answer, p99 ms", "webhook p99", None, None, 20),
    Goal("webhook's answer, p99 ms", "webhook p99", None, "bare webhook p99", 2),
    Goal("idle: transactions a minute", "idle transactions", None, None, 60),
    Goal("idle: CPU, % of a core", "idle CPU", None, None, 1),
    Goal("memory (PSS) of API, worker and beat, after the closed loop, MB", "memory own", None, None, 300),
)


def goals_table(found: Mapping[str, Mapping[str, float]]) -> str:
    if OURS not in found:
        return ""
    rows = [row for goal in GOALS if (row := goal.row(found)) is not None]
    return report.table([("measure", OURS, "beside", "ratio", "goal", "met"), *rows])
