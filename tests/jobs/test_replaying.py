"""Recorded reports once more: today's verdict is shown, and applied only where a job still waits for its end."""

import json
from uuid import UUID

import pytest

from service.catalog import Catalog
from service.context import Context
from service.jobs import filing
from service.jobs.facts import Evidence
from service.jobs.lifecycle import Source, Verdict
from service.jobs.replaying import NoSuchReport, Replay, ReportRemoved, replay
from service.retention.parts import Keep, Part
from service.retention.removing import remove
from tests import making
from tests.jobs.test_watching import look, with_provider
from tests.making import CAT, DOG, Claim
from tests.provider import Provider, Reply, reply, says
from tests.webhooks.posting import Poster, envelope


async def recorded(context: Context, claim: Claim, body: bytes, request_id: str = "r-1") -> int:
    """A webhook that was kept as unreadable, by code that could not read it."""
    kept = Evidence(Source.WEBHOOK, body, json.dumps({"request_id": request_id}), request_id=request_id)
    await filing.file_report(context.db, claim.job_id, claim.attempt, kept, None, Verdict.UNREADABLE)
    [*_, report] = await making.reports(context.db, claim.job_id)
    return int(report["id"])


async def again(context: Context, report_id: int, *, apply: bool = False) -> Replay:
    return await replay(context.db, context.catalog, report_id, apply=apply)


async def test_it_shows_what_would_be_and_changes_nothing(context: Context, tenant: UUID) -> None:
    claim = await making.submitted(context.db, tenant, "r-1")
    replayed = await again(context, await recorded(context, claim, envelope("r-1", CAT)))
    assert replayed.ending is not None
    assert (replayed.verdict, replayed.ending.body, replayed.lifted.text) == ("applied", CAT, "A cat.")
    assert await making.status(context.db, claim.job_id) == "submitted"
    assert len(await making.reports(context.db, claim.job_id)) == 1


async def test_it_ends_a_job_that_waits_for_its_end(context: Context, tenant: UUID) -> None:
    claim = await making.submitted(context.db, tenant, "r-1")
    report_id = await recorded(context, claim, envelope("r-1", CAT))
    assert (await again(context, report_id, apply=True)).verdict == "applied"
    row = await making.outcome(context.db, claim.job_id)
    assert row is not None
    assert (row["status"], row["source"], row["body"]) == ("completed", "webhook", CAT)
    old, new = await making.reports(context.db, claim.job_id)
    assert (old["verdict"], new["verdict"], new["body"]) == ("unreadable", "applied", old["body"])
    assert json.loads(new["headers"])["replay_of"] == report_id
    assert (await again(context, report_id, apply=True)).verdict == "duplicate"


@pytest.mark.parametrize("body", [DOG, CAT], ids=["other", "same"])
async def test_an_end_is_never_changed(context: Context, tenant: UUID, body: bytes) -> None:
    claim = await making.ended(context.db, tenant, request_id="r-1")
    before = await making.outcome(context.db, claim.job_id)
    replayed = await again(context, await recorded(context, claim, envelope("r-1", body)), apply=True)
    assert replayed.verdict == ("duplicate" if body == CAT else "conflict")
    assert await making.outcome(context.db, claim.job_id) == before


