"""Statements that share a transaction with those that came meanwhile: as if each had been alone."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from service.context import Context
from service.db import LARGE, SESSION, TOGETHER_AT_A_TIME, Database, DatabaseAway, Row, open_database
from service.jobs import store
from tests import making
from tests.servers import Addresses

# A row that begins with the first value, and the transaction that it comes from.
SQL = "SELECT $1::int AS number, pg_current_xact_id()::text AS xid, length($2::text) AS length WHERE $1 % 5 <> 3"
QUOTIENT = "SELECT $1::int AS number, 60 / $1::int AS quotient"


async def asked(db: Database, sql: str, *each: tuple[Any, ...]) -> list[Row | BaseException | None]:
    return await asyncio.gather(*(db.fetchrow_together(sql, *values) for values in each), return_exceptions=True)


async def test_each_has_its_own_row_or_none(db: Database) -> None:
    numbers = [7, 3, 1, 8, 5, 2, 6, 4]
    rows = await asked(db, SQL, *((number, "x" * number) for number in numbers))
    found = [(row["number"], row["length"]) if isinstance(row, asyncpg.Record) else row for row in rows]
    assert found == [(number, number) if number % 5 != 3 else None for number in numbers]


async def test_what_comes_during_others_shares_a_transaction(db: Database) -> None:
    rows = await asked(db, SQL, *((5 * number, "") for number in range(40)))
    transactions = [row["xid"] for row in rows if isinstance(row, asyncpg.Record)]
    assert len(transactions) == 40
    assert len(set(transactions)) <= TOGETHER_AT_A_TIME + 1


async def test_what_is_large_goes_alone(db: Database) -> None:
    rows = await asked(db, SQL, *((5 * number, "x" * (LARGE + 1)) for number in range(4)))
    assert len({row["xid"] for row in rows if isinstance(row, asyncpg.Record)}) == 4


async def test_one_that_fails_costs_the_others_nothing(db: Database) -> None:
    rows = await asked(db, QUOTIENT, (1,), (2,), (0,), (3,), (4,))
    assert isinstance(rows[2], asyncpg.DivisionByZeroError)
    assert [row["quotient"] for row in rows if isinstance(row, asyncpg.Record)] == [60, 30, 20, 15]


async def test_one_that_fails_at_the_commit_costs_the_others_nothing_and_none_is_told_before(
    own_table: None, db: Database
) -> None:
    statement = "INSERT INTO own_table (number, of) VALUES ($1, $2) RETURNING number"
    rows = await asked(db, statement, (1, 1), (2, 2), (3, 3), (4, 99), (5, 5), (6, 6))
    assert isinstance(rows[3], asyncpg.ForeignKeyViolationError)
    told = [row["number"] for row in rows if isinstance(row, asyncpg.Record)]
    kept = [row["number"] for row in await db.fetch("SELECT number FROM own_table ORDER BY number")]
    assert told == kept == [1, 2, 3, 5, 6]


@pytest.fixture
async def own_table(db: Database) -> AsyncIterator[None]:
    """A table whose constraint is looked at when a transaction is to be committed."""
    await db.execute(
        "CREATE TABLE own_table (number int PRIMARY KEY, of int REFERENCES own_table DEFERRABLE INITIALLY DEFERRED)"
    )
    yield
    await db.execute("DROP TABLE own_table")


@pytest.fixture
async def unhurried(addresses: Addresses, db: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """Sessions that wait for a lock until the statement's own time is over."""
    monkeypatch.setitem(SESSION, "lock_timeout", "0")
    async with open_database(addresses.database) as opened:
        yield opened


