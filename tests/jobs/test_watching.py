"""The backstop: what is asked of the provider when nothing was heard, and what its answers may do."""

import asyncio
import json
from dataclasses import replace
from decimal import Decimal
from uuid import UUID, uuid4

import httpx
import pytest

from service.context import Context
from service.jobs import due, endings, store
from service.jobs.facts import Claim
from service.jobs.submitting import Submitter
from service.jobs.watching import MOST_RESUBMISSIONS, SLOTS, Watcher, watch
from service.providers import fal
from service.providers.base import Taken
from service.providers.fal import FalQueue
from service.queue import TaskName
from service.stats.prices import set_price
from tests import making
from tests.provider import Call, Provider, Reply, dripping, page, reply, says
from tests.webhooks.posting import Poster


async def look(context: Context, job_id: UUID) -> str:
    """Let the job's time come, look at all that is due, and tell its status."""
    await making.make_due(context.db, job_id)
    await watch(context)
    return await making.status(context.db, job_id)


async def with_provider(context: Context, tenant: UUID, provider: Provider, **changes: object) -> Claim:
    """A job that the provider really accepted, with the addresses that it gave."""
    job_id = await making.queued(context.db, tenant, **changes)
    await Submitter(context).drain()
    return Claim(job_id, 1, making.MODEL, making.INPUT, "normal", 0.0)


# A worker died


async def test_a_dead_workers_submission_is_in_doubt(context: Context, tenant: UUID) -> None:
    claim = await making.claimed(context.db, tenant)
    assert await look(context, claim.job_id) == "queued"
    [attempt] = await making.attempts(context.db, claim.job_id)
    row = await making.live(context.db, claim.job_id)
    assert row is not None
    assert (attempt["state"], row["duty"], row["is_due"]) == ("ambiguous", "settle", False)


async def test_its_webhook_still_counts(context: Context, tenant: UUID, poster: Poster) -> None:
    claim = await making.claimed(context.db, tenant)
    await look(context, claim.job_id)
    url = context.settings.public_url + poster.sealer.path(claim.job_id, 1, claim.model)
    assert await poster.post(url, "r-1", making.CAT) == {"verdict": "applied"}
    assert await making.status(context.db, claim.job_id) == "completed"


async def test_a_doubt_that_lasted_ends_in_a_new_submission(
    context: Context, tenant: UUID, nudges: list[TaskName], provider: Provider
) -> None:
    claim = await making.claimed(context.db, tenant)
    await look(context, claim.job_id)
    await look(context, claim.job_id)
    await Submitter(context).drain()
    context.nudger.close()
    assert [row["state"] for row in await making.attempts(context.db, claim.job_id)] == ["abandoned", "submitted"]
    assert (TaskName.SUBMIT in nudges, len(provider.submissions)) == (True, 1)


