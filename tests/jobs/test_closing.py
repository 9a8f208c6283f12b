"""Ends that we decide ourselves: a cancel, a deadline, a give-up."""

import asyncio
import json
from collections.abc import Callable
from uuid import UUID

import httpx
import pytest

from service.context import Context
from service.db import Database
from service.jobs import due, endings, operations, store
from service.jobs.facts import Answer
from service.jobs.lifecycle import Duty, OnDoubt
from service.jobs.submitting import Submitter
from service.jobs.watching import watch
from service.queue import TaskName
from service.tenants import set_wishes
from tests import making
from tests.conftest import MakeClient
from tests.provider import Provider, reply, says


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
    assert not await endings.close(context.db, claim.job_id, operations.CANCELLED)


async def test_a_cancel_after_the_end_changes_nothing(context: Context, tenant: UUID) -> None:
    claim = await making.ended(context.db, tenant)
    before = await making.outcome(context.db, claim.job_id)
    assert not await operations.cancel(context, claim.job_id)
    assert await making.outcome(context.db, claim.job_id) == before


async def test_the_first_of_many_cancels_says_when_it_was_asked(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant)
    asked = await asyncio.gather(*(endings.request_cancel(db, claim.job_id) for _ in range(5)))
    first = await making.live(db, claim.job_id)
    await endings.request_cancel(db, claim.job_id)
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


@pytest.mark.parametrize("stopped", [False, True])
async def test_closing_leaves_alone_what_the_provider_has_unless_it_is_told_to(
    db: Database, tenant: UUID, stopped: bool
) -> None:
    claim = await making.submitted(db, tenant)
    assert not await endings.close(db, claim.job_id, operations.CANCELLED, stopped=stopped)
    assert await making.states(db, claim.job_id) == ["submitted…"]
    assert await making.status(db, claim.job_id) == "submitted"


@pytest.mark.parametrize("ending", [operations.CANCELLED, operations.TOO_LATE])
async def test_an_attempt_that_the_provider_stopped_ends_as_its_job(
    db: Database, tenant: UUID, ending: making.Ending
) -> None:
    claim = await making.submitted(db, tenant)
    assert await endings.close(db, claim.job_id, ending, even_if_submitted=True, stopped=True)
    assert await making.states(db, claim.job_id) == [await making.status(db, claim.job_id)]
    assert await due.take_to_stop(db, 10, 0.0) == []


async def test_an_attempt_that_the_provider_may_have_is_left_to_be_stopped(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant, "r-1")
    assert await endings.close(db, claim.job_id, operations.CANCELLED, even_if_submitted=True)
    assert await making.states(db, claim.job_id) == ["superseded…"]
    assert [(each.attempt, each.provider_request_id) for each in await due.take_to_stop(db, 10, 0.0)] == [(1, "r-1")]


async def test_an_attempt_without_a_name_cannot_be_stopped(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.ambiguous(claim)])
    assert await endings.close(db, claim.job_id, operations.CANCELLED, even_if_submitted=True)
    assert await making.states(db, claim.job_id) == ["superseded"]
    assert await due.take_to_stop(db, 10, 0.0) == []


@pytest.mark.parametrize("stopped", [False, True])
async def test_of_many_attempts_only_the_last_was_stopped_and_the_refused_stay_so(
    db: Database, tenant: UUID, stopped: bool
) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.refused(claim)])
    [second] = await making.claim_all(db)
    third = await making.resubmitted(db, second)
    await store.record_answers(db, [making.accepted(second, "r-2")])
    await store.record_answers(db, [making.accepted(third, "r-3")])
    assert await endings.close(db, claim.job_id, operations.CANCELLED, even_if_submitted=True, stopped=stopped)
    last = "cancelled" if stopped else "superseded…"
    assert await making.states(db, claim.job_id) == ["refused…", "superseded…", last]
    names = {each.provider_request_id for each in await due.take_to_stop(db, 10, 0.0)}
    assert names == ({"r-2"} if stopped else {"r-2", "r-3"})


async def test_a_cancel_and_a_claim_at_once_leave_no_job_behind(context: Context, tenant: UUID) -> None:
    for _ in range(20):
        job_id = await making.queued(context.db, tenant)
        claims, _ = await asyncio.gather(making.claim_all(context.db), operations.cancel(context, job_id))
        expected = "queued" if claims else "cancelled"
        assert await making.status(context.db, job_id) == expected
        if claims:
            told = await store.record_answers(context.db, [making.refused(claims[0])])
            assert told == [(job_id, 1)]
            assert await endings.close(context.db, job_id, operations.CANCELLED)


async def test_no_claim_takes_a_queued_job_whose_cancel_was_asked(db: Database, tenant: UUID) -> None:
    job_id = await making.queued(db, tenant)
    assert await endings.request_cancel(db, job_id) is Duty.CLOSE
    assert await making.claim_all(db) == []
    row = await making.live(db, job_id)
    assert row is not None
    assert (row["duty"], row["is_due"], row["status"]) == ("close", True, "queued")


@pytest.mark.parametrize(
    ("answer", "duty"), [(None, Duty.ANSWER), (making.accepted, Duty.REPORT), (making.ambiguous, Duty.SETTLE)]
)
async def test_a_cancel_leaves_the_duty_of_a_job_that_a_provider_may_have(
    db: Database, tenant: UUID, answer: Callable[..., Answer] | None, duty: Duty
) -> None:
    claim = await making.claimed(db, tenant)
    if answer:
        await store.record_answers(db, [answer(claim)])
    assert await endings.request_cancel(db, claim.job_id) is duty
    row = await making.live(db, claim.job_id)
    assert row is not None
    assert (row["duty"], row["is_due"]) == (duty, duty is Duty.REPORT)


