"""Live jobs whose time has come, each with what is owed to it."""

import asyncio
from collections import Counter
from collections.abc import Callable
from uuid import UUID

import pytest

from service.db import Database
from service.jobs import due, endings, operations, store
from service.jobs.facts import Answer, Due
from service.jobs.lifecycle import Duty
from tests import making


async def take(db: Database, *jobs: UUID) -> list[Due]:
    for job_id in jobs:
        await making.make_due(db, job_id)
    return await due.take_due(db, 100, 30.0)


async def test_nothing_is_due_before_its_time(db: Database, tenant: UUID) -> None:
    await making.submitted(db, tenant)
    await making.queued(db, tenant)
    assert await due.take_due(db, 100, 30.0) == []


async def test_a_dead_workers_submission_is_taken(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    [job] = await take(db, claim.job_id)
    assert (job.job_id, job.attempt, job.duty, job.past_deadline) == (claim.job_id, 1, Duty.ANSWER, False)


async def test_a_late_webhook_is_taken_with_the_addresses_of_its_request(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    answer = making.accepted(claim, "r-1", status_url="s", response_url="r", cancel_url="c")
    await store.record_answers(db, [answer])
    [job] = await take(db, claim.job_id)
    assert (job.duty, job.provider_request_id) == (Duty.REPORT, "r-1")
    assert (job.status_url, job.response_url, job.cancel_url) == ("s", "r", "c")


async def test_a_doubt_that_lasted_is_taken(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.ambiguous(claim)])
    [job] = await take(db, claim.job_id)
    assert (job.duty, job.resubmissions) == (Duty.SETTLE, 0)


async def test_a_job_to_be_submitted_is_never_taken(db: Database, tenant: UUID) -> None:
    in_time = await making.queued(db, tenant, deadline_seconds=3600.0)
    too_late = await making.queued(db, tenant, deadline_seconds=3600.0)
    await making.make_due(db, in_time)
    await making.pass_deadline(db, too_late)
    assert await due.take_due(db, 100, 30.0) == []


async def test_a_queued_job_past_its_deadline_is_moved_to_be_closed(db: Database, tenant: UUID) -> None:
    in_time = await making.queued(db, tenant, deadline_seconds=3600.0)
    endless = await making.queued(db, tenant)
    too_late = await making.queued(db, tenant, deadline_seconds=3600.0)
    await making.make_due(db, in_time)
    await making.pass_deadline(db, too_late)
    await due.expire(db)
    [job] = await due.take_due(db, 100, 30.0)
    assert (job.job_id, job.past_deadline, job.duty, job.cancel_requested) == (too_late, True, Duty.CLOSE, False)
    assert {claim.job_id for claim in await making.claim_all(db)} == {in_time, endless}


async def test_a_deadline_ends_the_wait_of_a_refused_job_too(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant, deadline_seconds=3600.0)
    await store.record_answers(db, [making.refused(claim, delay=600.0)])
    await db.execute("UPDATE live_jobs SET deadline_at = now() - interval '1 ms'")
    await due.expire(db)
    [job] = await due.take_due(db, 100, 30.0)
    assert (job.duty, job.attempt) == (Duty.CLOSE, 1)


@pytest.mark.parametrize("answer", [None, making.accepted, making.ambiguous])
async def test_expiry_moves_only_what_waits_to_be_submitted(
    db: Database, tenant: UUID, answer: Callable[..., Answer] | None
) -> None:
    claim = await making.claimed(db, tenant, deadline_seconds=3600.0)
    if answer:
        await store.record_answers(db, [answer(claim)])
    before = await making.live(db, claim.job_id)
    await making.pass_deadline(db, claim.job_id)
    await due.expire(db)
    row = await making.live(db, claim.job_id)
    assert before is not None
    assert row is not None
    assert row["duty"] == before["duty"] != "close"


@pytest.mark.parametrize("answer", [making.accepted, making.refused, making.ambiguous])
async def test_no_answer_puts_a_job_off_beyond_its_deadline(
    db: Database, tenant: UUID, answer: Callable[..., Answer]
) -> None:
    claim = await making.claimed(db, tenant, deadline_seconds=60.0)
    await store.record_answers(db, [answer(claim, delay=86_400.0)])
    row = await making.live(db, claim.job_id)
    assert row is not None
    assert row["due_at"] <= row["deadline_at"]


async def test_no_doubt_puts_a_job_off_beyond_its_deadline(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant, deadline_seconds=60.0)
    [job] = await take(db, claim.job_id)
    await due.doubt(db, job, 3600.0)
    row = await making.live(db, claim.job_id)
    assert row is not None
    assert row["due_at"] <= row["deadline_at"]


async def test_each_due_job_is_taken_once_by_many_watchers(db: Database, tenant: UUID) -> None:
    claims = [await making.submitted(db, tenant) for _ in range(30)]
    for claim in claims:
        await making.make_due(db, claim.job_id)
    rounds = await asyncio.gather(*(due.take_due(db, 5, 30.0) for _ in range(10)))
    assert Counter(job.job_id for taken in rounds for job in taken) == Counter(claim.job_id for claim in claims)


async def test_a_job_that_was_taken_is_due_again_later(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant)
    [first] = await take(db, claim.job_id)
    row = await db.fetchrow("SELECT due_at - now() AS wait FROM live_jobs")
    assert row is not None
    assert 25 < row["wait"].total_seconds() <= 30
    assert await due.take_due(db, 100, 30.0) == []
    [second] = await take(db, claim.job_id)
    assert first.job_id == second.job_id == claim.job_id


async def test_a_look_comes_no_later_than_the_deadline(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant, deadline_seconds=60.0)
    await making.make_due(db, claim.job_id)
    await due.take_due(db, 100, 3600.0)
    row = await making.live(db, claim.job_id)
    assert row is not None
    assert row["due_at"] == row["deadline_at"]


async def test_doubt_and_a_new_submission_leave_their_traces(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    [job] = await take(db, claim.job_id)
    assert await due.doubt(db, job, 60.0)
    [job] = await take(db, claim.job_id)
    assert await due.submit_again(db, job)
    [again] = await making.claim_all(db)
    assert again.attempt == 2
    assert await making.events(db, claim.job_id) == [
        "registered",
        "submitting",
        "ambiguous",
        "abandoned",
        "submitting",
    ]


async def test_each_new_submission_is_counted_and_no_late_news_uncounts_it(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    first = claim
    for number in range(3):
        [job] = await take(db, claim.job_id)
        assert job.resubmissions == number
        claim = await making.resubmitted(db, claim)
    await store.record_answers(db, [making.accepted(first, "late")])
    await store.record_answers(db, [making.ambiguous(claim, delay=0.0)])
    [job] = await take(db, claim.job_id)
    assert job.resubmissions == 3
    rows = await making.attempts(db, claim.job_id)
    assert [row["resubmitted_at"] is not None for row in rows] == [True, True, True, False]
    assert await making.settle(db, first, evidence=making.heard(request_id="late"))
    rows = await making.attempts(db, claim.job_id)
    assert [row["resubmitted_at"] is not None for row in rows] == [True, True, True, False]


async def test_neither_a_refusal_nor_a_doubt_counts_as_a_new_submission(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.refused(claim)])
    [again] = await making.claim_all(db)
    [job] = await take(db, claim.job_id)
    assert await due.doubt(db, job, 0.0)
    [job] = await take(db, claim.job_id)
    assert (job.resubmissions, job.attempt, again.attempt) == (0, 2, 2)


async def test_a_watcher_that_comes_too_late_moves_nothing(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    [job] = await take(db, claim.job_id)
    await store.record_answers(db, [making.accepted(claim)])
    assert not await due.doubt(db, job, 60.0)
    assert not await due.submit_again(db, job)
    assert await making.status(db, claim.job_id) == "submitted"


async def test_two_watchers_submit_a_job_again_once(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.ambiguous(claim)])
    [job] = await take(db, claim.job_id)
    assert sum(await asyncio.gather(*(due.submit_again(db, job) for _ in range(5)))) == 1


async def test_a_doubt_whose_cancel_comes_at_the_last_moment_is_not_submitted_again(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.ambiguous(claim)])
    [job] = await take(db, claim.job_id)
    await endings.request_cancel(db, claim.job_id)
    await due.submit_again(db, job)
    assert await making.claim_all(db) == []
    row = await making.live(db, claim.job_id)
    assert row is not None
    assert row["duty"] != "submit"


async def test_a_start_is_told_once_and_a_position_always(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant)
    [job] = await take(db, claim.job_id)
    await due.record_progress(db, job, running=False, queue_position=7)
    row = await making.live(db, claim.job_id)
    await asyncio.gather(*(due.record_progress(db, job, running=True, queue_position=None) for _ in range(3)))
    assert row is not None
    assert row["queue_position"] == 7
    assert await making.status(db, claim.job_id) == "in_progress"
    assert await making.events(db, claim.job_id) == ["registered", "submitting", "accepted", "started"]


async def test_progress_never_goes_back(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant)
    [job] = await take(db, claim.job_id)
    await due.record_progress(db, job, running=True, queue_position=None)
    await due.record_progress(db, job, running=False, queue_position=2)
    assert await making.status(db, claim.job_id) == "in_progress"


@pytest.mark.parametrize("attempt", [1, 2])
async def test_a_look_is_brought_forward_for_the_attempt_that_is_meant(
    db: Database, tenant: UUID, attempt: int
) -> None:
    claim = await making.submitted(db, tenant)
    assert await due.look_now(db, claim.job_id, attempt) is (attempt == 1)
    assert len(await due.take_due(db, 100, 30.0)) == (1 if attempt == 1 else 0)


async def owed(db: Database) -> set[str]:
    return {kind for kind, is_so in (await due.anything_due(db)).items() if is_so}


async def test_one_look_sees_all_that_is_owed(db: Database, tenant: UUID) -> None:
    assert await owed(db) == set()
    claim = await making.submitted(db, tenant)
    await making.make_due(db, claim.job_id)
    await making.queued(db, tenant)
    owing = await making.queued(db, tenant, webhook_url="https://hooks.example/x")
    assert await endings.close(db, owing, operations.CANCELLED)
    assert await owed(db) == {"submit", "watch", "deliver", "count"}


@pytest.mark.parametrize("why", ["deadline", "cancel", "stop"])
async def test_one_look_sees_what_is_to_be_closed_and_stopped(db: Database, tenant: UUID, why: str) -> None:
    if why == "stop":
        claim = await making.submitted(db, tenant)
        assert await endings.close(db, claim.job_id, operations.CANCELLED, even_if_submitted=True)
    elif why == "cancel":
        await endings.request_cancel(db, await making.queued(db, tenant))
    else:
        claim = await making.claimed(db, tenant, deadline_seconds=3600.0)
        await store.record_answers(db, [making.refused(claim, delay=600.0)])
        await db.execute("UPDATE live_jobs SET deadline_at = now() - interval '1 ms', due_at = now() + interval '1 h'")
    assert await owed(db) == ({"watch", "count"} if why == "stop" else {"watch"})


# Attempts that the provider still has


async def test_an_attempt_to_stop_comes_with_its_address_until_it_is_answered(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.accepted(claim, "r-1", cancel_url="c")])
    await endings.close(db, claim.job_id, operations.CANCELLED, even_if_submitted=True)
    [attempt] = await due.take_to_stop(db, 10, 0.0)
    assert attempt == due.ToStop(claim.job_id, 1, making.MODEL, "r-1", None, None, "c", "fal")
    await due.record_stop(db, attempt, answered=False)
    assert await due.take_to_stop(db, 10, 0.0) == [attempt]
    await due.record_stop(db, attempt, answered=True)
    assert await due.take_to_stop(db, 10, 0.0) == []
    assert await making.states(db, claim.job_id) == ["superseded"]


