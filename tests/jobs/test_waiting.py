"""Who waits costs a statement when he begins and none while nothing happens; what no notification told is seen."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import pytest

from service.db import Database, Row
from service.jobs import store, waiting
from service.jobs.waiting import Waiting, wait_for
from tests import making


class Counting(Database):
    """The same pool, and the statements that went through it."""

    def __init__(self, db: Database) -> None:
        super().__init__(db.pool)
        self.statements: list[str] = []

    async def fetch(self, sql: str, *values: Any) -> list[Row]:
        self.statements.append(sql)
        return await super().fetch(sql, *values)

    async def execute(self, sql: str, *values: Any) -> str:
        self.statements.append(sql)
        return await super().execute(sql, *values)


@pytest.fixture
def counted(db: Database) -> Counting:
    return Counting(db)


@pytest.fixture
async def looking(counted: Counting, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Waiting]:
    """Without a connection that listens: every notification is lost."""
    monkeypatch.setattr(waiting, "LOOK_AGAIN_SECONDS", 0.02)
    watched = Waiting(counted)
    task = asyncio.create_task(watched.look())
    yield watched
    task.cancel()
    await asyncio.wait([task])


async def test_a_change_that_nobody_was_told_of_is_seen(looking: Waiting, db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    other = await making.queued(db, tenant)
    async with looking.on(claim.job_id) as changed, looking.on(other) as unchanged:
        assert await wait_for(changed, 30)  # The first look cannot know what was seen before it.
        assert await wait_for(unchanged, 30)
        await store.record_answers(db, [making.accepted(claim)])
        assert await wait_for(changed, 30)
        await making.settle(db, claim)
        assert await wait_for(changed, 30)
        assert not unchanged.is_set()


async def test_a_hundred_who_wait_cost_one_statement_a_look(
    looking: Waiting, counted: Counting, db: Database, tenant: UUID
) -> None:
    jobs = [await making.queued(db, tenant) for _ in range(100)]
    async with AsyncExitStack() as stack:
        all_changed = [await stack.enter_async_context(looking.on(job_id)) for job_id in jobs]
        for changed in all_changed:
            assert await wait_for(changed, 30)
        looks = [sql for sql in counted.statements if sql is waiting._LOOK]
        assert len(counted.statements) == len(jobs) + len(looks)
        before = len(counted.statements)
        await making.until(lambda: asyncio.sleep(0, len(counted.statements) > before + 2))
        assert set(counted.statements[before:]) == {waiting._LOOK}


async def test_who_waits_long_is_not_forgotten(
    looking: Waiting, db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "RENEW_SECONDS", 0.0)
    job_id = await making.queued(db, tenant)
    async with looking.on(job_id):
        await db.execute("UPDATE waiters SET until = now() - interval '1 s'")

        async def renewed() -> object:
            return await db.fetchrow("SELECT 1 FROM waiters WHERE job_id = $1 AND until > now()", job_id)

        await making.until(renewed)
