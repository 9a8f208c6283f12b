"""Ends that we decide ourselves: a cancel, a deadline, a give-up."""

import asyncio
from uuid import UUID

import pytest

from service.context import Context
from service.db import Database
from service.jobs import operations, store
from service.jobs.lifecycle import Duty
from service.queue import TaskName
from tests import making


async def test_a_job_that_was_never_submitted_is_cancelled_at_once(context: Context, tenant: UUID) -> None:
    job_id = await making.queued(context.db, tenant)
    assert await operations.cancel(context, job_id)
    row = await making.outcome(context.db, job_id)
    assert row is not None
    assert (row["status"], row["http_status"], row["source"]) == ("cancelled", 499, "roundtrip")
    assert row["cancel_requested_at"] <= row["completed_at"]
    assert await making.events(context.db, job_id) == ["registered", "cancel_requested", "cancelled"]


async def test_a_job_that_the_provider_has_is_looked_at_now(
    context: Context, tenant: UUID, nudges: list[TaskName]
) -> None:
    claim = await making.submitted(context.db, tenant)
    assert await operations.cancel(context, claim.job_id)
    row = await making.live(context.db, claim.job_id)
    context.nudger.close()
    assert row is not None
    assert (row["status"], row["is_due"], row["cancel_requested_at"] is not None) == ("submitted", True, True)
    assert nudges == [TaskName.WATCH]


async def test_a_cancel_does_not_end_a_submission_that_is_on_its_way(context: Context, tenant: UUID) -> None:
    claim = await making.claimed(context.db, tenant)
    assert await operations.cancel(context, claim.job_id)
    assert await making.status(context.db, claim.job_id) == "queued"
    assert not await store.close(context.db, claim.job_id, operations.CANCELLED)


async def test_a_cancel_after_the_end_changes_nothing(context: Context, tenant: UUID) -> None:
    claim = await making.ended(context.db, tenant)
    before = await making.outcome(context.db, claim.job_id)
    assert not await operations.cancel(context, claim.job_id)
    assert await making.outcome(context.db, claim.job_id) == before


async def test_the_first_of_many_cancels_says_when_it_was_asked(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant)
    asked = await asyncio.gather(*(store.request_cancel(db, claim.job_id) for _ in range(5)))
    first = await making.live(db, claim.job_id)
    await store.request_cancel(db, claim.job_id)
    again = await making.live(db, claim.job_id)
    assert first is not None
    assert again is not None
    assert asked == [Duty.REPORT] * 5
    assert first["cancel_requested_at"] == again["cancel_requested_at"]


async def test_a_cancel_keeps_the_time_of_a_refused_job(context: Context, tenant: UUID) -> None:
    claim = await making.claimed(context.db, tenant)
    await store.record_answers(context.db, [making.refused(claim, delay=3600.0)])
    assert await operations.cancel(context, claim.job_id)
    assert await making.status(context.db, claim.job_id) == "cancelled"


@pytest.mark.parametrize("anyway", [False, True])
async def test_closing_ends_the_attempt_that_is_under_way(db: Database, tenant: UUID, anyway: bool) -> None:
    claim = await making.submitted(db, tenant)
    assert await store.close(db, claim.job_id, operations.CANCELLED, even_if_submitted=anyway) is anyway
    [attempt] = await making.attempts(db, claim.job_id)
    assert attempt["state"] == ("abandoned" if anyway else "submitted")


async def test_a_cancel_and_a_claim_at_once_leave_no_job_behind(context: Context, tenant: UUID) -> None:
    for _ in range(20):
        job_id = await making.queued(context.db, tenant)
        claims, _ = await asyncio.gather(making.claim_all(context.db), operations.cancel(context, job_id))
        expected = "queued" if claims else "cancelled"
        assert await making.status(context.db, job_id) == expected
        if claims:
            told = await store.record_answers(context.db, [making.refused(claims[0])])
            assert told == [(job_id, 1)]
            assert await store.close(context.db, job_id, operations.CANCELLED)


async def test_closing_twice_ends_once(db: Database, tenant: UUID) -> None:
    job_id = await making.queued(db, tenant)
    closed = await asyncio.gather(*(store.close(db, job_id, operations.CANCELLED) for _ in range(8)))
    assert sum(closed) == 1
