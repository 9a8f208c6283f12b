"""A provider that takes nothing from this account: no job is burned, one at a time tries again, and it is said."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import httpx
import pytest

from service.context import Context
from service.jobs import pauses
from service.jobs.submitting import Submitter
from service.jobs.watching import watch
from tests import making
from tests.conftest import MakeClient
from tests.dashboard.looking import key_of, signed_in
from tests.provider import Call, Provider, Reply, reply, says

BAD_KEY = reply({"detail": "invalid key credentials"}, 401)
LOCKED = reply({"detail": "User is locked. Reason: Exhausted balance. Top up your balance."}, 403)


async def submit_all(context: Context, times: int = 1) -> None:
    for _ in range(times):
        await Submitter(context).drain()


async def let_the_probe_come(context: Context) -> None:
    await context.db.execute("UPDATE provider_pauses SET probe_at = now() WHERE probe_at IS NOT NULL")


async def states(context: Context, jobs: Sequence[UUID]) -> list[list[str]]:
    return [[row["state"] for row in await making.attempts(context.db, job_id)] for job_id in jobs]


@pytest.mark.parametrize("answer", [BAD_KEY, LOCKED, Reply(402, b"")], ids=lambda answer: str(answer.status))
async def test_nothing_more_is_submitted_and_no_job_ends(
    context: Context, tenant: UUID, provider: Provider, answer: Reply
) -> None:
    provider.submit = says(answer)
    await making.queued(context.db, tenant)
    await submit_all(context)
    later = [await making.queued(context.db, tenant) for _ in range(20)]
    await submit_all(context, times=3)
    assert len(provider.submissions) == 1
    assert {await making.status(context.db, job_id) for job_id in later} == {"queued"}
    [pause] = await pauses.pauses(context.db)
    assert (pause["provider"], pause["http_status"], pause["probe_at"] is not None) == ("fal", answer.status, True)


async def test_jobs_that_were_under_way_wait_too(context: Context, tenant: UUID, provider: Provider) -> None:
    provider.submit = says(BAD_KEY)
    jobs = [await making.queued(context.db, tenant) for _ in range(10)]
    await submit_all(context, times=2)
    assert await states(context, jobs) == [["blocked"]] * 10
    assert len(provider.submissions) == 10


async def test_one_job_at_a_time_tries_again_whoever_asks(context: Context, tenant: UUID, provider: Provider) -> None:
    provider.submit = says(BAD_KEY)
    for _ in range(10):
        await making.queued(context.db, tenant)
    await submit_all(context)
    provider.calls.clear()
    await let_the_probe_come(context)
    await asyncio.gather(*(Submitter(context).drain() for _ in range(5)))
    assert len(provider.submissions) == 1


async def test_the_first_that_gets_through_ends_the_pause(context: Context, tenant: UUID, provider: Provider) -> None:
    provider.submit = says(LOCKED)
    jobs = [await making.queued(context.db, tenant) for _ in range(10)]
    await submit_all(context)
    provider.submit = provider.accept
    await let_the_probe_come(context)
    await submit_all(context, times=2)
    assert await pauses.pauses(context.db) == []
    assert await states(context, jobs) == [["blocked", "submitted"]] * 10


@pytest.mark.parametrize("answer", [reply({"detail": "Later"}, 503), None], ids=["refused", "lost"])
async def test_an_answer_that_says_nothing_of_the_account_ends_no_pause(
    context: Context, tenant: UUID, provider: Provider, answer: Reply | None
) -> None:
    provider.submit = says(BAD_KEY)
    await making.queued(context.db, tenant)
    await submit_all(context)
    provider.submit = says(answer)
    await let_the_probe_come(context)
    await submit_all(context)
    assert len(await pauses.pauses(context.db)) == 1


async def test_the_time_of_a_pause_does_not_count_against_a_job(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    provider.submit = says(reply({"detail": "Later"}, 503))
    job_id = await making.queued(context.db, tenant)
    await submit_all(context)
    await pauses.pause(context.db, "fal", "Bad key.", 401)
    await making.make_older(context.db, job_id, 2 * context.settings.submit_retry_seconds)
    await pauses.resume(context.db, "fal")
    await making.make_due(context.db, job_id)
    await submit_all(context)
    assert await making.status(context.db, job_id) == "queued"


async def test_a_job_that_was_refused_for_too_long_is_given_up(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    provider.submit = says(reply({"detail": "Later"}, 429, retry_after="1000000"))
    job_id = await making.queued(context.db, tenant)
    for expected in ("queued", "failed"):
        await making.make_due(context.db, job_id)
        await submit_all(context)
        assert await making.status(context.db, job_id) == expected
    row = await making.outcome(context.db, job_id)
    assert row is not None
    assert row["error_type"] == "submission_refused"


async def test_one_job_that_is_turned_away_among_others_pauses_nothing(
    context: Context, tenant: UUID, provider: Provider
) -> None:
    """The account is not what is wrong with it."""
    good_is_in = asyncio.Event()

    async def choosy(call: Call) -> Reply:
        if call.path != "/acme/locked":
            answer = await provider.accept(call)
            asyncio.get_running_loop().call_later(0.2, good_is_in.set)
            return answer
        await good_is_in.wait()
        return BAD_KEY

    provider.submit = choosy
    bad = await making.queued(context.db, tenant, model="acme/locked")
    await making.queued(context.db, tenant)
    await submit_all(context)
    assert await pauses.pauses(context.db) == []
    assert await states(context, [bad]) == [["refused"]]


async def test_without_a_job_to_try_the_probe_waits_for_one(context: Context, tenant: UUID, provider: Provider) -> None:
    await pauses.pause(context.db, "fal", "Bad key.", 401)
    await let_the_probe_come(context)
    await submit_all(context)
    await making.queued(context.db, tenant)
    await submit_all(context)
    assert len(provider.submissions) == 1


async def test_a_job_that_waits_can_be_cancelled_and_keeps_its_deadline(context: Context, tenant: UUID) -> None:
    await pauses.pause(context.db, "fal", "Bad key.", 401)
    job_id = await making.queued(context.db, tenant, deadline_seconds=60.0)
    await making.pass_deadline(context.db, job_id)
    await watch(context)
    assert await making.status(context.db, job_id) == "failed"


async def test_a_pause_by_hand_is_ended_by_hand_only(context: Context, tenant: UUID, provider: Provider) -> None:
    await pauses.pause_by_hand(context.db, "fal", "Maintenance.")
    job_id = await making.queued(context.db, tenant)
    assert not await pauses.pause(context.db, "fal", "Bad key.", 401)
    assert not await pauses.resume(context.db, "fal", by_probe=True)
    await submit_all(context)
    assert provider.submissions == []
    assert await pauses.resume(context.db, "fal")
    await submit_all(context)
    assert await making.status(context.db, job_id) == "submitted"


async def test_it_is_said_to_clients_operators_and_machines(
    context: Context, client: httpx.AsyncClient, nobody: httpx.AsyncClient, make_client: MakeClient
) -> None:
    assert (await client.get("/v1/providers")).json()["providers"][0]["state"] == "open"
    assert await pauses.pause(context.db, "fal", "HTTP 401: <b>who?</b>", 401)
    assert not await pauses.pause(context.db, "fal", "HTTP 401: <b>who?</b>", 401)
    told, ours = (await client.get("/v1/providers")).json()["providers"]
    assert (ours["name"], ours["state"]) == ("gpu", "open")
    assert (told["name"], told["state"], told["reason"]) == ("fal", "paused", "HTTP 401: <b>who?</b>")
    assert told["next_try_at"] > told["paused_at"]
    reader = await make_client(scopes=("read",))
    told, _ = (await reader.get("/v1/providers")).json()["providers"]
    assert (told["state"], told["reason"], told["http_status"]) == ("paused", None, None)
    assert 'roundtrip_provider_paused{provider="fal"} 1.0' in (await nobody.get("/metrics")).text
    for viewer, is_told in ((client, True), (reader, False)):
        async with signed_in(str(viewer.base_url), key_of(viewer)) as person:
            page = (await person.get("/dashboard")).text
            assert "fal gets no jobs" in page
            assert ("&lt;b&gt;who?&lt;/b&gt;" in page) is is_told
            assert "<b>who?" not in page
