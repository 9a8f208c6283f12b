"""Everything that a provider says of a job is kept to the byte, with what was made of it."""

import json
from uuid import UUID

import httpx
import pytest

from service.context import Context
from service.jobs import endings
from service.jobs.submitting import Submitter
from tests import making
from tests.jobs.test_watching import look, with_provider
from tests.provider import Provider, Reply, page, reply, says


async def heard(context: Context, job_id: UUID) -> list[tuple[str, str, bytes]]:
    return [(row["source"], row["verdict"], row["body"]) for row in await making.reports(context.db, job_id)]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (reply({"status": "IN_QUEUE", "queue_position": 7}, 202), "noted"),
        (reply({"status": "IN_PROGRESS"}, 202), "noted"),
        (reply({"detail": "Request not found"}, 404), "noted"),
        (reply({"detail": "Who are you?"}, 401), "inconclusive"),
        (reply({"status": "THINKING"}), "inconclusive"),
        (page(502), "inconclusive"),
        (Reply(200, b""), "inconclusive"),
    ],
    ids=lambda value: f"{value.status}-{value.body.decode()[:24]}" if isinstance(value, Reply) else "",
)
async def test_a_status_poll_is_kept(
    context: Context, tenant: UUID, provider: Provider, answer: Reply, verdict: str
) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.status = says(answer)
    await look(context, claim.job_id)
    assert await heard(context, claim.job_id) == [("status", verdict, answer.body)]


async def test_a_poll_that_was_never_answered_leaves_nothing(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.status = says(None)
    await look(context, claim.job_id)
    assert await heard(context, claim.job_id) == []


async def test_an_end_by_poll_has_both_of_its_witnesses(context: Context, tenant: UUID, provider: Provider) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.ended(Reply(200, making.CAT))
    assert await look(context, claim.job_id) == "completed"
    assert await heard(context, claim.job_id) == [
        ("result", "applied", making.CAT),
        ("status", "noted", b'{"status": "COMPLETED"}'),
    ]


async def test_the_same_words_again_are_counted(context: Context, tenant: UUID, provider: Provider) -> None:
    claim = await with_provider(context, tenant, provider)
    waiting, running = reply({"status": "IN_QUEUE"}, 202), reply({"status": "IN_PROGRESS"}, 202)
    provider.status = says(waiting, waiting, waiting, running, running, waiting)
    for _ in range(6):
        await look(context, claim.job_id)
    rows = await making.reports(context.db, claim.job_id)
    assert [(row["times"], row["body"]) for row in rows] == [(3, waiting.body), (2, running.body), (1, waiting.body)]
    assert [row["last_received_at"] is None for row in rows] == [False, False, True]


@pytest.mark.parametrize("result", [reply({"detail": "Oops"}, 503), reply({"detail": "Not found"}, 404)])
async def test_a_result_that_ends_nothing_is_kept(
    context: Context, tenant: UUID, provider: Provider, result: Reply
) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.ended(result)
    assert await look(context, claim.job_id) == "submitted"
    assert (await heard(context, claim.job_id))[1:] == [("result", "inconclusive", result.body)]


async def test_what_was_said_to_a_cancel_is_kept(context: Context, tenant: UUID, provider: Provider) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.cancel = says(reply({"status": "OK"}))
    await endings.request_cancel(context.db, claim.job_id)
    assert await look(context, claim.job_id) == "cancelled"
    assert await heard(context, claim.job_id) == [("cancel", "noted", b'{"status": "OK"}')]


async def test_an_answer_to_a_submission_that_proves_nothing_is_kept(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    provider.submit = says(page(502))
    job_id = await making.queued(context.db, tenant)
    await Submitter(context).drain()
    assert await heard(context, job_id) == [("submit", "inconclusive", page(502).body)]


async def test_clients_read_it_with_its_bytes(
    context: Context, tenant: UUID, provider: Provider, client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.status = says(page(502), reply({"status": "IN_QUEUE"}, 202))
    await look(context, claim.job_id)
    await look(context, claim.job_id)
    job = (await client.get(f"/v1/jobs/{claim.job_id}")).json()
    first, second = (await client.get(job["links"]["evidence"])).json()["evidence"]
    assert (first["source"], first["verdict"], first["http_status"]) == ("status", "inconclusive", 502)
    assert first["headers"] == {"content-type": "text/html"}
    bytes_of_it = await client.get(first["url"])
    assert bytes_of_it.content == page(502).body
    assert (bytes_of_it.headers["content-type"], bytes_of_it.headers["x-content-type-options"]) == (
        "application/octet-stream",
        "nosniff",
    )
    [left] = (await client.get(job["links"]["evidence"], params={"after": first["id"]})).json()["evidence"]
    assert left["id"] == second["id"]
    assert json.loads((await client.get(second["url"])).content) == {"status": "IN_QUEUE"}
    for url in (job["links"]["evidence"], first["url"]):
        assert (await stranger.get(url)).status_code == 404


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "9" * 30, "\u0665"])
async def test_a_page_begins_behind_a_number(
    context: Context, tenant: UUID, client: httpx.AsyncClient, after: str
) -> None:
    job_id = await making.queued(context.db, tenant)
    assert (await client.get(f"/v1/jobs/{job_id}/evidence", params={"after": after})).status_code == 422


@pytest.mark.parametrize("report_id", [0, 1, 2**63 - 1, 2**63, 10**30])
async def test_there_is_no_other_evidence(
    context: Context, tenant: UUID, client: httpx.AsyncClient, report_id: int
) -> None:
    claim = await making.ended(context.db, tenant)
    other = await making.queued(context.db, tenant)
    [known] = await making.reports(context.db, claim.job_id)
    for wrong in (report_id, known["id"]):
        assert (await client.get(f"/v1/jobs/{other}/evidence/{wrong}")).status_code == 404