async def test_a_provider_that_never_answers_is_not_asked_for_ever(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant)
    await endings.close(db, claim.job_id, operations.CANCELLED, even_if_submitted=True)
    [attempt] = await due.take_to_stop(db, 10, 0.0)
    for _ in range(due.MOST_STOPS - 1):
        await due.record_stop(db, attempt, answered=False)
        assert await due.take_to_stop(db, 10, 0.0) == [attempt]
    await due.record_stop(db, attempt, answered=False)
    assert await due.take_to_stop(db, 10, 0.0) == []


async def test_no_more_are_to_be_stopped_than_there_is_room_for(db: Database, tenant: UUID) -> None:
    for _ in range(5):
        claim = await making.submitted(db, tenant)
        await endings.close(db, claim.job_id, operations.CANCELLED, even_if_submitted=True)
    assert [len(await due.take_to_stop(db, limit, 0.0)) for limit in (0, 3, 10)] == [0, 3, 5]


async def test_tidying_forgets_only_what_is_over(db: Database, tenant: UUID) -> None:
    for number, age in enumerate(("8 days", "6 days")):
        await store.register_once(db, making.new_job(tenant), f"key-{number}", b"")
        await db.execute(
            f"UPDATE idempotency_keys SET created_at = now() - interval '{age}' WHERE key = $1", f"key-{number}"
        )
        await db.execute("INSERT INTO waiters VALUES ($1, now() + $2 * interval '1 s')", UUID(int=number), number - 0.5)
    await due.tidy(db, idempotency_days=7)
    assert [row["key"] for row in await db.fetch("SELECT key FROM idempotency_keys")] == ["key-1"]
    assert [row["job_id"].int for row in await db.fetch("SELECT job_id FROM waiters")] == [1]
