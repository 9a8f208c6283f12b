"""How long each question of a list takes, in turns on several records of different size.

`python -m bench.questions --data SMALL --data LARGE`, of data directories that `bench.load` has filled: each gets an
API process of its own on its embedded PostgreSQL, and is asked over HTTP. Nothing is asserted, the figures are printed.
Half of the times a question is asked of the newest jobs, and half of those before or after some moment; each time with
other words, and then once more the same, when all that it reads has just been read. `--work` tells as well what no
other work of the machine can change: CPU time, and pages that PostgreSQL looked at.
"""

import argparse
import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from aiohttp import ClientSession, ClientTimeout

from bench import plausible, report
from bench.processes import cpu_seconds
from bench.workplace import filled, tell
from service.jobs.cursors import Cursor, first_id, make_cursor
from service.keys import create_key
from service.local.directory import DataDirectory
from service.local.listening import address, listening
from service.local.servers import supervised
from service.local.stopping import until_stopped
from service.local.up import program, wait_until_ok
from service.migrate import upgrade

Query = dict[str, str]

WARM_UP = 5
FLUSHED_AFTER_SECONDS = 11.0


@dataclass(frozen=True)
class Work:
    """Pages of 8 KB that PostgreSQL looked at, and seconds of CPU time."""

    pages: float
    api_seconds: float
    postgres_seconds: float

    def since(self, before: "Work", times: int) -> "Work":
        """For one of so many times."""
        return Work(
            (self.pages - before.pages) / times,
            (self.api_seconds - before.api_seconds) / times,
            (self.postgres_seconds - before.postgres_seconds) / times,
        )


@dataclass
class Record:
    """A filled database behind an API process."""

    name: str
    url: str
    key: str
    newest: datetime
    jobs: int
    # Of the API and of PostgreSQL.
    pids: Mapping[str, int]
    database_url: str
    # By question, seconds.
    took: dict[str, list[float]] = field(default_factory=dict)
    took_again: dict[str, list[float]] = field(default_factory=dict)
    found: dict[str, list[int]] = field(default_factory=dict)
    # By question, for one time that it is asked.
    work: dict[str, Work] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.pids["api"]

    async def worked(self) -> Work:
        """Since the start. Sessions tell what they read when they have been idle for ten seconds."""
        connection = await asyncpg.connect(self.database_url)
        try:
            statement = "SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = current_database()"
            pages = await connection.fetchval(statement)
        finally:
            await connection.close()
        spent = cpu_seconds(self.pids)
        return Work(pages, spent["api"], spent["postgres"])


def one(random: random.Random, words: tuple[Any, ...]) -> str:
    word = random.choice(words)
    return str(word[0] if isinstance(word, tuple) else word)