async def test_it_tells_what_todays_code_would_keep_otherwise(context: Context, tenant: UUID, poster: Poster) -> None:
    claim = await making.submitted(context.db, tenant, "r-1")
    url = poster.sealer.path(claim.job_id, claim.attempt, claim.model)
    await poster.post(url, "r-1", CAT)
    [report] = await making.reports(context.db, claim.job_id)
    assert (await again(context, report["id"])).differing == ()
    ending = making.completed(b'{"output": "A cat.", "seed": 7, "image": {"url": "https://example.com/a.png"}}')
    other = await making.submitted(context.db, tenant, "r-2")
    assert await making.settle(context.db, other, ending, making.heard(envelope("r-2", ending.body), "r-2"))
    [old] = await making.reports(context.db, other.job_id)
    await context.db.execute('UPDATE reports SET headers = \'{"request_id": "r-2"}\' WHERE id = $1', old["id"])
    assert set((await again(context, old["id"])).differing) == {"seed", "files"}


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (b"<html>", "unreadable"),
        (envelope("r-9", CAT), "foreign"),
        (envelope("r-1", status="WHAT"), "unreadable"),
        (envelope("r-1", payload_error="Too large."), "incomplete"),
    ],
    ids=["page", "foreign", "unheard-of", "incomplete"],
)
async def test_what_tells_of_no_end_ends_nothing(context: Context, tenant: UUID, body: bytes, verdict: str) -> None:
    claim = await making.submitted(context.db, tenant, "r-1")
    replayed = await again(context, await recorded(context, claim, body), apply=True)
    assert (replayed.ending, replayed.verdict) == (None, verdict)
    assert await making.status(context.db, claim.job_id) == "submitted"


async def test_another_requests_news_is_foreign(context: Context, tenant: UUID) -> None:
    claim = await making.submitted(context.db, tenant, "r-1")
    report_id = await recorded(context, claim, envelope("r-2", CAT), "r-2")
    assert (await again(context, report_id, apply=True)).verdict == "foreign"
    assert await making.status(context.db, claim.job_id) == "submitted"


async def test_results_and_answers_to_submissions_can_be_replayed(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    claim = await with_provider(context, tenant, provider)
    provider.ended(Reply(200, CAT))
    await look(context, claim.job_id)
    result, status = await making.reports(context.db, claim.job_id)
    assert (await again(context, status["id"])).verdict == "noted"
    assert (await again(context, result["id"])).verdict == "duplicate"
    rejected = await with_provider_that_rejects(context, tenant, provider)
    [report] = await making.reports(context.db, rejected)
    assert (await again(context, report["id"])).verdict == "duplicate"


async def with_provider_that_rejects(context: Context, tenant: UUID, provider: Provider) -> UUID:
    provider.submit = says(reply({"detail": "No such app"}, 404))
    return (await with_provider(context, tenant, provider)).job_id


async def test_of_a_report_of_no_job_there_is_nothing_to_replay(context: Context) -> None:
    ghost = Claim(UUID(int=7), 1, making.MODEL, making.INPUT, "normal", 0.0)
    report_id = await recorded(context, ghost, envelope("r-1", CAT))
    with pytest.raises(ReportRemoved):
        await again(context, report_id, apply=True)


async def test_there_is_no_report_of_another_number(context: Context) -> None:
    with pytest.raises(NoSuchReport):
        await replay(context.db, Catalog(), 2**62)


async def test_of_a_removed_report_nothing_can_be_made(context: Context, tenant: UUID) -> None:
    claim = await making.submitted(context.db, tenant, "r-1")
    report_id = await recorded(context, claim, envelope("r-1", CAT))
    assert await making.settle(context.db, claim)
    await remove(context.db, [claim.job_id], Part.EVIDENCE, Keep.HASH)
    with pytest.raises(ReportRemoved):
        await again(context, report_id)


@pytest.mark.parametrize(("ours", "verdict"), [(None, "applied"), ("us", "applied"), ("others", "foreign")])
async def test_only_the_account_that_counts_now_is_heard(
    context: Context, tenant: UUID, ours: str | None, verdict: str
) -> None:
    claim = await making.submitted(context.db, tenant, "r-1")
    headers = json.dumps({"request_id": "r-1", "user_id": "us"})
    kept = Evidence(Source.WEBHOOK, envelope("r-1", CAT), headers, request_id="r-1")
    await filing.file_report(context.db, claim.job_id, claim.attempt, kept, None, Verdict.UNREADABLE)
    [report] = await making.reports(context.db, claim.job_id)
    replayed = await replay(context.db, context.catalog, report["id"], user_id=ours, apply=True)
    assert replayed.verdict == verdict
    assert await making.status(context.db, claim.job_id) == ("completed" if verdict == "applied" else "submitted")