async def test_an_end_whose_row_is_locked_waits_for_it_alone(unhurried: Database, tenant: UUID) -> None:
    claims = [await making.claimed(unhurried, tenant) for _ in range(6)]
    locked = claims[2]
    async with unhurried.transaction() as connection:
        await connection.execute("SELECT FROM live_jobs WHERE job_id = $1 FOR UPDATE", locked.job_id)
        ends = {claim: asyncio.create_task(making.settle(unhurried, claim)) for claim in claims}
        alone = ends.pop(locked)
        assert await asyncio.gather(*ends.values()) == [True] * 5
        assert await making.status(unhurried, locked.job_id) == "queued"
    assert await alone


async def test_one_that_waits_too_long_does_not_hold_up_the_others(own_table: None, db: Database) -> None:
    await db.execute("INSERT INTO own_table (number) SELECT generate_series(1, 6)")
    async with db.transaction() as connection:
        await connection.execute("SELECT FROM own_table WHERE number = 3 FOR UPDATE")
        rows = await asked(db, "UPDATE own_table SET of = $1 WHERE number = $1 RETURNING number", *zip(range(1, 7)))
    assert isinstance(rows.pop(2), DatabaseAway)
    assert [row["number"] for row in rows if isinstance(row, asyncpg.Record)] == [1, 2, 4, 5, 6]


async def test_two_that_begin_alike_are_told_apart(db: Database) -> None:
    rows = await asked(db, SQL, *((5, "x" * length) for length in range(6)))
    assert [row["length"] for row in rows if isinstance(row, asyncpg.Record)] == [0, 1, 2, 3, 4, 5]


async def test_of_two_that_end_each_other_one_is_told(context: Context, tenant: UUID) -> None:
    """The same webhook posted twice at once, among others."""
    claims = [await making.claimed(context.db, tenant) for _ in range(3)]
    settled = await asyncio.gather(*(making.settle(context.db, claim) for claim in [*claims, *claims, *claims]))
    assert [settled[first::3].count(True) for first in range(3)] == [1, 1, 1]


async def test_jobs_that_are_registered_together_are_all_there(context: Context, tenant: UUID) -> None:
    jobs = [making.new_job(tenant, tags=[f"t{number}"]) for number in range(30)]
    times = await asyncio.gather(*(store.register(context.db, job) for job in jobs))
    for job, created_at in zip(jobs, times, strict=True):
        row = await context.db.fetchrow("SELECT tags, created_at FROM jobs WHERE id = $1", job.id)
        assert row is not None
        assert (row["tags"], row["created_at"]) == (job.tags, created_at)
    assert await making.count(context.db, "live_jobs") == await making.count(context.db, "job_events") == 30


async def test_answers_lock_live_rows_in_their_order(context: Context, tenant: UUID) -> None:
    """So that two workers that write answers to the same jobs never wait for each other."""
    for _ in range(6):
        await making.queued(context.db, tenant)
    claims = sorted(await making.claim_all(context.db), key=lambda claim: claim.job_id, reverse=True)
    last, first = claims[0], claims[-1]
    # The one that must be locked first is given last, and stands last in the table.
    await context.db.execute("UPDATE live_jobs SET rank = rank WHERE job_id = $1", first.job_id)
    answers = [making.accepted(claim, f"r-{claim.job_id}") for claim in claims]
    async with context.db.transaction() as connection:
        await connection.execute("SELECT FROM live_jobs WHERE job_id = $1 FOR UPDATE", first.job_id)
        writing = asyncio.create_task(store.record_answers(context.db, answers))

        async def waits() -> bool:
            waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            return await making.count(context.db, waiting) > 0

        await making.until(waits)
        free = "SELECT job_id FROM live_jobs WHERE job_id = $1 FOR UPDATE SKIP LOCKED"
        assert await context.db.fetchrow(free, last.job_id)
    await writing


async def test_a_database_that_is_away_is_away_for_all_of_them(db: Database) -> None:
    closed = Database(asyncpg.create_pool("postgresql://nobody@127.0.0.1:9/none", min_size=0, timeout=1))
    await closed.pool
    rows = await asked(closed, SQL, (1, ""), (2, ""), (4, ""))
    assert [type(row) for row in rows] == [DatabaseAway] * 3