async def test_a_job_is_submitted_again_three_times_and_then_given_up(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    provider.submit = says(None)
    job_id = await making.queued(context.db, tenant)
    for _ in range(MOST_RESUBMISSIONS + 1):
        assert await making.status(context.db, job_id) == "queued"
        await Submitter(context).drain()
        await look(context, job_id)
    row = await making.outcome(context.db, job_id)
    assert row is not None
    assert (row["status"], row["error_type"], len(provider.submissions)) == ("failed", "submission_unknown", 4)
    body = json.loads(row["body"])
    assert body == {"detail": row["error"], "error_type": "submission_unknown", "message": row["error"]}
    rows = await making.attempts(context.db, job_id)
    assert [attempt["resubmitted_at"] is not None for attempt in rows] == [True, True, True, False]
    assert await making.states(context.db, job_id) == ["superseded"] * 4


async def test_refusals_between_do_not_use_up_the_new_submissions(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    job_id = await making.queued(context.db, tenant)
    for answer in (page(503), None, page(503), page(503), None, None, page(503)):
        provider.submit = says(answer)
        await making.make_due(context.db, job_id)
        await Submitter(context).drain()
        await look(context, job_id)
    provider.submit = provider.accept
    await making.make_due(context.db, job_id)
    await Submitter(context).drain()
    assert await making.status(context.db, job_id) == "submitted"


async def test_a_cancelled_job_in_doubt_is_not_submitted_again(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    provider.submit = says(None)
    job_id = await making.queued(context.db, tenant)
    await Submitter(context).drain()
    await endings.request_cancel(context.db, job_id)
    assert await look(context, job_id) == "cancelled"
    assert len(provider.submissions) == 1
    assert await making.states(context.db, job_id) == ["superseded"]


# A webhook is late


async def test_a_waiting_job_shows_its_position(context: Context, tenant: UUID, provider: Provider) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.status = says(reply({"status": "IN_QUEUE", "queue_position": 12}, 202))
    assert await look(context, claim.job_id) == "submitted"
    row = await making.live(context.db, claim.job_id)
    assert row is not None
    assert (row["queue_position"], row["is_due"]) == (12, False)


async def test_a_running_job_is_in_progress(context: Context, tenant: UUID, provider: Provider) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.status = says(reply({"status": "IN_PROGRESS", "logs": []}, 202))
    assert await look(context, claim.job_id) == await look(context, claim.job_id) == "in_progress"
    assert await making.events(context.db, claim.job_id) == ["registered", "submitting", "accepted", "started"]


async def test_a_result_that_was_polled_ends_the_job(context: Context, tenant: UUID, provider: Provider) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.ended(Reply(200, making.CAT))
    assert await look(context, claim.job_id) == "completed"
    row = await making.outcome(context.db, claim.job_id)
    assert row is not None
    assert (row["body"], row["source"], row["text"]) == (making.CAT, "result", "A cat.")


@pytest.mark.parametrize("status", [422, 500, 400])
async def test_a_polled_failure_ends_the_job_with_its_own_words(
    context: Context, tenant: UUID, provider: Provider, status: int
) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.ended(
        reply({"detail": [{"loc": ["body"], "msg": "Bad", "type": "bad"}]}, status), f"status code: {status}"
    )
    assert await look(context, claim.job_id) == "failed"
    row = await making.outcome(context.db, claim.job_id)
    assert row is not None
    assert (row["http_status"], row["error"], row["error_type"]) == (status, "body: Bad", "bad")


async def test_a_polled_end_by_cancel_is_a_cancel(context: Context, tenant: UUID, provider: Provider) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.ended(reply({"detail": "Request was cancelled"}, 499), "cancelled")
    assert await look(context, claim.job_id) == "cancelled"


UNPROVEN = [
    *(reply({"detail": "No"}, status) for status in (401, 403, 408, 429, 500, 502, 503, 504)),
    *(page(status) for status in (200, 500, 502, 503)),
    reply({"status": "UNHEARD_OF"}),
    reply({"status": "COMPLETED"}, 500),
    reply({"status": None}),
    reply([]),
    Reply(200, b""),
    Reply(302, b"", {"location": "/elsewhere"}),
    None,
]


@pytest.mark.parametrize("answer", UNPROVEN, ids=lambda answer: f"{answer.status}-{answer.body[:20]}" if answer else "")
async def test_no_status_that_proves_nothing_ends_a_job(
    context: Context, tenant: UUID, provider: Provider, answer: Reply | None
) -> None:
    claim = await with_provider(context, tenant, provider)
    await making.make_older(context.db, claim.job_id, 10 * context.settings.lost_after_seconds)
    provider.status = says(answer)
    assert await look(context, claim.job_id) == "submitted"


@pytest.mark.parametrize(
    "answer",
    [
        *(reply({"detail": "No"}, status) for status in (401, 403, 408, 429, 400, 502, 503, 504)),
        *(page(status) for status in (200, 500, 502)),
        Reply(500, b'{"detail": "A ca'),
        Reply(422, b"No"),
        reply({}, 202),
        None,
    ],
    ids=lambda answer: f"{answer.status}-{answer.body[:20]}" if answer else "",
)
async def test_no_result_that_proves_nothing_ends_a_job(
    context: Context, tenant: UUID, provider: Provider, answer: Reply | None
) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.ended(Reply(200, making.CAT))
    provider.result = says(answer)
    assert await look(context, claim.job_id) == "submitted"


@pytest.mark.parametrize("body", [b"A cat.", "Ωé\u2028".encode(), b"\xff\xfe", b'{"output": "A ca'])
async def test_a_result_that_is_no_json_is_kept_as_a_json_string(
    context: Context, tenant: UUID, provider: Provider, client: httpx.AsyncClient, body: bytes
) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.ended(Reply(200, body, {"content-type": "text/plain"}))
    assert await look(context, claim.job_id) == "completed"
    row = await making.outcome(context.db, claim.job_id)
    report, _ = await making.reports(context.db, claim.job_id)
    assert row is not None
    assert json.loads(row["body"]) == body.decode("utf-8", "replace")
    assert (report["body"], report["verdict"]) == (body, "applied")
    assert (await client.get(f"/v1/jobs/{claim.job_id}/result")).json() == body.decode("utf-8", "replace")
    assert (await client.get(f"/v1/jobs/{claim.job_id}")).status_code == 200


async def test_a_result_that_is_too_large_fails_the_job(
    context: Context, tenant: UUID, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fal.LARGEST_RESULT == 64 * 2**20
    monkeypatch.setattr(fal, "LARGEST_RESULT", 10_000)
    fits = await with_provider(context, tenant, provider)
    provider.ended(Reply(200, b'"' + b"x" * 9_998 + b'"'))
    assert await look(context, fits.job_id) == "completed"
    claim = await with_provider(context, tenant, provider)
    provider.ended(Reply(200, b'"' + b"x" * 9_999 + b'"'))
    assert await look(context, claim.job_id) == "failed"
    row = await making.outcome(context.db, claim.job_id)
    assert row is not None
    assert (row["http_status"], row["error_type"]) == (502, "result_too_large")
    assert json.loads(row["body"]) == {
        "detail": row["error"],
        "error_type": "result_too_large",
        "message": row["error"],
    }
    assert await making.states(context.db, claim.job_id) == ["failed"]


async def test_a_status_that_is_too_large_proves_nothing(context: Context, tenant: UUID, provider: Provider) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.ended(Reply(200, making.CAT))
    provider.status = says(reply({"status": "COMPLETED", "logs": "x" * (fal.LARGEST_ANSWER + 1)}))
    assert await look(context, claim.job_id) == "submitted"


@pytest.mark.parametrize("where", ["status", "cancel", "result"])
async def test_an_answer_that_drips_is_cut_at_the_limit(
    context: Context,
    tenant: UUID,
    provider: Provider,
    http: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.ended(Reply(200, making.CAT))
    provider.status = says(reply({"status": "IN_PROGRESS"}, 202)) if where == "cancel" else provider.status
    setattr(provider, where, dripping)
    monkeypatch.setattr(fal, "RESULT_SECONDS", 0.3)
    hasty = replace(context, fal=FalQueue(http, provider.url, "k:s", timeout=0.3))
    await endings.request_cancel(context.db, claim.job_id)
    async with asyncio.timeout(30):
        assert await look(hasty, claim.job_id) == ("in_progress" if where == "cancel" else "submitted")


async def test_a_look_that_hangs_holds_no_other_up(context: Context, tenant: UUID, provider: Provider) -> None:
    hanging = await with_provider(context, tenant, provider)
    others = [await with_provider(context, tenant, provider) for _ in range(2 * SLOTS)]
    let_go = asyncio.Event()
    [attempt] = await making.attempts(context.db, hanging.job_id)

    async def status(call: Call) -> Reply:
        if attempt["provider_request_id"] in call.path:
            await let_go.wait()
        return reply({"status": "IN_PROGRESS"}, 202)

    provider.status = status
    await context.db.execute("UPDATE live_jobs SET due_at = now() - interval '1 ms'")
    watching = asyncio.create_task(watch(context))

    async def all_others_were_seen() -> bool:
        return {await making.status(context.db, other.job_id) for other in others} == {"in_progress"}

    await making.until(all_others_were_seen)
    assert await making.status(context.db, hanging.job_id) == "submitted"
    let_go.set()
    await watching
    assert await making.status(context.db, hanging.job_id) == "in_progress"


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("where", ["status", "result"])
async def test_a_request_that_the_provider_lost_is_given_up_only_after_a_while(
    context: Context, tenant: UUID, provider: Provider, status: int, where: str
) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.ended(reply({"detail": "Request not found"}, status))
    if where == "status":
        provider.status = says(reply({"detail": "Request not found"}, status))
    await making.make_older(context.db, claim.job_id, 2 * context.settings.lost_after_seconds)
    assert await look(context, claim.job_id) == "submitted"
    await make_missing_for(context, claim.job_id, context.settings.lost_after_seconds - 5)
    assert await look(context, claim.job_id) == "submitted"
    await make_missing_for(context, claim.job_id, context.settings.lost_after_seconds)
    assert await look(context, claim.job_id) == "failed"
    row = await making.outcome(context.db, claim.job_id)
    assert row is not None
    assert row["error_type"] == "provider_lost_request"


async def make_missing_for(context: Context, job_id: UUID, seconds: float) -> None:
    await context.db.execute(
        "UPDATE live_jobs SET missing_since = now() - make_interval(secs => $2) WHERE job_id = $1", job_id, seconds
    )


async def test_two_denials_are_not_enough_however_far_apart(context: Context, tenant: UUID, provider: Provider) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.status = says(reply({"detail": "Request not found"}, 404))
    await look(context, claim.job_id)
    await make_missing_for(context, claim.job_id, 10 * context.settings.lost_after_seconds)
    assert await look(context, claim.job_id) == "submitted"
    assert await look(context, claim.job_id) == "failed"


async def test_a_cancelled_job_that_the_provider_lost_is_cancelled(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    claim = await with_provider(context, tenant, provider)
    await endings.request_cancel(context.db, claim.job_id)
    provider.cancel = says(reply({"detail": "Request not found"}, 404))
    provider.status = says(reply({"detail": "Request not found"}, 404))
    for _ in range(2):
        assert await look(context, claim.job_id) == "submitted"
    await make_missing_for(context, claim.job_id, context.settings.lost_after_seconds)
    assert await look(context, claim.job_id) == "cancelled"


@pytest.mark.parametrize("payload", [{"payload_error": "Too large."}, {"status": "WHAT"}], ids=["no end", "unreadable"])
async def test_a_webhook_without_an_end_names_a_submission_that_is_in_doubt(
    context: Context, tenant: UUID, provider: Provider, poster: Poster, payload: dict[str, str]
) -> None:
    """Its provider has it: to submit it again would pay for it twice."""
    provider.submit = says(None)
    job_id = await making.queued(context.db, tenant)
    await Submitter(context).drain()
    url = context.settings.public_url + poster.sealer.path(job_id, 1, making.MODEL)
    await poster.post(url, "r-1", b"null", **payload)
    assert await making.states(context.db, job_id) == ["submitted…"]
    provider.ended(Reply(200, making.CAT))
    await watch(context)
    assert await making.status(context.db, job_id) == "completed"
    assert len(provider.submissions) == 1


async def test_it_does_so_while_the_submission_is_on_its_way(
    context: Context, tenant: UUID, provider: Provider, poster: Poster
) -> None:
    claim = await making.claimed(context.db, tenant)
    url = context.settings.public_url + poster.sealer.path(claim.job_id, 1, making.MODEL)
    await poster.post(url, "r-1", b"null", payload_error="Too large.")
    provider.ended(Reply(200, making.CAT))
    assert await look(context, claim.job_id) == "submitted"
    assert await look(context, claim.job_id) == "completed"
    assert await making.events(context.db, claim.job_id) == ["registered", "submitting", "accepted", "completed"]


async def test_an_acceptance_that_comes_before_the_next_submission_prevents_it(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    claim = await making.claimed(context.db, tenant)
    for _ in range(2):
        assert await look(context, claim.job_id) == "queued"
    assert await making.states(context.db, claim.job_id) == ["abandoned…"]
    await store.record_answers(context.db, [making.accepted(claim, "r-1")])
    await Submitter(context).drain()
    assert provider.submissions == []
    [attempt] = await making.attempts(context.db, claim.job_id)
    assert (attempt["state"], attempt["resubmitted_at"]) == ("submitted", None)


async def test_a_request_that_is_found_again_has_the_whole_time_anew(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    claim = await with_provider(context, tenant, provider)
    lost, found = reply({"detail": "Request not found"}, 404), reply({"status": "IN_PROGRESS"}, 202)
    provider.status = says(lost, found, lost)
    await look(context, claim.job_id)
    await make_missing_for(context, claim.job_id, context.settings.lost_after_seconds)
    assert await look(context, claim.job_id) == "in_progress"
    assert await look(context, claim.job_id) == "in_progress"


async def test_a_provider_that_is_away_ends_nothing(context: Context, tenant: UUID, http: httpx.AsyncClient) -> None:
    claim = await making.submitted(context.db, tenant)
    away = replace(context, fal=FalQueue(http, "http://127.0.0.1:1", "k:s", timeout=5))
    assert await look(away, claim.job_id) == "submitted"


async def test_our_key_goes_to_no_address_of_another_origin(context: Context, tenant: UUID, provider: Provider) -> None:
    port = int(provider.url.rpartition(":")[2])
    claim = await making.claimed(context.db, tenant)
    for other in (f"http://localhost:{port}", f"http://127.0.0.1:{port}@evil.example", f"https://127.0.0.1:{port}"):
        evil = {"status_url": f"{other}/evil", "response_url": f"{other}/evil", "cancel_url": f"{other}/evil"}
        await context.db.execute("UPDATE attempts SET provider_request_id = NULL")
        await context.db.execute("UPDATE live_jobs SET duty = 'answer'")
        await store.record_answers(context.db, [making.accepted(claim, "r-1", **evil)])
        await endings.request_cancel(context.db, claim.job_id)
        assert await look(context, claim.job_id) == "submitted"
    assert provider.asked("/evil") == []
    assert {call.path for call in provider.calls} == {
        "/fal-ai/llava-next/requests/r-1/status",
        "/fal-ai/llava-next/requests/r-1/cancel",
    }


async def test_the_addresses_that_the_queue_gave_are_used(context: Context, tenant: UUID, provider: Provider) -> None:
    claim = await making.claimed(context.db, tenant)
    own = {"status_url": f"{provider.url}/own/status", "response_url": f"{provider.url}/own/r-1/response"}
    await store.record_answers(context.db, [making.accepted(claim, "r-1", **own)])
    provider.ended(Reply(200, making.CAT))
    assert await look(context, claim.job_id) == "completed"
    assert [call.path for call in provider.calls] == ["/own/status", "/own/r-1"]


# Somebody asked for the end


@pytest.mark.parametrize(
    ("answer", "after"), [(200, "cancelled"), (202, "submitted"), (400, "submitted"), (404, "submitted")]
)
async def test_a_cancel_ends_a_job_only_when_the_provider_took_it_out(
    context: Context, tenant: UUID, provider: Provider, answer: int, after: str
) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.cancel = says(reply({}, answer))
    await endings.request_cancel(context.db, claim.job_id)
    assert await look(context, claim.job_id) == after
    [call] = provider.asked("/cancel")
    assert (call.method, call.headers["authorization"]) == ("PUT", "Key our-id:our-secret")
    assert await making.states(context.db, claim.job_id) == ["cancelled" if after == "cancelled" else "submitted…"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (reply({"status": "OK"}), "removed"),
        (reply({"success": True}), "removed"),
        (Reply(200, b""), "removed"),
        (reply({"success": False}), "asked"),
        (reply({"status": "CANCELLATION_REQUESTED"}, 202), "asked"),
        (reply({"status": "ALREADY_COMPLETED"}, 400), "over"),
        (reply({"detail": "Not found"}, 404), "missing"),
        (reply({"detail": "Gone"}, 410), "missing"),
        (reply({"detail": "Oops"}, 500), None),
        (page(502), None),
        (reply({"detail": "Who are you?"}, 401), None),
        (reply({"detail": "Slow down"}, 429), None),
        (None, None),
    ],
    ids=lambda value: f"{value.status}-{value.body.decode()[:20]}" if isinstance(value, Reply) else str(value),
)
async def test_what_a_provider_says_to_a_cancel(
    context: Context, provider: Provider, answer: Reply | None, said: str | None
) -> None:
    provider.cancel = says(answer)
    said_and_kept = await context.fal.cancel(Taken(uuid4(), 1, making.MODEL, "r-1"))
    assert said_and_kept.answer == said
    assert (said_and_kept.evidence.body if said_and_kept.evidence else None) == (answer.body if answer else None)


async def test_a_job_that_completed_before_its_cancel_is_completed(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    claim = await with_provider(context, tenant, provider)
    await endings.request_cancel(context.db, claim.job_id)
    provider.cancel = says(reply({"status": "ALREADY_COMPLETED"}, 400))
    provider.ended(Reply(200, making.CAT))
    assert await look(context, claim.job_id) == "completed"


# A deadline passed


async def test_a_job_with_the_provider_is_cancelled_there_at_its_deadline(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    claim = await with_provider(context, tenant, provider, deadline_seconds=3600.0)
    await making.pass_deadline(context.db, claim.job_id)
    await watch(context)
    row = await making.outcome(context.db, claim.job_id)
    assert row is not None
    assert (row["status"], row["error_type"], row["http_status"]) == ("failed", "deadline_exceeded", 504)
    assert len(provider.asked("/cancel")) == 1
    assert [call.method for call in provider.calls] == ["POST", "GET", "PUT"]


async def too_late(context: Context, tenant: UUID, provider: Provider) -> Claim:
    claim = await with_provider(context, tenant, provider, deadline_seconds=3600.0)
    await making.pass_deadline(context.db, claim.job_id)
    return claim


async def test_a_result_that_is_there_at_the_deadline_is_taken(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    claim = await too_late(context, tenant, provider)
    provider.cancel = says(reply({"status": "ALREADY_COMPLETED"}, 400))
    provider.ended(Reply(200, making.CAT))
    await watch(context)
    row = await making.outcome(context.db, claim.job_id)
    assert row is not None
    assert (row["status"], row["body"], row["source"]) == ("completed", making.CAT, "result")
    assert await making.states(context.db, claim.job_id) == ["completed"]
    assert [call.method for call in provider.calls] == ["POST", "GET", "GET"]


@pytest.mark.parametrize("result", [page(502), None, reply({"detail": "x"}, 429)], ids=["502", "cut", "429"])
async def test_a_result_that_cannot_be_had_at_the_deadline_does_not_put_it_off(
    context: Context, tenant: UUID, provider: Provider, result: Reply | None
) -> None:
    claim = await too_late(context, tenant, provider)
    provider.cancel = says(reply({"status": "ALREADY_COMPLETED"}, 400))
    provider.ended(Reply(200, making.CAT))
    provider.result = says(result)
    await watch(context)
    row = await making.outcome(context.db, claim.job_id)
    assert row is not None
    assert (row["status"], row["error_type"]) == ("failed", "deadline_exceeded")


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (reply({"status": "OK"}), "superseded"),
        (reply({"status": "CANCELLATION_REQUESTED"}, 202), "superseded"),
        (reply({"detail": "Not found"}, 404), "superseded"),
        (page(502), "superseded…"),
        (None, "superseded…"),
    ],
    ids=["removed", "asked", "missing", "502", "cut"],
)
async def test_after_the_deadline_the_provider_is_asked_to_stop_until_it_answers(
    context: Context, tenant: UUID, provider: Provider, answer: Reply | None, state: str
) -> None:
    claim = await too_late(context, tenant, provider)
    provider.cancel = says(answer)
    await watch(context)
    assert await making.status(context.db, claim.job_id) == "failed"
    assert await making.states(context.db, claim.job_id) == [state]


# Attempts that the job ended without


async def lost_race(context: Context, tenant: UUID) -> Claim:
    """A first attempt that the provider has after all, and a second whose result ended the job."""
    first = await making.claimed(context.db, tenant)
    second = await making.resubmitted(context.db, first)
    await store.record_answers(context.db, [making.accepted(first, f"r-{first.job_id}")])
    assert await making.settle(context.db, second)
    return first


@pytest.mark.parametrize("answer", [200, 202, 404])
async def test_an_attempt_that_lost_is_stopped_with_the_provider_once(
    context: Context, tenant: UUID, provider: Provider, answer: int
) -> None:
    first = await lost_race(context, tenant)
    before = await making.outcome(context.db, first.job_id)
    provider.cancel = says(reply({}, answer))
    await watch(context)
    await watch(context)
    [call] = provider.calls
    assert (call.method, call.path) == ("PUT", f"/fal-ai/llava-next/requests/r-{first.job_id}/cancel")
    assert await making.states(context.db, first.job_id) == ["superseded", "completed"]
    assert await making.outcome(context.db, first.job_id) == before


async def test_one_that_was_over_before_it_could_be_stopped_has_its_cost_from_its_result(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    await set_price(context.db, making.MODEL, "billable_unit", Decimal("0.04"), "USD")
    first = await lost_race(context, tenant)
    before = await making.outcome(context.db, first.job_id)
    provider.cancel = says(reply({"status": "ALREADY_COMPLETED"}, 400))
    provider.ended(reply({"output": "A dog."}, x_fal_billable_units="2.5"))
    await watch(context)
    await watch(context)
    assert [call.method for call in provider.calls] == ["PUT", "GET", "GET"]
    assert await making.states(context.db, first.job_id) == ["superseded", "completed"]
    assert [row["cost"] for row in await making.attempts(context.db, first.job_id)] == [Decimal("0.1"), None]
    told = [(row["source"], row["verdict"]) for row in await making.reports(context.db, first.job_id)]
    assert sorted(told) == [("cancel", "noted"), ("result", "late"), ("status", "noted"), ("webhook", "applied")]
    assert await making.outcome(context.db, first.job_id) == before


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (reply({"detail": "No picture."}, 422), "superseded"),
        (reply({"detail": "Request not found"}, 404), "superseded"),
        (page(502), "superseded…"),
        (None, "superseded…"),
    ],
    ids=["failed", "missing", "502", "cut"],
)
async def test_its_result_is_asked_for_until_there_is_an_answer(
    context: Context, tenant: UUID, provider: Provider, result: Reply | None, state: str
) -> None:
    await set_price(context.db, making.MODEL, "job", Decimal("0.04"), "USD")
    first = await lost_race(context, tenant)
    provider.cancel = says(reply({"status": "ALREADY_COMPLETED"}, 400))
    provider.ended(reply({}))
    provider.result = says(result)
    await watch(context)
    assert await making.states(context.db, first.job_id) == [state, "completed"]
    provider.result = says(reply({"output": "A dog."}))
    await context.db.execute("UPDATE attempts SET stop_due_at = now()")
    await watch(context)
    assert await making.states(context.db, first.job_id) == ["superseded", "completed"]
    cost = Decimal("0.04") if state == "superseded…" else None
    assert (await making.attempts(context.db, first.job_id))[0]["cost"] == cost


async def test_a_stop_that_the_provider_does_not_answer_is_tried_again(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    first = await lost_race(context, tenant)
    provider.cancel = says(page(502), reply({"detail": "Slow down"}, 429), reply({}, 500), reply({"status": "OK"}))
    for asked in (1, 2, 3):
        await watch(context)
        assert len(provider.calls) == asked
        assert await making.states(context.db, first.job_id) == ["superseded…", "completed"]
        await context.db.execute("UPDATE attempts SET stop_due_at = now()")
    await watch(context)
    assert await making.states(context.db, first.job_id) == ["superseded", "completed"]


async def test_more_attempts_than_there_are_slots_are_stopped(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    claims = [await lost_race(context, tenant) for _ in range(2 * SLOTS + 5)]
    for _ in range(4):
        await watch(context)
    assert len(provider.asked("/cancel")) == len(claims)
    assert await due.take_to_stop(context.db, 1, 0.0) == []


async def test_a_stop_under_way_is_not_begun_again_by_the_next_sweep(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    """A provider that is slow to answer would be asked over and over, and every slot be taken by it."""
    await lost_race(context, tenant)
    let_go = asyncio.Event()

    async def hang(_: Call) -> Reply:
        await let_go.wait()
        return reply({"status": "OK"})

    provider.cancel = hang
    watcher = Watcher(context)
    for _ in range(5):
        watcher.stops.wake()
        await asyncio.sleep(0.1)
    asked = len(provider.asked("/cancel"))
    let_go.set()
    await watcher.stops.drain()
    assert asked == 1


async def test_attempts_that_cannot_be_stopped_do_not_stand_before_those_that_can(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    stuck = {f"r-{(await lost_race(context, tenant)).job_id}" for _ in range(2 * SLOTS)}
    good = [await lost_race(context, tenant) for _ in range(3)]

    async def cancel(call: Call) -> Reply:
        return page(502) if call.path.split("/")[-2] in stuck else reply({"status": "OK"})

    provider.cancel = cancel
    for _ in range(6):
        await watch(context)
    assert [(await making.states(context.db, each.job_id))[0] for each in good] == ["superseded"] * 3


async def test_a_stop_that_hangs_does_not_hold_up_the_looks(context: Context, tenant: UUID, provider: Provider) -> None:
    await lost_race(context, tenant)
    let_go = asyncio.Event()

    async def hang(_: Call) -> Reply:
        await let_go.wait()
        return reply({"status": "OK"})

    provider.cancel = hang
    watcher = Watcher(context)
    for _ in range(2 * SLOTS):
        watcher.stops.wake()
        await asyncio.sleep(0.01)
    claim = await making.submitted(context.db, tenant)
    await making.make_due(context.db, claim.job_id)
    provider.ended(Reply(200, making.CAT))
    await watcher.looks.drain()
    seen = await making.status(context.db, claim.job_id)
    let_go.set()
    await watcher.stops.drain()
    assert seen == "completed"


@pytest.mark.parametrize("state", ["queued", "refused", "ambiguous"])
async def test_a_job_that_no_provider_has_ends_at_its_deadline(
    context: Context, tenant: UUID, provider: Provider, state: str
) -> None:
    job_id = await making.queued(context.db, tenant, deadline_seconds=3600.0)
    if state != "queued":
        provider.submit = says(page(503) if state == "refused" else None)
        await Submitter(context).drain()
    await making.pass_deadline(context.db, job_id)
    await watch(context)
    assert await making.status(context.db, job_id) == "failed"


async def test_a_webhook_after_the_deadline_changes_nothing(
    context: Context, tenant: UUID, provider: Provider, poster: Poster
) -> None:
    claim = await with_provider(context, tenant, provider, deadline_seconds=3600.0)
    await making.pass_deadline(context.db, claim.job_id)
    await watch(context)
    [attempt] = await making.attempts(context.db, claim.job_id)
    [call] = provider.submissions
    assert await poster.post(call.webhook_url, attempt["provider_request_id"], making.CAT) == {"verdict": "late"}
    assert await making.status(context.db, claim.job_id) == "failed"


# All together


async def test_more_jobs_than_one_round_are_looked_at(context: Context, tenant: UUID, provider: Provider) -> None:
    for _ in range(80):
        await making.queued(context.db, tenant)
    await Submitter(context).drain()
    provider.ended(Reply(200, making.CAT))
    await context.db.execute("UPDATE live_jobs SET due_at = now() - interval '1 ms'")
    await watch(context)
    assert await making.count(context.db, "outcomes") == 80


HOSTILE = [
    Reply(202, b'{"status": "IN_QUEUE", "queue_position": 1e999}'),
    reply({"status": "IN_QUEUE", "queue_position": 2**40}, 202),
    reply({"status": "IN_QUEUE", "queue_position": -(2**40)}, 202),
    reply({"status": "IN_QUEUE", "queue_position": True}, 202),
    reply({"status": ["IN_QUEUE"]}, 202),
    Reply(200, b'{"status": "COMPLETED", "error": {"a": ' + b"[" * 2_000 + b"]" * 2_000 + b"}}"),
]


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: repr(answer.body[:50]))
async def test_a_strange_status_harms_no_other_job(
    context: Context, tenant: UUID, provider: Provider, answer: Reply
) -> None:
    strange = await with_provider(context, tenant, provider)
    other = await with_provider(context, tenant, provider)
    [attempt] = await making.attempts(context.db, strange.job_id)

    async def status(call: object) -> Reply:
        return answer if attempt["provider_request_id"] in repr(call) else reply({"status": "IN_PROGRESS"}, 202)

    provider.status = status
    await making.make_due(context.db, strange.job_id)
    assert await look(context, other.job_id) == "in_progress"
    assert await making.status(context.db, strange.job_id) == "submitted"


STRANGE_RESULTS = [
    reply({"detail": [{"msg": "a\0\ud800", "type": "b\0\ud800"}]}, 422),
    reply({"detail": "No", "error_type": "b\0"}, 422),
    reply({"detail": {"a": 1}}, 500),
    reply("No", 500),
    Reply(500, b"[" * 600 + b"]" * 600),
    Reply(200, b'{"output": "\\u0000\\ud800", "seed": 1' + b"0" * 4_000 + b"}"),
    Reply(200, b'{"output": NaN, "usage": {"a": Infinity, "b": 1e999, "c": 1' + b"0" * 400 + b"}}"),
    Reply(200, b'{"timings": {"a\\u0000": 1, "b": -1e308}, "images": [{"url": "http://a/\\u0000"}]}'),
    Reply(422, b'{"detail": "No"}', {"x-fal-error-type": "\xff\xfe"}),
]


@pytest.mark.parametrize("answer", STRANGE_RESULTS, ids=lambda answer: repr(answer.body[:50]))
async def test_a_strange_result_is_an_end_all_the_same(
    context: Context, tenant: UUID, provider: Provider, answer: Reply
) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.ended(answer, f"Invalid status code: {answer.status}")
    assert await look(context, claim.job_id) == ("completed" if answer.status == 200 else "failed")
    row = await making.outcome(context.db, claim.job_id)
    assert row is not None
    assert row["body"] == answer.body


async def test_nothing_due_is_one_question_and_no_call(context: Context, provider: Provider) -> None:
    await watch(context)
    assert provider.calls == []
    assert await due.take_due(context.db, 1, 1.0) == []


async def test_addresses_that_are_none_are_not_asked(context: Context, tenant: UUID, provider: Provider) -> None:
    claim = await making.claimed(context.db, tenant)
    broken = dict.fromkeys(("status_url", "response_url", "cancel_url"), "http://[x")
    await store.record_answers(context.db, [making.accepted(claim, "r-1", **broken)])
    provider.ended(Reply(200, making.CAT))
    await making.make_due(context.db, claim.job_id)
    await watch(context)
    assert await making.status(context.db, claim.job_id) == "completed"
