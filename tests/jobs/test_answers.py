"""What a submission's answer does to a job, in time, too late and out of order."""

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest

from service.db import Database, Row
from service.jobs import due, endings, operations, store
from service.jobs.facts import Answer, Due
from tests import making


async def facts(db: Database, job_id: UUID) -> tuple[str, str, int]:
    row = await making.live(db, job_id)
    assert row is not None
    return row["status"], row["duty"], row["attempt"]


async def only_attempt(db: Database, job_id: UUID) -> Row:
    [attempt] = await making.attempts(db, job_id)
    return attempt


async def in_doubt(db: Database, tenant: UUID) -> making.Claim:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.ambiguous(claim)])
    return claim


async def taken(db: Database, job_id: UUID) -> Due:
    await making.make_due(db, job_id)
    [job] = await due.take_due(db, 10, 30.0)
    return job


async def test_an_accepted_job_is_submitted(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.accepted(claim, "r-1", gateway_request_id="g-1", queue_position=4)])
    attempt = await only_attempt(db, claim.job_id)
    assert await facts(db, claim.job_id) == ("submitted", "report", 1)
    assert (attempt["state"], attempt["provider_request_id"], attempt["gateway_request_id"]) == (
        "submitted",
        "r-1",
        "g-1",
    )
    assert await making.events(db, claim.job_id) == ["registered", "submitting", "accepted"]


async def test_a_gateway_id_that_says_nothing_new_is_not_kept(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.accepted(claim, "r-1", gateway_request_id="r-1")])
    assert (await only_attempt(db, claim.job_id))["gateway_request_id"] is None


async def test_a_refused_job_stays_queued_and_is_offered_again(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.refused(claim)])
    assert await facts(db, claim.job_id) == ("queued", "submit", 1)
    assert (await only_attempt(db, claim.job_id))["state"] == "refused"


async def test_an_ambiguous_job_is_neither_with_us_nor_with_them(db: Database, tenant: UUID) -> None:
    claim = await in_doubt(db, tenant)
    assert await facts(db, claim.job_id) == ("queued", "settle", 1)
    assert (await only_attempt(db, claim.job_id))["state"] == "ambiguous"


async def test_many_answers_are_kept_in_one_statement(db: Database, tenant: UUID) -> None:
    for _ in range(30):
        await making.queued(db, tenant)
    claims = await making.claim_all(db)
    makers = (making.accepted, making.refused, making.ambiguous)
    await store.record_answers(db, [makers[number % 3](claim) for number, claim in enumerate(claims)])
    rows = await db.fetch("SELECT duty, count(*) FROM live_jobs GROUP BY duty")
    assert {row["duty"]: row["count"] for row in rows} == {"report": 10, "submit": 10, "settle": 10}


