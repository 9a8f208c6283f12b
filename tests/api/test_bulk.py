"""One action on many jobs: each job once, whatever dies meanwhile, and nobody else's."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from click.testing import CliRunner, Result

from service.bulk import acting, asking, records
from service.bulk.acting import Actor
from service.bulk.lifecycle import BulkOutcome, BulkVerb
from service.bulk.records import Action
from service.cli import main
from service.context import Context
from service.db import Database
from service.jobs import operations, store
from service.queue import TaskName
from service.settings import Settings
from service.stats.counting import count_all
from service.stats.prices import set_price
from tests import making
from tests.api.asking import is_problem
from tests.conftest import MakeClient

Command = Callable[..., Awaitable[Result]]

ACTIONS = "/v1/bulk-actions"
FAILED = {"action": "retry", "filter": {"status": "failed"}}
OTHER = "fal-ai/mini-cpm"
ROOT = Path(__file__).parent.parent.parent


async def fail_many(db: Database, tenant: UUID, number: int, **changes: Any) -> list[UUID]:
    return [(await making.ended(db, tenant, making.failed(), **changes)).job_id for _ in range(number)]


async def begin(client: httpx.AsyncClient, body: dict[str, Any] = FAILED, key: str | None = None) -> dict[str, Any]:
    answer = await client.post(ACTIONS, json=body, headers={"idempotency-key": key or uuid4().hex})
    assert answer.status_code == 202, answer.text
    begun: dict[str, Any] = answer.json()
    return begun


async def carry_out(context: Context) -> None:
    await Actor(context).pump.drain()


async def shown(client: httpx.AsyncClient, action: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = (await client.get(f"{ACTIONS}/{action['id']}")).json()
    return answer


def figures(action: dict[str, Any]) -> tuple[str, int, int, int]:
    return action["state"], action["done"], action["skipped"], action["failed"]


async def retries_of(db: Database, job_ids: list[UUID]) -> dict[UUID, int]:
    rows = await db.fetch("SELECT retry_of FROM jobs WHERE retry_of = ANY ($1::uuid[])", job_ids)
    return Counter(row["retry_of"] for row in rows)


async def test_what_a_filter_means_is_repeated_once(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    failed = await fail_many(context.db, tenant, 3, tags=["shop"])
    others = await fail_many(context.db, tenant, 2)
    completed = (await making.ended(context.db, tenant, tags=["shop"])).job_id
    begun = await begin(client, {"action": "retry", "filter": {"tag": "shop"}})
    assert (figures(begun), begun["expected_jobs"], begun["expected_is_exact"]) == (("running", 0, 0, 0), 3, True)
    await carry_out(context)
    assert figures(await shown(client, begun)) == ("done", 3, 0, 0)
    assert await retries_of(context.db, [*failed, *others, completed]) == dict.fromkeys(failed, 1)


async def test_a_repetition_is_the_job_as_it_was(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    changes = {
        "tags": ["shop", "hold"],
        "metadata": '{"order": 4711, "nested": {"a": [1]}}',
        "priority": "low",
        "webhook_url": "https://hooks.example/x",
        "deadline_seconds": 3_600.0,
        "callback_format": "standard",
        "hints": '{"x-fal-runner-hint": "a"}',
    }
    [old] = await fail_many(context.db, tenant, 1, **changes)
    [alone] = await fail_many(context.db, tenant, 1, **changes, model=OTHER)
    assert (await client.post(f"/v1/jobs/{alone}/retry")).status_code == 202
    await begin(client, {"action": "retry", "filter": {"tag": "shop", "model": making.MODEL}})
    await carry_out(context)

    async def kept(of: UUID) -> dict[str, Any]:
        row = await context.db.fetchrow(
            "SELECT jobs.tenant_id, body, jobs.provider, priority, webhook_url, callback_format, hints, metadata,"
            " tags, extract(epoch FROM jobs.deadline_at - jobs.created_at)::float8 AS seconds, rank, status, duty,"
            " (SELECT array_agg(name || value ORDER BY name, value) FROM job_marks WHERE job_id = jobs.id) AS marks,"
            " EXISTS (SELECT FROM holds WHERE holds.job_id = jobs.id) AS held,"
            " (SELECT array_agg(event) FROM job_events WHERE job_events.job_id = jobs.id) AS events"
            " FROM jobs JOIN inputs ON inputs.job_id = jobs.id JOIN live_jobs ON live_jobs.job_id = jobs.id"
            " WHERE retry_of = $1",
            of,
        )
        assert row is not None
        return dict(row)

    assert await kept(old) == await kept(alone)


async def test_what_was_not_done_is_told_with_the_reason(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    plain, repeated, emptied, gone = await fail_many(context.db, tenant, 4)
    before = (await client.post(f"/v1/jobs/{repeated}/retry")).json()["request_id"]
    begun = await begin(client)
    # After it was begun, and before its turn.
    await context.db.execute("DELETE FROM inputs WHERE job_id = $1", emptied)
    action = await records.take(context.db, 30)
    assert action is not None
    await acting.plan(context, action)
    assert (await client.delete(f"/v1/jobs/{gone}")).status_code == 204
    await records.release(context.db, action.id)
    await carry_out(context)
    assert figures(await shown(client, begun)) == ("done", 1, 3, 0)
    listed = (await client.get(f"{ACTIONS}/{begun['id']}/results")).json()["results"]
    told = {each["request_id"]: (each["outcome"], each["reason"], each["retried_as"]) for each in listed}
    made = told.pop(str(plain))
    assert made[:2] == ("done", None)
    assert (await client.get(f"/v1/jobs/{made[2]}")).json()["retry_of"] == str(plain)
    assert told == {
        str(repeated): ("skipped", "It was repeated before.", before),
        str(emptied): ("skipped", "Its input was removed, as its tenant wanted.", None),
        str(gone): ("skipped", "The job was deleted.", None),
    }


async def test_jobs_that_came_later_are_not_touched(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    before = await fail_many(context.db, tenant, 2)
    begun = await begin(client)
    after = await fail_many(context.db, tenant, 2)
    await carry_out(context)
    assert figures(await shown(client, begun)) == ("done", 2, 0, 0)
    assert await retries_of(context.db, before + after) == dict.fromkeys(before, 1)
    # The repetitions are jobs of their own: when they fail, nothing of this repeats them.
    assert await making.count(context.db, "jobs") == 6


async def test_many_batches_come_to_their_end(
    client: httpx.AsyncClient, context: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "BATCH", 3)
    failed = await fail_many(context.db, tenant, 10)
    begun = await begin(client)
    await carry_out(context)
    assert figures(await shown(client, begun)) == ("done", 10, 0, 0)
    assert await retries_of(context.db, failed) == dict.fromkeys(failed, 1)


async def test_jobs_are_cancelled_whether_they_wait_or_run(
    client: httpx.AsyncClient, context: Context, tenant: UUID, nudges: list[TaskName]
) -> None:
    running = (await making.submitted(context.db, tenant)).job_id
    waiting = [await making.queued(context.db, tenant) for _ in range(2)]
    begun = await begin(client, {"action": "cancel", "filter": {"model": making.MODEL}})
    await carry_out(context)
    assert figures(await shown(client, begun)) == ("done", 3, 0, 0)
    for job_id in (*waiting, running):
        job = await making.live(context.db, job_id)
        assert job is not None
        assert (job["cancel_requested_at"] is not None, job["is_due"]) == (True, True)
        assert (await making.events(context.db, job_id)).count("cancel_requested") == 1
    context.nudger.close()
    assert TaskName.WATCH in nudges


async def test_a_job_whose_end_was_asked_for_is_not_asked_again(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    claim = await making.submitted(context.db, tenant)
    assert await operations.cancel(context, claim.job_id)
    begun = await begin(client, {"action": "cancel", "filter": {"status": "submitted"}})
    await carry_out(context)
    assert figures(await shown(client, begun)) == ("done", 0, 1, 0)
    [result] = (await client.get(f"{ACTIONS}/{begun['id']}/results?outcome=skipped")).json()["results"]
    assert result["reason"] == "Its end was asked for before."
    assert (await making.events(context.db, claim.job_id)).count("cancel_requested") == 1


async def test_the_same_key_begins_it_once(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    await fail_many(context.db, tenant, 1)
    asks = [client.post(ACTIONS, json=FAILED, headers={"idempotency-key": "k"}) for _ in range(5)]
    answers = await asyncio.gather(*asks)
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = {"action": "retry", "filter": {"status": "cancelled"}}
    assert is_problem(await client.post(ACTIONS, json=other, headers={"idempotency-key": "k"}), 422)
    assert await making.count(context.db, "bulk_actions") == 1


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"action": "retry", "filter": {}}, "body.filter"),
        ({"action": "retry", "filter": {"status": "completed"}}, "filter.status"),
        ({"action": "cancel", "filter": {"status": "failed"}}, "filter.status"),
        ({"action": "retry", "filter": {"colour": "red"}}, "query.colour"),
        ({"action": "retry", "filter": {"limit": 5}}, "filter.limit"),
        ({"action": "retry", "filter": {"tag": {"a": 1}}}, "body.filter.tag"),
        ({"action": "retry", "filter": {"tag": None}}, "body.filter.tag"),
        ({"action": "delete", "filter": {"tag": "a"}}, "body.action"),
        ({"action": "retry"}, "body.filter"),
        ({"action": "retry", "filter": {"tag": "a"}, "more": 1}, "body.more"),
        ({"action": "retry", "filter": {"tag": "a"}, "tenant": "nobody"}, "body.tenant"),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", [ACTIONS, f"{ACTIONS}/preview"])
async def test_what_is_no_action_is_refused(
    client: httpx.AsyncClient, db: Database, body: dict[str, Any], where: str, path: str
) -> None:
    answer = await client.post(path, json=body, headers={"idempotency-key": "k"})
    assert is_problem(answer, 422)
    assert answer.json()["message"].startswith(where)
    assert await making.count(db, "bulk_actions") == 0


async def test_without_a_key_of_its_own_nothing_is_begun(client: httpx.AsyncClient, db: Database) -> None:
    assert is_problem(await client.post(ACTIONS, json=FAILED), 422)
    assert await making.count(db, "bulk_actions") == 0


async def test_a_preview_counts_and_tells_the_cost(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    await set_price(context.db, making.MODEL, "job", Decimal("0.02"), "USD")
    for _ in range(2):
        await making.ended(context.db, tenant)
    await count_all(context.db)
    await fail_many(context.db, tenant, 3)
    await fail_many(context.db, tenant, 1, model=OTHER)
    found = (await client.post(f"{ACTIONS}/preview", json=FAILED)).json()
    assert found == {
        "action": "retry",
        "jobs": 4,
        "skipped": 0,
        "is_exact": True,
        "cost": "0.06",
        "cost_is_whole": False,
        "currency": "USD",
        "models": [
            {"model": making.MODEL, "jobs": 3, "cost": "0.06"},
            {"model": OTHER, "jobs": 1, "cost": None},
        ],
    }
    assert await making.count(context.db, "bulk_actions") == 0


async def test_a_preview_counts_what_would_be_done_and_nothing_that_was(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    await set_price(context.db, making.MODEL, "job", Decimal("0.02"), "USD")
    await making.ended(context.db, tenant)
    await count_all(context.db)
    repeated, emptied, _ = await fail_many(context.db, tenant, 3)
    await client.post(f"/v1/jobs/{repeated}/retry")
    await context.db.execute("DELETE FROM inputs WHERE job_id = $1", emptied)
    found = (await client.post(f"{ACTIONS}/preview", json=FAILED)).json()
    assert (found["jobs"], found["skipped"], found["cost"]) == (1, 2, "0.02")
    begun = await begin(client)
    assert (begun["expected_jobs"], begun["expected_cost"]) == (3, "0.02")
    await carry_out(context)
    assert figures(await shown(client, begun)) == ("done", 1, 2, 0)
    assert (await client.post(f"{ACTIONS}/preview", json=FAILED)).json()["jobs"] == 0
    # The repetitions are two jobs that go on.
    ours = {"action": "cancel", "filter": {"model": making.MODEL}}
    before = (await client.post(f"{ACTIONS}/preview", json=ours)).json()
    assert (before["jobs"], before["skipped"]) == (2, 0)
    claim = (await making.claim_all(context.db))[0]
    await client.post(f"/v1/jobs/{claim.job_id}/cancel")
    after = (await client.post(f"{ACTIONS}/preview", json=ours)).json()
    assert (after["jobs"], after["skipped"]) == (1, 1)


async def test_a_cost_that_nobody_knows_is_not_zero(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    await fail_many(context.db, tenant, 1)
    found = (await client.post(f"{ACTIONS}/preview", json=FAILED)).json()
    assert (found["jobs"], found["cost"], found["currency"]) == (1, None, None)


async def test_a_preview_that_ends_early_says_so(
    client: httpx.AsyncClient, context: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fail_many(context.db, tenant, 5)
    monkeypatch.setattr(asking, "MOST_COUNTED", 3)
    monkeypatch.setattr(asking, "COUNTED_AT_ONCE", 2)
    found = (await client.post(f"{ACTIONS}/preview", json=FAILED)).json()
    assert (found["jobs"], found["is_exact"]) == (3, False)
    begun = await begin(client)
    assert (begun["expected_jobs"], begun["expected_is_exact"]) == (3, False)
    await carry_out(context)
    assert figures(await shown(client, begun)) == ("done", 5, 0, 0)


async def test_nothing_of_another_tenant_is_touched_or_shown(
    make_client: MakeClient, context: Context, tenant: UUID
) -> None:
    ours, theirs = await make_client("ours", ("read", "submit")), await make_client("theirs", ("read", "submit"))
    their_tenant = await making.make_tenant(context.db, "theirs")
    mine, others = await fail_many(context.db, tenant, 2), await fail_many(context.db, their_tenant, 2)
    begun = await begin(ours)
    await carry_out(context)
    assert await retries_of(context.db, mine + others) == dict.fromkeys(mine, 1)
    own = f"{ACTIONS}/{begun['id']}"
    for method, path in (("GET", own), ("GET", f"{own}/results"), ("POST", f"{own}/abort")):
        assert is_problem(await theirs.request(method, path), 404)
    assert (await theirs.get(ACTIONS)).json() == {"bulk_actions": [], "next_cursor": None}
    assert (await theirs.post(f"{ACTIONS}/preview", json=FAILED)).json()["jobs"] == 2
    # The same key of another tenant is another key.
    again = await theirs.post(ACTIONS, json=FAILED, headers={"idempotency-key": "same"})
    assert again.status_code == (await ours.post(ACTIONS, json=FAILED, headers={"idempotency-key": "same"})).status_code
    for name in ("*", "theirs"):
        answer = await ours.post(ACTIONS, json={**FAILED, "tenant": name}, headers={"idempotency-key": name})
        assert is_problem(answer, 403)


async def test_a_tenants_own_keys_see_nothing_of_what_an_administrator_did_to_all(
    make_client: MakeClient, context: Context, tenant: UUID
) -> None:
    admin, plain = await make_client("ours"), await make_client("ours", ("read", "submit"))
    await fail_many(context.db, await making.make_tenant(context.db, "theirs"), 1)
    begun = await begin(admin, {**FAILED, "tenant": "*"})
    await carry_out(context)
    assert figures(await shown(admin, begun)) == ("done", 1, 0, 0)
    for path in (f"{ACTIONS}/{begun['id']}", f"{ACTIONS}/{begun['id']}/results"):
        assert is_problem(await plain.get(path), 404)
    assert (await plain.get(ACTIONS)).json()["bulk_actions"] == []


@pytest.mark.parametrize("scopes", [("read",), ("submit",), ("metrics",)])
async def test_who_may_not_act_or_not_read_begins_nothing(make_client: MakeClient, scopes: tuple[str, ...]) -> None:
    client = await make_client(scopes=scopes)
    for path in (ACTIONS, f"{ACTIONS}/preview"):
        assert is_problem(await client.post(path, json=FAILED, headers={"idempotency-key": "k"}), 403)


async def test_an_administrator_acts_on_everybodys_or_on_anothers(
    make_client: MakeClient, context: Context, tenant: UUID
) -> None:
    admin = await make_client("ours", ("admin",))
    tenants = [tenant, *[await making.make_tenant(context.db, name) for name in ("theirs", "empty", "last")]]
    failed = [await fail_many(context.db, each, number) for each, number in zip(tenants, (2, 3, 0, 1), strict=True)]
    one = await begin(admin, {**FAILED, "tenant": "theirs"})
    await carry_out(context)
    assert (figures(await shown(admin, one)), one["tenant"]) == (("done", 3, 0, 0), "theirs")
    every = await begin(admin, {**FAILED, "tenant": "*"})
    assert (every["expected_jobs"], every["tenant"]) == (6, "*")
    await carry_out(context)
    assert figures(await shown(admin, every)) == ("done", 3, 3, 0)
    every_one = [job_id for each in failed for job_id in each]
    assert await retries_of(context.db, every_one) == dict.fromkeys(every_one, 1)
    rows = await context.db.fetch("SELECT tenant_id FROM jobs WHERE retry_of IS NOT NULL")
    assert Counter(row["tenant_id"] for row in rows) == {tenants[0]: 2, tenants[1]: 3, tenants[3]: 1}


async def test_an_abort_begins_nothing_more(
    client: httpx.AsyncClient, context: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "BATCH", 2)
    failed = await fail_many(context.db, tenant, 7)
    begun = await begin(client)
    action = await records.take(context.db, 30)
    assert action is not None
    assert await acting.carry_on(context, action) == 0.0
    # The second batch is planned, and not yet done, when somebody thinks better of it.
    await records.release(context.db, action.id)
    action = await records.take(context.db, 30)
    assert action is not None
    await acting.plan(context, action)
    assert (await client.post(f"{ACTIONS}/{begun['id']}/abort")).status_code == 202
    await records.release(context.db, action.id)
    await carry_out(context)
    assert figures(await shown(client, begun)) == ("aborted", 2, 2, 0)
    assert sum((await retries_of(context.db, failed)).values()) == 2
    reasons = (await client.get(f"{ACTIONS}/{begun['id']}/results?outcome=skipped")).json()["results"]
    assert {each["reason"] for each in reasons} == {acting.ABORTED}
    assert (await client.post(f"{ACTIONS}/{begun['id']}/abort")).status_code == 200


async def taken_and_planned(context: Context) -> Action:
    action = await records.take(context.db, 0.0)
    assert action is not None
    await acting.plan(context, action)
    return action


async def test_a_worker_that_died_after_it_did_a_batch_is_followed_by_one_that_knows(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    failed = await fail_many(context.db, tenant, 5)
    begun = await begin(client)
    action = await taken_and_planned(context)
    await acting.do(context, action, await records.planned(context.db, action.id, 100))
    # Here it dies: nothing of it is recorded. Its lease is over.
    await carry_out(context)
    assert figures(await shown(client, begun)) == ("done", 5, 0, 0)
    assert await retries_of(context.db, failed) == dict.fromkeys(failed, 1)


async def test_what_came_of_a_batch_may_be_recorded_by_several_at_once_in_any_order(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    await fail_many(context.db, tenant, 60)
    begun = await begin(client)
    action = await taken_and_planned(context)
    came = await acting.do(context, action, await records.planned(context.db, action.id, 100))
    for _ in range(10):
        await context.db.execute("UPDATE bulk_results SET outcome = 'planned', reason = NULL, new_job_id = NULL")
        await asyncio.gather(*(records.record(context.db, action.id, each) for each in [came, came[::-1]] * 4))
    assert figures(await shown(client, begun)) == ("running", 600, 0, 0)


async def test_retries_that_are_carried_out_late_are_found_by_their_time(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    failed = await fail_many(context.db, tenant, 4)
    begun = await begin(client)
    action = await taken_and_planned(context)
    batch = await records.planned(context.db, action.id, 100)
    # One of them was carried out before the worker died, and then five minutes went by.
    for each in batch:
        old = UUID(int=operations.new_job_id().int - (300_000 << 80))
        await context.db.execute("UPDATE bulk_results SET new_job_id = $2 WHERE job_id = $1", each.job_id, old)
    done = (await records.planned(context.db, action.id, 1))[0]
    async with context.db.transaction() as connection:
        await store.register_retries(connection, [(done.job_id, done.new_job_id)])
    await asyncio.gather(*(carry_out(context) for _ in range(3)))
    assert figures(await shown(client, begun)) == ("done", 4, 0, 0)
    assert await retries_of(context.db, failed) == dict.fromkeys(failed, 1)
    since = (datetime.now(UTC) - timedelta(minutes=2)).isoformat()
    listed = (await client.get("/v1/jobs", params={"status": "queued", "created_after": since})).json()["jobs"]
    results = (await client.get(f"{ACTIONS}/{begun['id']}/results")).json()["results"]
    told = {each["request_id"]: each["retried_as"] for each in results}
    assert told.pop(str(done.job_id)) == str(done.new_job_id)
    assert {job["retry_of"]: job["request_id"] for job in listed} == told


async def test_two_that_carry_out_an_old_batch_at_once_know_whose_its_retries_are(
    client: httpx.AsyncClient, context: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "OLD_SECONDS", 0.0)
    failed = await fail_many(context.db, tenant, 5)
    begun = await begin(client)
    action = await taken_and_planned(context)
    batch = await records.planned(context.db, action.id, 100)
    answers = await asyncio.gather(*(acting.do(context, action, batch) for _ in range(4)))
    assert {came.outcome for answer in answers for came in answer} == {BulkOutcome.DONE}
    await asyncio.gather(*(records.record(context.db, action.id, came) for came in answers))
    await carry_out(context)
    assert figures(await shown(client, begun)) == ("done", 5, 0, 0)
    assert await retries_of(context.db, failed) == dict.fromkeys(failed, 1)


async def test_of_two_that_go_on_at_the_same_place_one_goes_on(
    client: httpx.AsyncClient, context: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "BATCH", 2)
    failed = await fail_many(context.db, tenant, 5)
    begun = await begin(client)
    action = await records.take(context.db, 0.0)
    assert action is not None
    await asyncio.gather(*(acting.plan(context, action) for _ in range(4)))
    batch = await records.planned(context.db, action.id, 100)
    assert sorted(each.job_id for each in batch) == sorted(failed)[-2:]
    answers = await asyncio.gather(*(acting.do(context, action, batch) for _ in range(4)))
    await asyncio.gather(*(records.record(context.db, action.id, came) for came in answers))
    assert figures(await shown(client, begun)) == ("running", 2, 0, 0)
    await asyncio.gather(*(carry_out(context) for _ in range(3)))
    assert figures(await shown(client, begun)) == ("done", 5, 0, 0)
    assert await retries_of(context.db, failed) == dict.fromkeys(failed, 1)


# Slow enough to be killed in the middle of it.
WORKER = """
import asyncio
from service.bulk import acting
from service.bulk.acting import Actor
from service.bulk.lifecycle import BulkVerb
from service.context import open_context
from service.settings import load_settings

