"""A registration is durable when it returns, and the same one is never made twice."""

import asyncio
from uuid import UUID

import asyncpg
import pytest

from service.context import Context
from service.db import TOGETHER_AT_A_TIME, Database
from service.errors import IdempotencyMismatch
from service.jobs import due, operations, store
from service.queue import TaskName
from tests import making
from tests.making import new_job


async def test_a_registered_job_is_queued_and_due(db: Database, tenant: UUID) -> None:
    job_id = await making.queued(db, tenant, priority="low", tags=["a"], metadata='{"k": 1}')
    row = await making.live(db, job_id)
    assert row is not None
    assert (row["status"], row["duty"], row["rank"], row["is_due"]) == ("queued", "submit", 1, True)
    assert await making.events(db, job_id) == ["registered"]


async def test_a_registration_wakes_a_worker(context: Context, tenant: UUID, nudges: list[TaskName]) -> None:
    await operations.register(context, new_job(tenant))
    context.nudger.close()
    assert nudges == [TaskName.SUBMIT]


async def test_ten_registrations_with_one_key_make_one_job(context: Context, tenant: UUID) -> None:
    made = await asyncio.gather(*(operations.register(context, new_job(tenant), "key") for _ in range(10)))
    assert len({each.job_id for each in made}) == 1
    assert sum(each.created_at is not None for each in made) == 1
    assert await making.count(context.db, "jobs") == await making.count(context.db, "live_jobs") == 1


async def test_jobs_that_are_registered_at_once_share_transactions_also_under_keys(
    context: Context, tenant: UUID
) -> None:
    keys = [f"key {number}" for number in range(30)]
    made = await asyncio.gather(*(operations.register(context, new_job(tenant), key) for key in keys + keys[::-1]))
    ids = [each.job_id for each in made]
    assert ids[:30] == ids[:29:-1]
    assert len(set(ids)) == sum(each.created_at is not None for each in made) == 30
    rows = await context.db.fetch("SELECT DISTINCT xmin::text FROM jobs")
    assert len(rows) <= 2 * TOGETHER_AT_A_TIME + 1


async def test_a_key_counts_for_its_tenant_alone(context: Context, tenant: UUID) -> None:
    tenants = (tenant, await making.make_tenant(context.db, "theirs"))
    first = [(await operations.register(context, new_job(each), "key")).job_id for each in tenants]
    again = [(await operations.register(context, new_job(each), "key")).job_id for each in tenants]
    assert first == again
    assert first[0] != first[1]


@pytest.mark.parametrize(
    "change", [{"input": "{}"}, {"priority": "low"}, {"tags": ["a"]}, {"metadata": '{"a":1}'}, {"model": "fal-ai/x"}]
)
async def test_a_key_with_another_request_is_refused(context: Context, tenant: UUID, change: dict[str, object]) -> None:
    await operations.register(context, new_job(tenant), "key")
    with pytest.raises(IdempotencyMismatch):
        await operations.register(context, new_job(tenant, **change), "key")
    assert await making.count(context.db, "jobs") == 1


async def test_a_forgotten_key_is_a_first_use_again(context: Context, tenant: UUID) -> None:
    first = await operations.register(context, new_job(tenant), "key")
    await context.db.execute("UPDATE idempotency_keys SET created_at = now() - interval '8 days'")
    await due.tidy(context.db, idempotency_days=7)
    again = await operations.register(context, new_job(tenant), "key")
    assert again.job_id != first.job_id


async def test_a_job_is_repeated_once_however_many_ask(context: Context, tenant: UUID) -> None:
    old = await making.ended(context.db, tenant, making.failed())
    repeats = (operations.retry(context, new_job(tenant, retry_of=old.job_id), "failed") for _ in range(10))
    made = await asyncio.gather(*repeats)
    assert len({each.job_id for each in made}) == 1
    assert sum(each.created_at is not None for each in made) == 1
    assert await making.count(context.db, "jobs") == 2


async def test_what_a_job_was_asked_is_kept_word_for_word(db: Database, tenant: UUID) -> None:
    text = '{ "prompt" :"\\u00e9é \\ud83d\\ude00", "seed": 12345678901234567890 }'
    job_id = await making.queued(db, tenant, input=text)
    row = await db.fetchrow("SELECT body FROM inputs WHERE job_id = $1", job_id)
    assert row is not None
    assert row["body"] == text


async def test_a_registration_that_fails_leaves_nothing(db: Database, tenant: UUID) -> None:
    with pytest.raises(asyncpg.DataError):
        await store.register_once(db, new_job(tenant, metadata="not JSON"), "key", b"")
    assert await making.count(db, "jobs") == await making.count(db, "idempotency_keys") == 0