async def test_a_job_left_to_be_closed_is_closed_by_the_watch(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    """As when the API died between the cancel's two statements."""
    cancelled = await making.queued(context.db, tenant)
    await endings.request_cancel(context.db, cancelled)
    expired = await making.queued(context.db, tenant, deadline_seconds=3600.0)
    await making.pass_deadline(context.db, expired)
    await watch(context)
    rows = [await making.outcome(context.db, job_id) for job_id in (cancelled, expired)]
    assert [(row["status"], row["http_status"], row["error_type"]) for row in rows if row] == [
        ("cancelled", 499, "client_cancelled"),
        ("failed", 504, "deadline_exceeded"),
    ]
    assert provider.calls == []


@pytest.mark.parametrize("ending", [operations.CANCELLED, operations.TOO_LATE])
async def test_an_end_of_our_own_says_why_in_three_ways(db: Database, tenant: UUID, ending: making.Ending) -> None:
    job_id = await making.queued(db, tenant)
    assert await endings.close(db, job_id, ending)
    row = await making.outcome(db, job_id)
    assert row is not None
    assert json.loads(row["body"]) == {
        "detail": ending.error,
        "error_type": ending.error_type,
        "message": ending.error,
    }
    assert (row["error"], row["error_type"]) == (ending.error, ending.error_type)
    assert ending.error


async def test_closing_twice_ends_once(db: Database, tenant: UUID) -> None:
    job_id = await making.queued(db, tenant)
    closed = await asyncio.gather(*(endings.close(db, job_id, operations.CANCELLED) for _ in range(8)))
    assert sum(row is not None for row in closed) == 1


async def test_an_administrator_ends_a_job_whatever_its_provider_says(
    context: Context, tenant: UUID, provider: Provider, client: httpx.AsyncClient
) -> None:
    for claim in (await making.submitted(context.db, tenant), await making.claimed(context.db, tenant)):
        response = await client.post(f"/v1/jobs/{claim.job_id}/cancel?force=true")
        assert (response.status_code, response.json()["status"]) == (200, "cancelled")
        assert response.json()["error"]["type"] == "force_cancelled"
        assert response.json()["cancel_requested_at"] is not None
    assert provider.asked("/cancel") == []


async def test_what_the_provider_has_of_it_is_stopped_afterwards(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    claim = await making.submitted(context.db, tenant, "r-1")
    late = await making.claimed(context.db, tenant)
    for each in (claim, late):
        assert await operations.force_end(context.db, each.job_id)
    await store.record_answers(context.db, [making.accepted(late, "r-2")])
    await watch(context)
    assert sorted(call.path.split("/")[-2] for call in provider.asked("/cancel")) == ["r-1", "r-2"]
    assert await making.states(context.db, late.job_id) == ["superseded"]


async def test_only_an_administrator_may(make_client: MakeClient, context: Context, tenant: UUID) -> None:
    claim = await making.submitted(context.db, tenant)
    user = await make_client(scopes=("submit", "read"))
    assert (await user.post(f"/v1/jobs/{claim.job_id}/cancel?force=1")).status_code == 403
    assert (await user.post(f"/v1/jobs/{claim.job_id}/cancel?force=maybe")).status_code == 422
    assert await making.status(context.db, claim.job_id) == "submitted"


async def test_an_end_is_not_ended_again(context: Context, tenant: UUID) -> None:
    claim = await making.ended(context.db, tenant)
    assert not await operations.force_end(context.db, claim.job_id)
    assert await making.status(context.db, claim.job_id) == "completed"


async def test_a_tenant_may_have_a_doubt_end_in_a_failure(context: Context, tenant: UUID, provider: Provider) -> None:
    assert await set_wishes(context.db, "ours", OnDoubt.FAIL)
    provider.submit = says(None)
    job_id = await making.queued(context.db, tenant)
    await Submitter(context).drain()
    assert await making.status(context.db, job_id) == "queued"
    await making.make_due(context.db, job_id)
    await watch(context)
    await Submitter(context).drain()
    row = await making.outcome(context.db, job_id)
    assert row is not None
    assert (row["status"], row["error_type"], len(provider.submissions)) == ("failed", "submission_unknown", 1)


async def test_a_tenant_that_is_none_has_no_wishes(db: Database) -> None:
    assert not await set_wishes(db, "nobody", OnDoubt.FAIL)


@pytest.mark.parametrize("state", ["queued", "submitted", "in doubt"])
async def test_no_job_stays_for_ever(context: Context, tenant: UUID, provider: Provider, state: str) -> None:
    provider.submit = says(None)
    provider.status = says(reply({"status": "IN_QUEUE"}, 202))
    if state == "submitted":
        job_id = (await making.submitted(context.db, tenant)).job_id
    else:
        job_id = await making.queued(context.db, tenant)
    if state == "in doubt":
        await Submitter(context).drain()
    young = await making.queued(context.db, tenant)
    await making.make_older(context.db, job_id, 100)
    await due.end_the_oldest(context.db, 101)
    await watch(context)
    assert await making.outcome(context.db, job_id) is None
    await due.end_the_oldest(context.db, 99)
    await watch(context)
    row = await making.outcome(context.db, job_id)
    assert row is not None
    assert row["error_type"] == "deadline_exceeded"
    assert await making.outcome(context.db, young) is None