acting.BATCH = 3

async def main():
    async with open_context(load_settings()) as context:
        print("ready", flush=True)
        await Actor(context).pump.drain()

asyncio.run(main())
"""


async def test_killed_again_and_again_it_still_does_each_job_once(
    client: httpx.AsyncClient, context: Context, tenant: UUID, settings: Settings
) -> None:
    failed = await fail_many(context.db, tenant, 300)
    begun = await begin(client)
    environment = {
        **os.environ,
        "ROUNDTRIP_DATABASE_URL": settings.require_database_url(),
        "ROUNDTRIP_BROKER_URL": settings.require_broker_url(),
        "ROUNDTRIP_ARTIFACTS_URL": settings.artifacts_location,
        "FAL_KEY": "our-id:our-secret",
    }

    async def work(kill_after: int | None) -> None:
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WORKER, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE
        )
        assert worker.stdout is not None
        await worker.stdout.readline()
        if kill_after is not None:
            before = (await shown(client, begun))["done"]

            async def went_on() -> bool:
                return (await shown(client, begun))["done"] >= before + kill_after

            await making.until(went_on)
            os.kill(worker.pid, signal.SIGKILL)
        await worker.wait()
        # Nobody has it any more.
        await context.db.execute("UPDATE bulk_actions SET leased_until = now()")

    for kill_after in (1, 10, 25):
        await work(kill_after)
    assert (await shown(client, begun))["state"] == "running"
    await work(None)
    assert figures(await shown(client, begun)) == ("done", 300, 0, 0)
    assert await retries_of(context.db, failed) == dict.fromkeys(failed, 1)


async def test_repetitions_wait_while_many_jobs_are_due(
    client: httpx.AsyncClient, context: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "MOST_DUE", 2)
    failed = await fail_many(context.db, tenant, 3)
    for _ in range(2):
        await making.queued(context.db, tenant)
    begun = await begin(client)
    action = await records.take(context.db, 30)
    assert action is not None
    assert await acting.carry_on(context, action) > 0
    assert figures(await shown(client, begun)) == ("running", 0, 0, 0)
    assert not await retries_of(context.db, failed)


async def test_one_job_that_cannot_be_done_spoils_nothing(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    failed = await fail_many(context.db, tenant, 3)
    begun = await begin(client)
    await taken_and_planned(context)
    # An ID that is taken already, as no new one ever is.
    await context.db.execute("UPDATE bulk_results SET new_job_id = job_id WHERE job_id = $1", failed[1])
    await carry_out(context)
    assert figures(await shown(client, begun)) == ("done", 2, 0, 1)
    [result] = (await client.get(f"{ACTIONS}/{begun['id']}/results?outcome=failed")).json()["results"]
    assert (result["request_id"], result["reason"]) == (str(failed[1]), "It could not be done (UniqueViolationError).")
    assert await retries_of(context.db, failed) == {failed[0]: 1, failed[2]: 1}


async def test_results_and_actions_come_page_by_page(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    failed = await fail_many(context.db, tenant, 5)
    begun = [await begin(client) for _ in range(3)]
    await carry_out(context)

    async def all_of(path: str, field: str, name: str) -> list[str]:
        found, cursor = list[str](), ""
        while True:
            page = (await client.get(f"{path}?limit=2{cursor}")).json()
            found += [each[name] for each in page[field]]
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    assert await all_of(ACTIONS, "bulk_actions", "id") == [each["id"] for each in reversed(begun)]
    results = await all_of(f"{ACTIONS}/{begun[0]['id']}/results", "results", "request_id")
    assert results == [str(each) for each in sorted(failed, reverse=True)]


async def test_a_sweep_finds_an_action_whose_nudge_was_lost(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    from service.jobs import due

    await begin(client)
    assert (await due.anything_due(context.db))["bulk"]
    await carry_out(context)
    assert not (await due.anything_due(context.db))["bulk"]


async def test_results_are_forgotten_some_time_after_the_end(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    await fail_many(context.db, tenant, 2)
    begun = await begin(client)
    await carry_out(context)
    await records.tidy(context.db)
    assert await making.count(context.db, "bulk_results") == 2
    await context.db.execute("UPDATE bulk_actions SET ended_at = now() - interval '91 days'")
    await records.tidy(context.db)
    assert await making.count(context.db, "bulk_results") == 0
    assert figures(await shown(client, begun)) == ("done", 2, 0, 0)


def test_conditions_read_as_the_filters_of_a_list() -> None:
    pairs = asking.pairs_of({"tag": ["b", "a"], "metadata.order": 4711, "metadata.new": True, "cost_min": 0.5}, "body")
    assert pairs == [
        ("cost_min", "0.5"),
        ("metadata.new", "true"),
        ("metadata.order", "4711"),
        ("tag", "b"),
        ("tag", "a"),
    ]
    assert asking.filter_of(BulkVerb.RETRY, pairs).tags == ["b", "a"]


@pytest.fixture
def command(settings: Settings) -> Command:
    environment = {"ROUNDTRIP_DATABASE_URL": settings.require_database_url()}

    async def run(*words: object, typed: str | None = None) -> Result:
        said = [str(word) for word in words]
        return await asyncio.to_thread(CliRunner().invoke, main, said, input=typed, env=environment)

    return run


async def test_an_operator_does_it_on_the_command_line(
    command: Command, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    theirs = await making.make_tenant(context.db, "theirs")
    failed = await fail_many(context.db, tenant, 2, tags=["shop"]) + await fail_many(
        context.db, theirs, 1, tags=["shop"]
    )
    asked = await command("jobs", "retry", "--filter", "tag=shop", "--tenant", "ours", typed="n\n")
    assert asked.output.startswith("2 jobs; nobody knows the cost.")
    assert (asked.exit_code, await making.count(context.db, "bulk_actions")) == (1, 0)
    begun = await command("jobs", "retry", "--filter", "tag=shop", "--tenant", "*", "--yes")
    assert (begun.exit_code, begun.output.splitlines()[0]) == (0, "3 jobs; nobody knows the cost.")
    await carry_out(context)
    assert await retries_of(context.db, failed) == dict.fromkeys(failed, 1)
    heading, line = (await command("jobs", "actions")).output.splitlines()
    assert heading.split()[:5] == ["ID", "BEGUN", "ACTION", "TENANT", "STATE"]
    assert line.split()[3:] == ["retry", "*", "done", "3", "3", "0", "0", "tag=shop"]
    ended = await command("jobs", "abort", line.split()[0])
    assert ended.output == f"{line.split()[0]} is done.\n"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("retry", "--filter", "status", "--tenant", "ours"), 2),
        (("retry", "--filter", "colour=red", "--tenant", "ours"), 2),
        (("cancel", "--filter", "status=failed", "--tenant", "ours"), 2),
        (("cancel", "--filter", "tag=a", "--tenant", "nobody"), 2),
        (("abort", "01a1f984-a39d-76ba-a621-a06d9850bce1"), 1),
    ],
    ids=str,
)
async def test_what_cannot_be_meant_is_said_in_one_line(
    command: Command, db: Database, tenant: UUID, words: tuple[str, ...], status: int
) -> None:
    said = await command("jobs", *words)
    assert said.exit_code == status
    assert len(said.output.splitlines()) == 1
    assert await making.count(db, "bulk_actions") == 0
