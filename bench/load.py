"""Fill an empty database with plausible jobs of the last three months, with all that belongs to them.

`python -m bench.load --jobs 10000000`: into the database of ROUNDTRIP_DATABASE_URL, as a superuser, or into the
PostgreSQL of a data directory. The same seed and time make the same jobs. What the files would hold is
not made; jobs that have not ended are due in ten years.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import uvloop
from uuid_utils.compat import uuid7

from bench.plausible import DRAW, PREPARE, ROWS, TENANTS
from service.local.directory import DataDirectory
from service.local.errors import CannotStart
from service.local.servers import supervised
from service.migrate import upgrade

Connection = asyncpg.Connection

CHUNK = 100_000

FILLED = (
    *(
        "jobs",
        "inputs",
        "job_marks",
        "live_jobs",
        "attempts",
        "outcomes",
        "results",
        "uncounted",
        "reports",
        "blobs",
        "artifacts",
    ),
    *("callbacks", "callback_tries", "job_events"),
)
# Their keys come in no order, so they are built at the end, like the indexes that are no keys.
KEYED_AT_THE_END = ("job_marks", "blobs")

# A load that is cut off leaves a directory to be deleted, so nothing has to be durable before the end.
LOADING = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "shared_buffers": "512MB",
}
SESSION = {
    "session_replication_role": "replica",  # No triggers: what is referred to is made by the same statements.
    "synchronous_commit": "off",
    "maintenance_work_mem": "768MB",
    "work_mem": "128MB",
    "jit": "off",
    "timezone": "UTC",
}

_INDEXES = """
SELECT format('DROP INDEX %I', relname), pg_get_indexdef(oid)
FROM pg_class JOIN pg_index ON indexrelid = oid
WHERE indrelid = ANY ($1::text[]::regclass[]) AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""
_KEYS = """
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
       format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
FROM pg_constraint
WHERE contype = 'p' AND conrelid = ANY ($1::text[]::regclass[])
   OR contype = 'f' AND confrelid = ANY ($1::text[]::regclass[])
-- Foreign keys go before the keys that they refer to.
ORDER BY contype
"""


class NotEmpty(Exception):
    """There are jobs in the database, whose indexes and settings are not for us to touch."""


async def fill(database_url: str, jobs: int, *, live: int, seed: int, until: datetime, sessions: int) -> None:
    """Raises NotEmpty."""
    async with session(database_url) as connection:
        if await connection.fetchval("SELECT EXISTS (SELECT FROM jobs)"):
            raise NotEmpty
        await connection.executemany(
            "INSERT INTO tenants (id, name) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
            [(uuid7(), name) for name, _ in TENANTS],
        )
        async with without_indexes(connection, database_url, sessions):
            await draw_all(database_url, jobs, live, seed, until, sessions)
        for table in FILLED:
            with timed(f"vacuum of {table}"):
                await connection.execute(f"VACUUM (ANALYZE, PARALLEL 2) {table}")


@asynccontextmanager
async def without_indexes(
    connection: "Connection[asyncpg.Record]", database_url: str, sessions: int
) -> AsyncIterator[None]:
    """They are built at the end, in a fraction of the time, by so many sessions at once."""
    indexes = await connection.fetch(_INDEXES, list(FILLED))
    keys = await connection.fetch(_KEYS, list(KEYED_AT_THE_END))
    for drop, _ in [*indexes, *keys]:
        await connection.execute(drop)
    try:
        yield
    finally:
        todo = [create for _, create in indexes]

        async def build() -> None:
            async with session(database_url) as own:
                while todo:
                    statement = todo.pop()
                    with timed(statement[:110]):
                        await own.execute(statement)

        await asyncio.gather(*(build() for _ in range(sessions)))
        # Foreign keys last.
        for _, create in reversed(keys):
            with timed(create[:110]):
                await connection.execute(create)


async def draw_all(database_url: str, jobs: int, live: int, seed: int, until: datetime, sessions: int) -> None:
    chunks = iter(range(1, jobs + 1, CHUNK))
    made = 0

    async def draw() -> None:
        nonlocal made
        async with session(database_url) as own:
            await own.execute(PREPARE)
            for first in chunks:
                last = min(first + CHUNK - 1, jobs)
                async with own.transaction():
                    await own.execute("TRUNCATE drawn")
                    # Each chunk has draws of its own, so that it does not matter who makes it.
                    await own.execute("SELECT setseed($1)", (seed * 7_919 + first * 31) % 1_000_003 / 1_000_003)
                    await own.execute(DRAW, first, last, jobs, str(seed), until, live)
                    for statement in ROWS:
                        await own.execute(statement)
                made += last - first + 1
                tell(f"{made:,} jobs after {time.monotonic() - begun:.0f} s")

    begun = time.monotonic()
    await asyncio.gather(*(draw() for _ in range(sessions)))


@asynccontextmanager
async def session(database_url: str) -> "AsyncIterator[Connection[asyncpg.Record]]":
    connection = await asyncpg.connect(database_url, server_settings=SESSION)
    try:
        yield connection
    finally:
        await connection.close()


@contextmanager
def database(data: Path | None) -> Iterator[str]:
    """The one that is named in the environment, or that of a data directory, started for this."""
    if data is None:
        yield os.environ["ROUNDTRIP_DATABASE_URL"]
        return
    with supervised(DataDirectory(data)) as (_, prepare):
        yield prepare().postgres(LOADING)
    os.sync()


@contextmanager
def timed(what: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    tell(f"{time.monotonic() - begun:6.1f} s  {what}")


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--live", type=int, default=2_000, help="about so many of them have not ended")
    parser.add_argument("--data", type=Path, help="a data directory, unless ROUNDTRIP_DATABASE_URL is set")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--until", type=datetime.fromisoformat, default=datetime.now(UTC), help="when the last is made")
    parser.add_argument("--sessions", type=int, default=os.cpu_count() or 1, help="that work at once")
    options = parser.parse_args()
    if (options.data is None) == ("ROUNDTRIP_DATABASE_URL" not in os.environ):
        parser.error("name a data directory with --data, or a database with ROUNDTRIP_DATABASE_URL, and not both")
    return options


def main() -> int:
    options = read_options()
    begun = time.monotonic()
    with database(options.data) as url:
        upgrade(url)
        try:
            uvloop.run(
                fill(
                    url,
                    options.jobs,
                    live=min(options.live, options.jobs),
                    seed=options.seed,
                    until=options.until,
                    sessions=options.sessions,
                )
            )
        except NotEmpty:
            tell("bench: there are jobs in this database; take an empty one")
            return 1
    tell(f"{options.jobs:,} jobs in {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CannotStart as error:
        tell(f"bench: {error}")
        sys.exit(error.exit_status)