# What a client asks, by what is drawn for it; the number of jobs is given for names that grow in number with it.
QUESTIONS: dict[str, Callable[[random.Random, int], Query]] = {
    "no filter": lambda random, jobs: {},
    "200 a page": lambda random, jobs: {"limit": "200"},
    "status=completed": lambda random, jobs: {"status": "completed"},
    "status=failed": lambda random, jobs: {"status": "failed"},
    "status=failed,cancelled,queued": lambda random, jobs: {"status": "failed,cancelled,queued"},
    "status=queued": lambda random, jobs: {"status": "queued"},
    "model, any": lambda random, jobs: {"model": one(random, plausible.MODELS)},
    "provider=local": lambda random, jobs: {"provider": "local"},
    "error_type, any": lambda random, jobs: {"error_type": one(random, plausible.ERRORS)},
    "tag, frequent": lambda random, jobs: {"tag": one(random, plausible.TAGS)},
    "tag, rare": lambda random, jobs: {"tag": plausible.campaign(random, jobs)},
    "metadata.customer": lambda random, jobs: {"metadata.customer": plausible.customer(random, jobs)},
    "metadata.order, of one job": lambda random, jobs: {"metadata.order": str(4 * random.randrange(1, jobs // 4))},
    "mask_label, frequent": lambda random, jobs: {"mask_label": "a white car"},
    "mask_label, rare": lambda random, jobs: {"mask_label": plausible.plate(random, jobs)},
    "mask_label and mask_area_min": lambda random, jobs: {"mask_label": "a white car", "mask_area_min": "0.5"},
    "mask_area_min=0.95": lambda random, jobs: {"mask_area_min": "0.95"},
    "total_seconds_min=20": lambda random, jobs: {"total_seconds_min": "20"},
    "total_seconds_min=200, rare": lambda random, jobs: {"total_seconds_min": "200"},
    "queued_seconds_min and _max": lambda random, jobs: {"queued_seconds_min": "0.1", "queued_seconds_max": "0.2"},
    "usage.completion_tokens_min=400": lambda random, jobs: {"usage.completion_tokens_min": "400"},
    "timings.model.inference_min=30": lambda random, jobs: {"timings.model.inference_min": "30"},
    "cost_min=0.05": lambda random, jobs: {"cost_min": "0.05"},
    "q, frequent": lambda random, jobs: {"q": "truck"},
    "q, rare": lambda random, jobs: {"q": "striped theremin under"},
    "status, model and tag": lambda random, jobs: {
        "status": "failed",
        "model": one(random, plausible.MODELS[:5]),
        "tag": one(random, plausible.TAGS),
    },
    "tag and total_seconds_min": lambda random, jobs: {"tag": "shop", "total_seconds_min": "10"},
    "model and provider and cost_max": lambda random, jobs: {
        "model": one(random, plausible.MODELS[:5]),
        "provider": "fal",
        "cost_max": "0.002",
    },
    "model, and a usage that it does not have": lambda random, jobs: {
        "model": plausible.UPSCALER,
        "usage.completion_tokens_min": "1",
    },
}


def anywhere(question: str, draw: random.Random, record: Record) -> Query:
    """Each second one is about another time; of these each second one goes back towards newer jobs."""
    query = QUESTIONS[question](draw, record.jobs)
    kind = draw.randrange(4)
    moment = record.newest - timedelta(days=plausible.DAYS * 0.98 * draw.random() + 0.5)
    if kind == 0:
        return query | {"created_before": moment.isoformat()}
    if kind == 1:
        return query | {"cursor": make_cursor(Cursor(first_id(moment), newer=True))}
    return query


async def measure(
    records: list[Record],
    path: str,
    parts: str,
    questions: Mapping[str, Callable[[random.Random, Record], Query]],
    times: int,
    *,
    work: bool = False,
) -> None:
    """`parts` is the list in an answer whose length says what was found."""

    async def ask(record: Record, query: Query) -> tuple[float, int]:
        begun = time.perf_counter()
        headers = {"authorization": f"Key {record.key}"}
        async with http.get(f"{record.url}{path}", params=query, headers=headers) as response:
            content = await response.json()
        if response.status != 200:
            raise RuntimeError(f"{query}: {response.status} {content}")
        return time.perf_counter() - begun, len(content[parts])

    async with ClientSession(timeout=ClientTimeout(total=60)) as http:
        for question, asked in questions.items():
            tell(question)
            before = [await record.worked() for record in records] if work else []
            for record in records:
                # Connections are opened, and statements prepared.
                for turn in range(WARM_UP):
                    await ask(record, asked(random.Random(turn), record))
            for turn in range(times):
                for record in records if turn % 2 else records[::-1]:
                    # The same draws for each record.
                    query = asked(random.Random(f"{question}{turn}"), record)
                    seconds, found = await ask(record, query)
                    again, _ = await ask(record, query)
                    record.took.setdefault(question, []).append(seconds)
                    record.took_again.setdefault(question, []).append(again)
                    record.found.setdefault(question, []).append(found)
            if work:
                await asyncio.sleep(FLUSHED_AFTER_SECONDS)
                for record, was in zip(records, before, strict=True):
                    record.work[question] = (await record.worked()).since(was, WARM_UP + 2 * times)


def table(records: list[Record]) -> str:
    """Percentiles 50 / 95 in milliseconds, and the ratio of those of the last record to those of the first."""
    sizes = [f"{record.jobs:,} jobs" for record in records]
    rows = [["question", *sizes, "ratio", *(f"{size}, again" for size in sizes), "ratio", "found"]]
    for question in records[0].took:
        cells = [f"`{question}`"]
        for took in (
            [record.took[question] for record in records],
            [record.took_again[question] for record in records],
        ):
            both = [[report.percentile(each, part) * 1_000 for part in (0.5, 0.95)] for each in took]
            cells += [f"{half:.1f} / {most:.1f}" for half, most in both]
            cells.append(" / ".join(f"{large / small:.2f}" for small, large in zip(both[0], both[-1], strict=True)))
        found = (sum(record.found[question]) / len(record.found[question]) for record in records)
        rows.append([*cells, " / ".join(f"{each:.0f}" for each in found)])
    return report.table(rows)


def work_table(records: list[Record]) -> str:
    """What one question costs each record, and the ratio of the last to the first."""
    parts: dict[str, Callable[[Work], float]] = {
        "pages of 8 KB": lambda work: work.pages,
        "PostgreSQL's CPU, ms": lambda work: work.postgres_seconds * 1_000,
        "the API's CPU, ms": lambda work: work.api_seconds * 1_000,
    }
    heads = [f"{name}: {' / '.join(f'{record.jobs:,} jobs' for record in records)}" for name in parts]
    rows = [["question", *(head for each in heads for head in (each, "ratio")), "found"]]
    for question in records[0].work:
        cells = [f"`{question}`"]
        for part in parts.values():
            amounts = [part(record.work[question]) for record in records]
            cells += [" / ".join(f"{amount:,.1f}" for amount in amounts), f"{amounts[-1] / max(amounts[0], 1e-9):.2f}"]
        found = (sum(record.found[question]) / len(record.found[question]) for record in records)
        rows.append([*cells, " / ".join(f"{each:.0f}" for each in found)])
    return report.table(rows)


@contextmanager
def serving(data: Path) -> Iterator[Record]:
    """An API process on the data directory's own PostgreSQL, and nobody else who would work there."""
    with ExitStack() as stack:
        directory = DataDirectory(data)
        supervisor, prepare = stack.enter_context(supervised(directory))
        listener = stack.enter_context(listening("127.0.0.1", 0))
        servers = prepare()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ROUNDTRIP_")}
        database_url = environment["ROUNDTRIP_DATABASE_URL"] = servers.postgres()
        upgrade(database_url)
        environment["ROUNDTRIP_BROKER_URL"] = servers.valkey()
        environment["ROUNDTRIP_DATA"] = str(directory.path)
        environment["ROUNDTRIP_PUBLIC_URL"] = url = address(listener)
        supervisor.start(program("api", environment, listener))
        wait_until_ok(supervisor, f"{url}/healthz", what="the API")
        key = asyncio.run(create_key(database_url, plausible.TENANTS[0][0], ["read"]))
        newest, jobs = asyncio.run(extent(database_url))
        pids = {name: pid for name in ("api", "postgres") if (pid := supervisor.children[name].pid) is not None}
        yield Record(data.name, url, key, newest, jobs, pids, database_url)


async def extent(database_url: str) -> tuple[datetime, int]:
    connection = await asyncpg.connect(database_url)
    try:
        newest = await connection.fetchval("SELECT created_at FROM jobs ORDER BY id DESC LIMIT 1")
        if newest is None:
            raise SystemExit("There are no jobs in this record.")
        jobs = await connection.fetchval("SELECT reltuples::bigint FROM pg_class WHERE oid = 'jobs'::regclass")
        return newest.astimezone(UTC), jobs
    finally:
        await connection.close()


def read_options(program: str, description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument(
        "--data", type=filled, action="append", required=True, help="a filled data directory; repeat it"
    )
    parser.add_argument("--times", type=int, default=60, help="each question is asked of each record")
    parser.add_argument("--only", default="", help="questions with this in their name")
    parser.add_argument("--work", action="store_true", help="count pages and CPU time, too: 11 s more a question")
    return parser.parse_args()


def main() -> None:
    options = read_options("bench.questions", __doc__)
    machine = report.machine()
    with until_stopped(), ExitStack() as stack:
        records = [stack.enter_context(serving(data)) for data in options.data]
        questions = {name: partial(anywhere, name) for name in QUESTIONS if options.only in name}
        uvloop.run(measure(records, "/v1/jobs", "jobs", questions, options.times, work=options.work))
        print(f"{machine}\n\n{table(records)}", flush=True)
        if options.work:
            print(f"\n{work_table(records)}", flush=True)


if __name__ == "__main__":
    main()
