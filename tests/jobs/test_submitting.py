"""One worker's submissions, to a provider that says everything a provider can say."""

import asyncio
import gzip
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.context import Context
from service.db import Database, Row
from service.jobs import operations, store, submitting
from service.jobs.facts import Answer
from service.jobs.submitting import Submitter, backoff
from service.jobs.watching import watch
from service.providers.fal import LARGEST_ANSWER, FalQueue
from service.queue import TaskName
from service.settings import Settings
from tests import making
from tests.provider import Call, Provider, Reply, dripping, page, reply, says
from tests.webhooks.posting import Poster


async def submit_one(context: Context, tenant: UUID, **changes: Any) -> tuple[str, Row | None, Row]:
    """Status, live row and attempt of a job that one worker took to the provider."""
    job_id = await making.queued(context.db, tenant, **changes)
    await Submitter(context).drain()
    attempts = await making.attempts(context.db, job_id)
    return await making.status(context.db, job_id), await making.live(context.db, job_id), attempts[-1]


async def test_two_hundred_jobs_are_submitted_once_each(context: Context, tenant: UUID, provider: Provider) -> None:
    jobs = {await making.queued(context.db, tenant) for _ in range(200)}
    submitter = Submitter(context)
    await asyncio.gather(*(submitter.drain() for _ in range(4)))
    assert Counter(UUID(call.webhook_url.split("/")[5]) for call in provider.submissions) == Counter(jobs)
    rows = await context.db.fetch("SELECT status, count(DISTINCT provider_request_id) AS ids FROM live_jobs"
                                  " JOIN attempts USING (job_id) GROUP BY status")  # fmt: skip
    assert [tuple(row) for row in rows] == [("submitted", 200)]


async def test_two_workers_submit_no_job_twice(context: Context, tenant: UUID, provider: Provider) -> None:
    for _ in range(100):
        await making.queued(context.db, tenant)
    await asyncio.gather(*(Submitter(context).drain() for _ in range(4)))
    assert len(provider.submissions) == len({call.webhook_url for call in provider.submissions}) == 100


