"""How fast exports are, and how much memory the API takes for them.

`python -m bench.exports --data DIR`, of a data directory that `bench.load` has filled: the newest jobs of its first
tenant are exported in each form, fewer and more of them. Memory is the API's proportional set size, at rest and at its
highest.
"""

import argparse
import asyncio
import time

import asyncpg
import uvloop
from aiohttp import ClientSession, ClientTimeout

from bench import plausible, report
from bench.processes import memory_bytes
from bench.questions import Record, serving
from bench.workplace import filled, tell
from service.local.stopping import until_stopped

FORMS = ("ndjson", "csv", "parquet")
LOOK_SECONDS = 0.05

_BEGIN = """
SELECT min(created_at) AS begin, count(*) AS jobs FROM (
    SELECT jobs.created_at FROM jobs JOIN tenants ON tenants.id = tenant_id
    WHERE name = $1 ORDER BY jobs.id DESC LIMIT $2
) AS newest
"""


async def begin_of(database_url: str, jobs: int) -> tuple[str, int]:
    """Since when there are so many, and how many there are if they are fewer."""
    connection = await asyncpg.connect(database_url)
    try:
        row = await connection.fetchrow(_BEGIN, plausible.TENANTS[0][0], jobs)
        return row["begin"].isoformat(), row["jobs"]
    finally:
        await connection.close()


async def export(record: Record, form: str, begin: str) -> tuple[float, int, float]:
    """Seconds, bytes, and the most memory that the API had meanwhile, in MB."""
    highest, done = 0, False

    async def watch() -> None:
        nonlocal highest
        while not done:
            highest = max(highest, memory_bytes({"api": record.pid})["api"])
            await asyncio.sleep(LOOK_SECONDS)

    watching = asyncio.create_task(watch())
    begun, size = time.perf_counter(), 0
    headers, query = {"authorization": f"Key {record.key}"}, {"format": form, "created_after": begin}
    async with (
        ClientSession(timeout=ClientTimeout(total=None)) as http,
        http.get(f"{record.url}/v1/jobs/export", params=query, headers=headers) as response,
    ):
        response.raise_for_status()
        async for chunk in response.content.iter_any():
            size += len(chunk)
    done = True
    await watching
    return time.perf_counter() - begun, size, highest / 1e6


async def measure(record: Record, amounts: list[int]) -> list[list[str]]:
    rows = [["", "jobs", "jobs/s", "MB", "memory at rest / at most, MB"]]
    for form in FORMS:
        begin, _ = await begin_of(record.database_url, 10_000)
        await export(record, form, begin)  # Libraries are loaded by then.
        for amount in amounts:
            begin, jobs = await begin_of(record.database_url, amount)
            tell(f"{form}, {jobs:,} jobs")
            rest = memory_bytes({"api": record.pid})["api"] / 1e6
            seconds, size, highest = await export(record, form, begin)
            rate = f"{jobs / seconds:,.0f}"
            rows.append([form, f"{jobs:,}", rate, f"{size / 1e6:.0f}", f"{rest:.0f} / {highest:.0f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.exports", description=__doc__)
    parser.add_argument("--data", type=filled, required=True, help="a filled data directory")
    parser.add_argument("--jobs", type=int, nargs="+", default=[20_000, 200_000])
    options = parser.parse_args()
    machine = report.machine()
    with until_stopped(), serving(options.data) as record:
        rows = uvloop.run(measure(record, options.jobs))
        print(f"{machine}\n\n{report.table(rows)}")


if __name__ == "__main__":
    main()
