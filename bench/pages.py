"""How long each page of the dashboard takes, in turns on several records of different size.

`python -m bench.pages --data SMALL --data LARGE`, of data directories that `bench.load` has filled: what is not counted
in one is counted first, then each gets an API process of its own, at whose dashboard an administrator signs in, who
sees all tenants. A page is timed from the request to the last byte. Half of the times it is about the newest jobs, and
half about those of some moment; each time with other words, and then once more the same. Nothing is asserted, the
figures are printed.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta

import asyncpg
import uvloop
from aiohttp import ClientSession, ClientTimeout, CookieJar

from bench import plausible, report
from bench.figures import count
from bench.questions import WARM_UP, Record, one, serving, table
from bench.workplace import filled, tell
from service.jobs.cursors import Cursor, first_id, make_cursor
from service.keys import SCOPES, create_key
from service.local.directory import DataDirectory
from service.local.servers import supervised
from service.local.stopping import until_stopped
from service.migrate import upgrade

Query = dict[str, str]

JOBS, IN, OUT = "/dashboard/jobs", "/dashboard/webhooks/in", "/dashboard/webhooks/out"


@dataclass
class Known:
    """Jobs and reports that there are, from all of the time."""

    jobs: list[str] = field(default_factory=list)
    reports: list[tuple[str, int]] = field(default_factory=list)


def anywhere(draw: random.Random, record: Record, **query: str) -> Query:
    """Each second list is of another time; of these each second one goes back towards newer jobs."""
    kind = draw.randrange(4)
    moment = record.newest - timedelta(days=plausible.DAYS * 0.98 * draw.random() + 0.5)
    if kind == 0:
        return query | {"created_before": moment.isoformat()}
    if kind == 1:
        return query | {"cursor": make_cursor(Cursor(first_id(moment), newer=True))}
    return query


Drawn = Callable[[random.Random, Record, Known], tuple[str, Query]]

PAGES: dict[str, Drawn] = {
    "Home, 24 hours": lambda draw, record, known: ("/dashboard", {}),
    "Home, 7 days": lambda draw, record, known: ("/dashboard", {"range": "7d"}),
    "Home, 30 days": lambda draw, record, known: ("/dashboard", {"range": "30d"}),
    "Home, 90 days": lambda draw, record, known: ("/dashboard", {"range": "90d"}),
    "Home, 12 months": lambda draw, record, known: ("/dashboard", {"range": "12m"}),
    "Home, 24 hours, one tenant": lambda draw, record, known: ("/dashboard", {"tenant": "default"}),
    "Jobs": lambda draw, record, known: (JOBS, anywhere(draw, record)),
    "Jobs, one tenant": lambda draw, record, known: (JOBS, anywhere(draw, record, tenant="default")),
    "Jobs, status": lambda draw, record, known: (JOBS, anywhere(draw, record, status="failed")),
    "Jobs, model": lambda draw, record, known: (JOBS, anywhere(draw, record, model=one(draw, plausible.MODELS))),
    "Jobs, error type": lambda draw, record, known: (
        JOBS,
        anywhere(draw, record, error_type=one(draw, plausible.ERRORS)),
    ),
    "Jobs, tag": lambda draw, record, known: (JOBS, anywhere(draw, record, tag=one(draw, plausible.TAGS))),
    "Jobs, metadata": lambda draw, record, known: (
        JOBS,
        anywhere(draw, record, **{"metadata.customer": plausible.customer(draw, record.jobs)}),
    ),
    "Jobs, mask label": lambda draw, record, known: (JOBS, anywhere(draw, record, mask_label="a white car")),
    "Jobs, total_seconds_min": lambda draw, record, known: (JOBS, anywhere(draw, record, total_seconds_min="20")),
    "Jobs, text": lambda draw, record, known: (JOBS, anywhere(draw, record, q="truck")),
    "Job": lambda draw, record, known: (f"{JOBS}/{draw.choice(known.jobs)}", {}),
    "Evidence": lambda draw, record, known: ("{}/{}/evidence/{}".format(JOBS, *draw.choice(known.reports)), {}),
    "Webhooks in": lambda draw, record, known: (IN, {}),
    "Webhooks in, verdict": lambda draw, record, known: (IN, {"verdict": draw.choice(["conflict", "duplicate"])}),
    "Webhooks in, one tenant": lambda draw, record, known: (
        IN,
        {"tenant": "trial", "before": str(draw.choice(known.reports)[1])},
    ),
    "Webhooks out": lambda draw, record, known: (OUT, {}),
    "Webhooks out, state": lambda draw, record, known: (OUT, {"state": draw.choice(["given_up", "pending"])}),
    "Bulk actions": lambda draw, record, known: ("/dashboard/bulk", {}),
    "System": lambda draw, record, known: ("/dashboard/system", {}),
}


async def sign_in(record: Record) -> ClientSession:
    """A browser that an administrator has signed in with."""
    key = await create_key(record.database_url, plausible.TENANTS[0][0], SCOPES)
    http = ClientSession(
        timeout=ClientTimeout(total=60),
        cookie_jar=CookieJar(unsafe=True),
        headers={"origin": record.url, "accept": "text/html"},
    )
    async with http.post(f"{record.url}/dashboard/sign-in", data={"key": key}, allow_redirects=False) as response:
        if response.status != 303:
            raise RuntimeError(f"the sign-in was answered with {response.status}")
    return http


async def look_around(record: Record) -> Known:
    connection = await asyncpg.connect(record.database_url)
    known, draw = Known(), random.Random(1)
    try:
        for _ in range(200):
            place = first_id(record.newest - timedelta(days=plausible.DAYS * 0.98 * draw.random()))
            row = await connection.fetchrow(
                "SELECT job_id, (SELECT min(id) FROM reports WHERE reports.job_id = outcomes.job_id) AS report"
                " FROM outcomes WHERE job_id > $1 ORDER BY job_id LIMIT 1",
                place,
            )
            if row is not None:
                known.jobs.append(str(row["job_id"]))
                known.reports.append((str(row["job_id"]), row["report"]))
    finally:
        await connection.close()
    return known


async def measure(records: list[Record], pages: dict[str, Drawn], times: int) -> None:
    browsers = [await sign_in(record) for record in records]
    places = [await look_around(record) for record in records]

    async def look(index: int, path: str, query: Query) -> tuple[float, int]:
        begun = time.perf_counter()
        async with browsers[index].get(f"{records[index].url}{path}", params=query) as response:
            content = await response.text()
        took = time.perf_counter() - begun
        if response.status != 200:
            raise RuntimeError(f"{path} {query}: {response.status}")
        if "Unknown." in content:
            place = content.index("Unknown.")
            tell(f"{records[index].name} {path} {query}: {content[place : place + 120]!r}")
        return took, len(content)

    for page, drawn in pages.items():
        tell(page)
        for index, record in enumerate(records):
            for turn in range(WARM_UP):
                await look(index, *drawn(random.Random(turn), record, places[index]))
        for turn in range(times):
            for index in range(len(records))[:: 1 if turn % 2 else -1]:
                record = records[index]
                asked = drawn(random.Random(f"{page}{turn}"), record, places[index])
                seconds, size = await look(index, *asked)
                again, _ = await look(index, *asked)
                record.took.setdefault(page, []).append(seconds)
                record.took_again.setdefault(page, []).append(again)
                record.found.setdefault(page, []).append(size // 1_000)
    for http in browsers:
        await http.close()


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.pages", description=__doc__)
    parser.add_argument(
        "--data", type=filled, action="append", required=True, help="a filled data directory; repeat it"
    )
    parser.add_argument("--times", type=int, default=40, help="each page is looked at on each record")
    parser.add_argument("--only", default="", help="pages with this in their name")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    pages = {name: drawn for name, drawn in PAGES.items() if options.only in name}
    machine = report.machine()
    for data in options.data:
        with supervised(DataDirectory(data)) as (_, prepare):
            database_url = prepare().postgres()
            upgrade(database_url)
            asyncio.run(count(database_url, data.name))
    with until_stopped(), ExitStack() as stack:
        records = [stack.enter_context(serving(data)) for data in options.data]
        uvloop.run(measure(records, pages, options.times))
        print(f"{machine}\n\n{table(records).replace('| found |', '| kB |')}", flush=True)


if __name__ == "__main__":
    main()