async def test_an_answer_that_comes_after_the_doubt_ends_it(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    assert await due.doubt(db, await taken(db, claim.job_id), 60.0)
    await store.record_answers(db, [making.accepted(claim, "late")])
    assert await facts(db, claim.job_id) == ("submitted", "report", 1)
    assert (await only_attempt(db, claim.job_id))["provider_request_id"] == "late"


async def test_an_acceptance_of_an_attempt_that_was_given_up_still_counts(db: Database, tenant: UUID) -> None:
    claim = await in_doubt(db, tenant)
    assert await due.submit_again(db, await taken(db, claim.job_id))
    await store.record_answers(db, [making.accepted(claim, "very-late")])
    attempt = await only_attempt(db, claim.job_id)
    assert await facts(db, claim.job_id) == ("submitted", "report", 1)
    assert (attempt["state"], attempt["provider_request_id"]) == ("submitted", "very-late")


@pytest.mark.parametrize("said", [making.refused, making.ambiguous])
async def test_another_answer_to_it_changes_nothing(
    db: Database, tenant: UUID, said: Callable[[making.Claim], Answer]
) -> None:
    claim = await in_doubt(db, tenant)
    assert await due.submit_again(db, await taken(db, claim.job_id))
    await store.record_answers(db, [said(claim)])
    assert await facts(db, claim.job_id) == ("queued", "submit", 1)
    assert (await only_attempt(db, claim.job_id))["state"] == "abandoned"


async def test_an_answer_to_an_older_attempt_leaves_the_newer_alone(db: Database, tenant: UUID) -> None:
    first = await in_doubt(db, tenant)
    await due.submit_again(db, await taken(db, first.job_id))
    [second] = await making.claim_all(db)
    await store.record_answers(db, [making.accepted(first, "first")])
    assert await facts(db, first.job_id) == ("queued", "answer", 2)
    await store.record_answers(db, [making.accepted(second, "second")])
    assert [row["provider_request_id"] for row in await making.attempts(db, first.job_id)] == ["first", "second"]


async def test_an_answer_that_an_early_webhook_overtook_ends_nothing_again(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    assert await making.settle(db, claim)
    await store.record_answers(db, [making.accepted(claim, "r-1")])
    attempt = await only_attempt(db, claim.job_id)
    assert await making.status(db, claim.job_id) == "completed"
    assert (attempt["state"], attempt["provider_request_id"]) == ("completed", "r-1")
    assert (await making.events(db, claim.job_id))[-1] == "completed"


async def test_the_id_of_the_webhook_stays_when_the_answer_names_another(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    assert await making.settle(db, claim, evidence=making.heard(request_id="from-webhook"))
    await store.record_answers(db, [making.accepted(claim, "from-answer")])
    assert (await only_attempt(db, claim.job_id))["provider_request_id"] == "from-webhook"


async def test_a_job_in_progress_is_not_sent_back_by_its_answer(db: Database, tenant: UUID) -> None:
    claim = await in_doubt(db, tenant)
    job = await taken(db, claim.job_id)
    await due.record_progress(db, job, running=True, queue_position=None)
    await store.record_answers(db, [making.accepted(claim)])
    assert await making.status(db, claim.job_id) == "in_progress"


async def test_a_cancel_that_was_asked_meanwhile_is_told(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    other = await making.claimed(db, tenant)
    await endings.request_cancel(db, claim.job_id)
    told = await store.record_answers(db, [making.accepted(claim), making.accepted(other)])
    assert told == [(claim.job_id, 1)]


@pytest.mark.parametrize(
    ("make", "duty", "is_due"),
    [
        (making.refused, "close", True),
        (making.accepted, "report", True),
        (making.ambiguous, "settle", False),
    ],
)
async def test_after_a_cancel_an_answer_is_acted_on_at_once_unless_it_says_nothing(
    db: Database, tenant: UUID, make: Callable[..., Answer], duty: str, is_due: bool
) -> None:
    claim = await making.claimed(db, tenant)
    await endings.request_cancel(db, claim.job_id)
    assert await store.record_answers(db, [make(claim, delay=3600.0)]) == [(claim.job_id, 1)]
    row = await making.live(db, claim.job_id)
    assert row is not None
    assert (row["duty"], row["is_due"]) == (duty, is_due)
    assert await making.claim_all(db) == []


async def ended_without(db: Database, claim: making.Claim, how: str) -> None:
    """End the job while this attempt's answer is still on its way."""
    if how == "closed":
        assert await endings.close(db, claim.job_id, operations.CANCELLED, even_if_submitted=True)
    else:
        second = await making.resubmitted(db, claim)
        assert await making.settle(db, second, evidence=making.heard(request_id="second"))


@pytest.mark.parametrize("how", ["closed", "settled by another"])
async def test_an_acceptance_after_the_end_makes_its_attempt_owed_a_stop(db: Database, tenant: UUID, how: str) -> None:
    claim = await making.claimed(db, tenant)
    await ended_without(db, claim, how)
    assert (await making.states(db, claim.job_id))[0] == "superseded"
    assert await due.take_to_stop(db, 10, 0.0) == []
    before = await making.status(db, claim.job_id)
    await store.record_answers(db, [making.accepted(claim, "late", cancel_url="c")])
    assert (await making.states(db, claim.job_id))[0] == "superseded…"
    [attempt] = await due.take_to_stop(db, 10, 0.0)
    assert (attempt.attempt, attempt.provider_request_id, attempt.cancel_url) == (1, "late", "c")
    assert await making.status(db, claim.job_id) == before


@pytest.mark.parametrize("make", [making.refused, making.ambiguous])
async def test_any_other_answer_after_the_end_leaves_nothing_to_stop(
    db: Database, tenant: UUID, make: Callable[..., Answer]
) -> None:
    claim = await making.claimed(db, tenant)
    await ended_without(db, claim, "closed")
    await store.record_answers(db, [make(claim)])
    assert await making.states(db, claim.job_id) == ["superseded"]
    assert await due.take_to_stop(db, 10, 0.0) == []


async def test_an_acceptance_that_is_told_twice_is_stopped_once(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await ended_without(db, claim, "closed")
    await store.record_answers(db, [making.accepted(claim, "late")])
    [attempt] = await due.take_to_stop(db, 10, 0.0)
    await due.record_stop(db, attempt, answered=True)
    await store.record_answers(db, [making.accepted(claim, "late")])
    assert await due.take_to_stop(db, 10, 0.0) == []


async def test_an_acceptance_of_an_attempt_that_gave_the_result_leaves_nothing_to_stop(
    db: Database, tenant: UUID
) -> None:
    claim = await making.claimed(db, tenant)
    assert await making.settle(db, claim)
    await store.record_answers(db, [making.accepted(claim, "r-1")])
    assert await making.states(db, claim.job_id) == ["completed"]
    assert await due.take_to_stop(db, 10, 0.0) == []


async def test_repeating_an_answer_changes_nothing(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    answer = making.accepted(claim, "r-1")
    await store.record_answers(db, [answer])
    await store.record_answers(db, [replace(answer, provider_request_id="r-2")])
    assert (await only_attempt(db, claim.job_id))["provider_request_id"] == "r-1"
    assert await making.events(db, claim.job_id) == ["registered", "submitting", "accepted"]