async def test_a_submission_carries_the_input_the_key_and_the_address(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    await submit_one(context, tenant, priority="low", model="fal-ai/sa2va/8b/image")
    [call] = provider.submissions
    assert (call.path, call.body.decode()) == ("/fal-ai/sa2va/8b/image", making.INPUT)
    assert call.headers["authorization"] == "Key our-id:our-secret"
    assert call.headers["x-fal-queue-priority"] == "low"
    assert call.webhook_url.startswith(f"{context.settings.public_url}/webhooks/fal/")


async def test_an_accepted_job_waits_for_its_webhook(context: Context, tenant: UUID, provider: Provider) -> None:
    status, live, attempt = await submit_one(context, tenant)
    assert live is not None
    assert (status, live["duty"], live["is_due"]) == ("submitted", "report", False)
    assert attempt["status_url"] == f"{provider.url}/fal-ai/llava-next/requests/{attempt['provider_request_id']}/status"


REFUSALS = [
    reply({"detail": "Slow down"}, 429),
    reply({"detail": "Slow down"}, 429, retry_after="3600"),
    reply({"detail": "Overloaded"}, 503),
    reply({"detail": "Overloaded"}, 503, x_fal_request_id="r"),
    reply({"detail": "Not your app"}, 403),
    reply({"detail": "Timed out"}, 408),
    Reply(302, b"", {"location": "http://127.0.0.1:1/"}),
    page(404),
    page(413),
    page(503),
]


@pytest.mark.parametrize("answer", REFUSALS, ids=lambda answer: f"{answer.status}-{answer.body[:12].decode()}")
async def test_a_refused_job_is_offered_again(
    context: Context, tenant: UUID, provider: Provider, answer: Reply
) -> None:
    provider.submit = says(answer)
    status, live, attempt = await submit_one(context, tenant)
    assert live is not None
    assert (status, live["duty"], attempt["state"], attempt["http_status"]) == (
        "queued",
        "submit",
        "refused",
        answer.status,
    )


DOUBTS = [
    page(200),
    page(500),
    page(502),
    page(504),
    Reply(201, b""),
    Reply(204, b""),
    Reply(200, b'{"request_id": "r-1", "a": "' + b"x" * (LARGEST_ANSWER + 1) + b'"}'),
    reply({"detail": "Oops"}, 500),
    reply({"detail": "Bad gateway"}, 502),
    reply({"detail": "Gateway timeout"}, 504),
    reply({"status": "IN_QUEUE"}),
    reply({"request_id": 7}),
    reply(["request_id"]),
    Reply(500, b"<html>", {"content-type": "text/html", "x-fal-request-id": "r"}),
    None,
]


@pytest.mark.parametrize("answer", DOUBTS, ids=lambda answer: f"{answer.status}-{answer.body}" if answer else "cut")
async def test_a_lost_answer_leaves_the_job_in_doubt(
    context: Context, tenant: UUID, provider: Provider, answer: Reply | None
) -> None:
    provider.submit = says(answer)
    status, live, attempt = await submit_one(context, tenant)
    assert live is not None
    assert (status, live["duty"], attempt["state"], len(provider.submissions)) == ("queued", "settle", "ambiguous", 1)


@pytest.mark.parametrize("answer", [page(200), page(502)], ids=["200", "502"])
async def test_a_page_instead_of_an_answer_is_made_up_for_by_the_webhook(
    context: Context, tenant: UUID, provider: Provider, poster: Poster, answer: Reply
) -> None:
    """A proxy lost the queue's answer; the queue had taken the job."""
    provider.submit = says(answer)
    job_id = await making.queued(context.db, tenant)
    await Submitter(context).drain()
    [call] = provider.submissions
    assert await poster.post(call.webhook_url, "r-1", making.CAT) == {"verdict": "applied"}
    await Submitter(context).drain()
    assert (await making.status(context.db, job_id), len(provider.submissions)) == ("completed", 1)


async def test_a_lost_answer_is_waited_for_as_long_as_it_is_set(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    provider.submit = says(None)
    await submit_one(context, tenant)
    row = await context.db.fetchrow("SELECT extract(epoch FROM due_at - now())::float8 AS wait FROM live_jobs")
    assert row is not None
    assert context.settings.ambiguous_seconds - 5 < row["wait"] <= context.settings.ambiguous_seconds


def test_a_lost_answer_is_waited_for_a_minute_unless_it_is_set() -> None:
    assert Settings.model_fields["ambiguous_seconds"].default == 60


async def test_an_answer_that_drips_is_cut_at_the_limit(
    context: Context, tenant: UUID, provider: Provider, http: httpx.AsyncClient
) -> None:
    """Each byte comes in time, and all of them never."""
    provider.submit = dripping
    hasty = replace(context, fal=FalQueue(http, provider.url, "k:s", timeout=0.3))
    async with asyncio.timeout(30):
        status, live, attempt = await submit_one(hasty, tenant)
    assert live is not None
    assert (status, live["duty"], attempt["state"]) == ("queued", "settle", "ambiguous")
    assert "TimeoutError" in attempt["error"]


async def test_an_answer_that_does_not_come_in_time_is_lost(
    context: Context, tenant: UUID, provider: Provider, http: httpx.AsyncClient
) -> None:
    let_go = asyncio.Event()

    async def hold(_: Call) -> None:
        await let_go.wait()

    provider.submit = hold
    hasty = replace(context, fal=FalQueue(http, provider.url, "k:s", timeout=0.1))
    _, _, attempt = await submit_one(hasty, tenant)
    let_go.set()
    assert attempt["state"] == "ambiguous"


async def test_a_queue_that_cannot_be_reached_refused(context: Context, tenant: UUID, http: httpx.AsyncClient) -> None:
    away = replace(context, fal=FalQueue(http, "http://127.0.0.1:1", "k:s", timeout=5))
    status, _, attempt = await submit_one(away, tenant)
    assert (status, attempt["state"], attempt["http_status"]) == ("queued", "refused", None)


@pytest.mark.parametrize("status", [400, 404, 405, 409, 413, 422])
async def test_the_models_own_no_is_the_jobs_end(
    context: Context, tenant: UUID, provider: Provider, status: int
) -> None:
    detail = [{"loc": ["body", "prompt"], "msg": "field required", "type": "missing"}]
    provider.submit = says(reply({"detail": detail}, status))
    job_id = await making.queued(context.db, tenant)
    await Submitter(context).drain()
    row = await making.outcome(context.db, job_id)
    assert row is not None
    assert (row["status"], row["http_status"], row["error"]) == ("failed", status, "body.prompt: field required")
    assert row["body"] == reply({"detail": detail}).body
    assert [each["source"] for each in await making.reports(context.db, job_id)] == ["submit"]


async def test_retry_after_is_kept_and_the_worker_is_nudged_then(
    context: Context, tenant: UUID, provider: Provider, nudges: list[TaskName]
) -> None:
    provider.submit = says(reply({}, 429, retry_after="600"))
    await submit_one(context, tenant)
    row = await context.db.fetchrow("SELECT due_at > now() + interval '590 s' AS later FROM live_jobs")
    context.nudger.close()
    assert row is not None
    assert row["later"]
    assert nudges == []


async def refused_before(context: Context, tenant: UUID, seconds: float, **changes: Any) -> UUID:
    """A job that is to be offered again now, and was put off for so long."""
    claim = await making.claimed(context.db, tenant, **changes)
    await store.record_answers(context.db, [making.refused(claim, seconds)])
    await making.make_due(context.db, claim.job_id)
    return claim.job_id


async def test_a_job_that_was_refused_long_enough_is_given_up(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    provider.submit = says(reply({"detail": "Full"}, 503))
    job_id = await refused_before(context, tenant, context.settings.submit_retry_seconds + 1)
    await Submitter(context).drain()
    row = await making.outcome(context.db, job_id)
    assert row is not None
    assert (row["status"], row["error_type"], row["http_status"]) == ("failed", "submission_refused", 503)
    assert "Full" in row["error"]
    body = json.loads(row["body"])
    assert body == {"detail": row["error"], "error_type": "submission_refused", "message": row["error"]}
    assert await making.states(context.db, job_id) == ["refused…", "refused…"]
    assert len(provider.submissions) == 1


async def test_a_job_is_not_given_up_within_its_window(context: Context, tenant: UUID, provider: Provider) -> None:
    provider.submit = says(reply({"detail": "Full"}, 503))
    job_id = await refused_before(context, tenant, context.settings.submit_retry_seconds - 30)
    await Submitter(context).drain()
    assert await making.status(context.db, job_id) == "queued"


async def test_the_window_begins_with_the_first_attempt_and_not_with_the_job(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    """A job that stood behind a long backlog was not refused by anybody yet."""
    provider.submit = says(reply({"detail": "Full"}, 503))
    job_id = await making.queued(context.db, tenant)
    await making.make_older(context.db, job_id, 10 * context.settings.submit_retry_seconds)
    await Submitter(context).drain()
    assert await making.status(context.db, job_id) == "queued"
    [first] = await making.attempts(context.db, job_id)
    assert first["state"] == "refused"


async def test_an_old_job_is_offered_before_it_is_given_up(context: Context, tenant: UUID) -> None:
    job_id = await refused_before(context, tenant, context.settings.submit_retry_seconds + 1)
    await Submitter(context).drain()
    assert await making.status(context.db, job_id) == "submitted"


async def wait_of(context: Context, job_id: UUID) -> float:
    row = await context.db.fetchrow(
        "SELECT extract(epoch FROM due_at - answered_at)::float8 AS wait FROM live_jobs JOIN attempts USING (job_id)"
        " WHERE job_id = $1 AND number = live_jobs.attempt",
        job_id,
    )
    assert row is not None
    return float(row["wait"])


@pytest.mark.parametrize("asked", ["0", "-1", "soon", "Mon, 01 Jan 2001 00:00:00 GMT"])
async def test_no_retry_after_makes_a_job_come_back_before_its_backoff(
    context: Context, tenant: UUID, provider: Provider, asked: str
) -> None:
    provider.submit = says(reply({}, 429, retry_after=asked))
    job_id = await making.queued(context.db, tenant)
    await Submitter(context).drain()
    assert 0.2 <= await wait_of(context, job_id) <= 0.5
    assert len(provider.submissions) == 1


async def test_a_retry_after_that_is_longer_than_the_backoff_is_kept(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    provider.submit = says(reply({}, 503, retry_after="40"))
    job_id = await making.queued(context.db, tenant)
    await Submitter(context).drain()
    assert 39 <= await wait_of(context, job_id) <= 50.1


async def test_no_retry_after_is_longer_than_what_is_left_of_the_window(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    """Else a job would wait for a try that it is not to have."""
    provider.submit = says(reply({}, 429, retry_after="86400"))
    window = context.settings.submit_retry_seconds
    old = await refused_before(context, tenant, window - 100)
    fresh = await making.queued(context.db, tenant)
    await Submitter(context).drain()
    assert window - 5 <= await wait_of(context, fresh) <= window + 0.1
    assert 90 <= await wait_of(context, old) <= 100.1


async def test_at_the_end_of_the_window_a_job_is_tried_once_more(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    provider.submit = says(reply({}, 429, retry_after="86400"))
    job_id = await making.queued(context.db, tenant)
    await Submitter(context).drain()
    await making.make_older(context.db, job_id, context.settings.submit_retry_seconds)
    await making.make_due(context.db, job_id)
    await Submitter(context).drain()
    assert (await making.status(context.db, job_id), len(provider.submissions)) == ("failed", 2)


@pytest.mark.parametrize("late", ["accepted", "lost"])
async def test_a_webhook_may_come_before_the_answer(
    context: Context, tenant: UUID, provider: Provider, poster: Poster, late: str
) -> None:
    async def answer(call: Call) -> Reply | None:
        said = provider.acceptance(call, "r-1")
        verdict = await poster.post(call.webhook_url, "r-1", making.CAT)
        assert verdict == {"verdict": "applied"}
        return reply(said) if late == "accepted" else None

    provider.submit = answer
    status, live, attempt = await submit_one(context, tenant)
    assert (status, live) == ("completed", None)
    assert (attempt["state"], attempt["provider_request_id"]) == ("completed", "r-1")


async def test_a_cancel_during_the_submission_reaches_the_provider(
    context: Context, tenant: UUID, provider: Provider, nudges: list[TaskName]
) -> None:
    async def answer(call: Call) -> Reply:
        await operations.cancel(context, UUID(call.webhook_url.split("/")[5]))
        return await provider.accept(call)

    provider.submit = answer
    status, live, _ = await submit_one(context, tenant)
    context.nudger.close()
    assert live is not None
    assert (status, live["duty"], live["is_due"]) == ("submitted", "report", True)
    assert TaskName.WATCH in nudges


async def test_a_cancel_during_a_refused_submission_ends_the_job(
    context: Context, tenant: UUID, provider: Provider, nudges: list[TaskName]
) -> None:
    async def answer(call: Call) -> Reply:
        await operations.cancel(context, UUID(call.webhook_url.split("/")[5]))
        return page(503)

    provider.submit = answer
    status, live, attempt = await submit_one(context, tenant)
    assert live is not None
    assert (status, live["duty"], live["is_due"], attempt["state"]) == ("queued", "close", True, "refused")
    await Submitter(context).drain()
    context.nudger.close()
    assert TaskName.WATCH in nudges
    await watch(context)
    assert await making.status(context.db, live["job_id"]) == "cancelled"
    assert await making.states(context.db, live["job_id"]) == ["refused…"]
    assert [call.method for call in provider.calls] == ["POST"]


async def test_a_cancel_during_the_last_submission_of_the_window_is_a_cancel(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    async def answer(call: Call) -> Reply:
        await operations.cancel(context, UUID(call.webhook_url.split("/")[5]))
        return page(503)

    provider.submit = answer
    job_id = await refused_before(context, tenant, context.settings.submit_retry_seconds + 1)
    await Submitter(context).drain()
    await watch(context)
    assert await making.status(context.db, job_id) == "cancelled"


async def test_no_more_submissions_are_on_their_way_than_there_are_slots(
    context: Context, tenant: UUID, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "SLOTS", 5)
    on_their_way: list[int] = []
    now = 0

    async def answer(call: Call) -> Reply:
        nonlocal now
        now += 1
        on_their_way.append(now)
        await asyncio.sleep(0)
        now -= 1
        return await provider.accept(call)

    provider.submit = answer
    for _ in range(40):
        await making.queued(context.db, tenant)
    submitter = Submitter(context)
    await asyncio.gather(*(submitter.drain() for _ in range(3)))
    assert len(on_their_way) == 40
    assert max(on_their_way) <= 5


async def test_jobs_that_come_while_all_slots_are_taken_are_submitted_too(
    context: Context, tenant: UUID, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "SLOTS", 1)
    submitter = Submitter(context)
    first = True

    async def answer(call: Call) -> Reply:
        nonlocal first
        if first:
            first = False
            await making.queued(context.db, tenant)
            submitter.pump.wake()  # A nudge that finds no free slot returns at once.
        return await provider.accept(call)

    provider.submit = answer
    await making.queued(context.db, tenant)
    await submitter.drain()
    assert len(provider.submissions) == 2


async def test_a_submission_that_hangs_holds_no_other_up(context: Context, tenant: UUID, provider: Provider) -> None:
    let_go = asyncio.Event()
    hanging = await making.queued(context.db, tenant)

    async def answer(call: Call) -> Reply:
        if str(hanging) in call.webhook_url:
            await let_go.wait()
        return await provider.accept(call)

    provider.submit = answer
    others = [await making.queued(context.db, tenant) for _ in range(3 * submitting.SLOTS)]
    draining = asyncio.create_task(Submitter(context).drain())

    async def all_others_are_submitted() -> bool:
        return await by_status(context, "submitted") == set(others)

    await making.until(all_others_are_submitted)
    assert await by_status(context, "queued") == {hanging}
    let_go.set()
    await draining
    assert await by_status(context, "queued") == set()


async def by_status(context: Context, status: str) -> set[UUID]:
    rows = await context.db.fetch("SELECT job_id FROM live_jobs WHERE status = $1", status)
    return {row["job_id"] for row in rows}


async def test_one_answer_that_cannot_be_kept_costs_no_other_job_its_own(
    context: Context, tenant: UUID, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [await making.queued(context.db, tenant) for _ in range(20)]
    record = store.record_answers

    async def fail_for_one(db: Database, answers: Sequence[Answer]) -> list[tuple[UUID, int]]:
        if any(answer.job_id == jobs[7] for answer in answers):
            raise ZeroDivisionError
        return await record(db, answers)

    monkeypatch.setattr(store, "record_answers", fail_for_one)
    await Submitter(context).drain()
    assert await by_status(context, "submitted") == set(jobs) - {jobs[7]}
    assert len(provider.submissions) == 20


async def test_a_compressed_answer_that_nobody_asked_for_is_understood(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    async def answer(call: Call) -> Reply:
        body = gzip.compress((await provider.accept(call)).body)
        return Reply(200, body, {"content-type": "application/json", "content-encoding": "gzip"})

    provider.submit = answer
    assert (await submit_one(context, tenant))[0] == "submitted"


HOSTILE = [
    {"request_id": "r\0"},
    {"request_id": "\ud800"},
    {"request_id": ""},
    {"request_id": "r", "queue_position": 2**40},
    {"request_id": "r", "queue_position": True},
    {"request_id": "r", "gateway_request_id": "g\0"},
    {"request_id": "r", "status_url": "\0", "response_url": "\ud800", "cancel_url": "x" * 100_000},
]


@pytest.mark.parametrize("content", HOSTILE, ids=lambda content: repr(content)[:40])
async def test_a_strange_acceptance_harms_no_other_job(
    context: Context, tenant: UUID, provider: Provider, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitting, "PATIENCE_SECONDS", 0.0)
    strange = await making.queued(context.db, tenant)

    async def answer(call: Call) -> Reply:
        return reply(content) if str(strange) in call.webhook_url else await provider.accept(call)

    provider.submit = answer
    others = [await making.queued(context.db, tenant) for _ in range(5)]
    await Submitter(context).drain()
    assert {await making.status(context.db, job_id) for job_id in others} == {"submitted"}
    assert [row["state"] for row in await making.attempts(context.db, strange)] != ["submitting"]


async def test_a_refusal_in_strange_words_is_a_refusal(context: Context, tenant: UUID, provider: Provider) -> None:
    provider.submit = says(reply({"detail": "\0 \ud800"}, 503))
    _, _, attempt = await submit_one(context, tenant)
    assert attempt["state"] == "refused"


async def test_a_claim_that_fails_gives_its_slots_back(context: Context, tenant: UUID, monkeypatch: Any) -> None:
    submitter = Submitter(context)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_CLAIM", "SELECT 1 / ($1 * 0 + $2 * 0 + length($3) * 0)")
        with pytest.raises(Exception, match="division by zero"):
            await submitter.drain()
    job_id = await making.queued(context.db, tenant)
    await submitter.drain()
    assert await making.status(context.db, job_id) == "submitted"


def test_the_time_before_the_next_try_grows_to_a_minute() -> None:
    assert 0.25 <= backoff(1) <= 0.5
    assert all(backoff(attempt) <= 60 for attempt in (8, 100, 32_000))
    assert backoff(20) >= 30


@pytest.mark.parametrize("words", ["\0", "\ud800"])
async def test_a_job_that_was_refused_in_strange_words_is_given_up_too(
    context: Context, tenant: UUID, provider: Provider, words: str
) -> None:
    provider.submit = says(reply({"detail": words}, 429))
    job_id = await making.queued(context.db, tenant)
    await Submitter(context).drain()
    await context.db.execute(
        "UPDATE live_jobs SET due_at = now(), refused_seconds = $1", context.settings.submit_retry_seconds
    )
    await Submitter(context).drain()
    assert await making.status(context.db, job_id) == "failed"


async def test_those_that_were_refused_together_do_not_come_back_together(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    provider.submit = says(reply({}, 429, retry_after="600"))
    for _ in range(30):
        await making.queued(context.db, tenant)
    await Submitter(context).drain()
    rows = await context.db.fetch("SELECT extract(epoch FROM due_at - now())::float8 AS due_in FROM live_jobs")
    waits = [row["due_in"] for row in rows]
    assert len({round(each) for each in waits}) > 10
    assert min(waits) > 590
    assert max(waits) <= 750
