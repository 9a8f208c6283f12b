"""Many workers take jobs at once, and none takes what another has."""

import asyncio
from collections import Counter
from uuid import UUID

from service.db import Database
from service.jobs import store
from tests import making


async def test_each_job_is_claimed_once_by_many_workers(db: Database, tenant: UUID) -> None:
    jobs = {await making.queued(db, tenant) for _ in range(60)}

    async def work() -> list[UUID]:
        mine: list[UUID] = []
        while claims := await making.claim_all(db, limit=3):
            mine += [claim.job_id for claim in claims]
        return mine

    taken = await asyncio.gather(*(work() for _ in range(10)))
    assert Counter(job for each in taken for job in each) == Counter(jobs)


async def test_low_priority_waits_for_all_that_is_normal(db: Database, tenant: UUID) -> None:
    low = await making.queued(db, tenant, priority="low")
    normal = [await making.queued(db, tenant) for _ in range(3)]
    claims = [claim for _ in range(4) for claim in await making.claim_all(db, limit=1)]
    assert [claim.job_id for claim in claims] == [*normal, low]


async def test_a_claim_says_all_that_a_submission_needs(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant, priority="low")
    assert (claim.attempt, claim.model, claim.input, claim.priority) == (1, making.MODEL, making.INPUT, "low")
    assert (claim.refused_seconds, claim.probe) == (0, False)


async def test_the_attempt_is_written_before_anybody_is_called(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    [attempt] = await making.attempts(db, claim.job_id)
    row = await making.live(db, claim.job_id)
    assert row is not None
    assert (attempt["number"], attempt["state"], row["duty"], row["is_due"]) == (1, "submitting", "answer", False)


async def test_a_job_is_not_claimed_before_its_time(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.refused(claim, delay=3600)])
    assert await making.claim_all(db) == []
    await making.make_due(db, claim.job_id)
    [again] = await making.claim_all(db)
    assert again.attempt == 2


async def test_a_job_past_its_deadline_is_not_claimed(db: Database, tenant: UUID) -> None:
    job_id = await making.queued(db, tenant, deadline_seconds=3600.0)
    await making.pass_deadline(db, job_id)
    assert await making.claim_all(db) == []


async def test_a_job_that_waits_for_news_is_not_claimed(db: Database, tenant: UUID) -> None:
    with_provider = await making.submitted(db, tenant)
    in_doubt = await making.claimed(db, tenant)
    await store.record_answers(db, [making.ambiguous(in_doubt)])
    for claim in (with_provider, in_doubt):
        await making.make_due(db, claim.job_id)
    assert await making.claim_all(db) == []
