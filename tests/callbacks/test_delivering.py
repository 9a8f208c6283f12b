"""What goes out, and what follows from each answer."""

import asyncio
import json
from uuid import UUID

import pytest

from service import __version__
from service.callbacks import records
from service.callbacks.delivering import Deliverer
from service.callbacks.posting import BROKEN_OFF, SILENT, UNREACHED
from service.callbacks.schedule import PAUSES
from service.context import Context
from service.db import Database
from service.jobs import operations
from service.queue import TaskName
from tests import making
from tests.callbacks import told
from tests.callbacks.receiver import Receiver, dead_address, receiving, slowly
from tests.provider import Call, Reply


async def test_a_completed_job_is_told_to_its_client(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    job_id = await told.ended(db, tenant, receiver.address)
    await told.drain(deliverer)
    [call] = receiver.calls
    assert (call.method, call.path, call.query) == ("POST", "/hook", {"a": "1"})
    assert json.loads(call.body) == {
        "request_id": str(job_id),
        "gateway_request_id": str(job_id),
        "status": "OK",
        "payload": {"output": "A cat."},
    }
    assert call.headers["content-type"] == "application/json"
    assert call.headers["user-agent"] == f"roundtrip/{__version__}"
    assert call.headers["accept-encoding"] == "identity"
    assert "cookie" not in call.headers
    assert await told.state(db, job_id) == "delivered"
    assert await told.tries(db, job_id) == [(200, None)]


async def test_a_job_without_an_address_has_no_callback(db: Database, tenant: UUID, deliverer: Deliverer) -> None:
    await making.ended(db, tenant)
    assert await making.count(db, "callbacks") == 0


@pytest.mark.parametrize("even_if_submitted", [False, True])
async def test_an_end_of_our_own_is_told_too(
    calling: Context,
    tenant: UUID,
    deliverer: Deliverer,
    receiver: Receiver,
    even_if_submitted: bool,
    nudges: list[TaskName],
) -> None:
    make = making.submitted if even_if_submitted else making.queued
    made = await make(calling.db, tenant, webhook_url=receiver.address)
    job_id = made if isinstance(made, UUID) else made.job_id
    how = {"even_if_submitted": True} if even_if_submitted else {}
    assert await operations.close(calling, job_id, operations.CANCELLED, **how)
    await told.drain(deliverer)
    [call] = receiver.calls
    body = json.loads(call.body)
    assert (body["request_id"], body["status"], body["error"]) == (str(job_id), "ERROR", "Invalid status code: 499")
    assert body["payload"]["error_type"] == "client_cancelled"
    calling.nudger.close()
    assert nudges == [TaskName.DELIVER]


async def test_the_end_of_a_job_wakes_whoever_tells_it(
    calling: Context, tenant: UUID, receiver: Receiver, nudges: list[TaskName]
) -> None:
    claim = await making.submitted(calling.db, tenant, webhook_url=receiver.address)
    await operations.end(calling, claim.job_id, 1, making.MODEL, making.completed(), making.heard())
    calling.nudger.close()
    assert nudges == [TaskName.DELIVER]


async def test_a_second_end_makes_no_second_callback(db: Database, tenant: UUID, receiver: Receiver) -> None:
    claim = await making.submitted(db, tenant, webhook_url=receiver.address)
    ends = await asyncio.gather(*(making.settle(db, claim) for _ in range(5)))
    assert sorted(ends) == [False] * 4 + [True]
    assert await making.count(db, "callbacks") == 1


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_any_2xx_is_a_success(db: Database, tenant: UUID, deliverer: Deliverer, status: int) -> None:
    async with receiving(Reply(status, b"")) as receiver:
        job_id = await told.ended(db, tenant, receiver.address)
        await told.drain(deliverer)
    assert await told.state(db, job_id) == "delivered"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_a_failure_and_is_not_followed(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver, status: int
) -> None:
    async with receiving(Reply(status, b"", {"location": receiver.address})) as redirecting:
        job_id = await told.ended(db, tenant, redirecting.address)
        await told.drain(deliverer)
    assert (receiver.calls, await told.state(db, job_id)) == ([], "pending")
    assert [status for status, _ in await told.tries(db, job_id)] == [status]


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
async def test_a_refusal_is_tried_again(db: Database, tenant: UUID, deliverer: Deliverer, status: int) -> None:
    async with receiving(Reply(status), Reply()) as receiver:
        job_id = await told.ended(db, tenant, receiver.address)
        await told.drain(deliverer)
        assert await told.state(db, job_id) == "pending"
        assert 3 < await told.due_in(db, job_id) <= PAUSES[0] * 1.2
        await told.try_now(deliverer, db, job_id)
    assert await told.state(db, job_id) == "delivered"
    assert await told.tries(db, job_id) == [(status, f"HTTP {status}"), (200, None)]


async def test_a_410_stops_it(db: Database, tenant: UUID, deliverer: Deliverer) -> None:
    async with receiving(Reply(410)) as receiver:
        job_id = await told.ended(db, tenant, receiver.address)
        await told.drain(deliverer)
        await told.try_now(deliverer, db, job_id)
    assert (await told.state(db, job_id), len(receiver.calls)) == ("gone", 1)


async def test_retry_after_is_heeded_within_a_day(db: Database, tenant: UUID, deliverer: Deliverer) -> None:
    async with receiving(
        Reply(503, b"", {"retry-after": "900"}), Reply(429, b"", {"retry-after": "9999999"})
    ) as receiver:
        job_id = await told.ended(db, tenant, receiver.address)
        await told.drain(deliverer)
        assert 890 < await told.due_in(db, job_id) <= 900
        await told.try_now(deliverer, db, job_id)
        assert 86_300 < await told.due_in(db, job_id) <= 86_400


async def test_every_try_has_the_same_id_and_body_and_a_fresh_signature(
    db: Database, tenant: UUID, deliverer: Deliverer
) -> None:
    async with receiving(Reply(500), None, Reply()) as receiver:
        job_id = await told.ended(db, tenant, receiver.address)
        await told.drain(deliverer)
        for _ in range(2):
            await asyncio.sleep(1)  # A signature's time is in whole seconds.
            await told.try_now(deliverer, db, job_id)
        await records.redeliver(db, job_id)
        await told.drain(deliverer)
    assert len(receiver.calls) == 4
    assert len({call.body for call in receiver.calls}) == 1
    assert {call.headers["x-fal-webhook-request-id"] for call in receiver.calls} == {str(job_id)}
    assert len({call.headers["x-fal-webhook-signature"] for call in receiver.calls}) >= 3


async def test_what_is_sent_is_written_down_first(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    seen: list[bytes | None] = []

    async def look(call: Call) -> Reply:
        seen.append((await told.callback(db, job_id))["body"])
        return Reply()

    receiver.handler = look
    job_id = await told.ended(db, tenant, receiver.address)
    await told.drain(deliverer)
    assert seen == [receiver.calls[0].body]


async def test_after_the_last_try_it_is_given_up(db: Database, tenant: UUID, deliverer: Deliverer) -> None:
    async with receiving(Reply(404)) as receiver:
        job_id = await told.ended(db, tenant, receiver.address)
        await db.execute("UPDATE callbacks SET tries = $1", len(PAUSES))
        await told.drain(deliverer)
    assert (await told.state(db, job_id), len(receiver.calls)) == ("given_up", 1)


async def test_a_receiver_that_is_away_reads_like_one_that_is_not_allowed(
    context: Context, db: Database, tenant: UUID, deliverer: Deliverer
) -> None:
    away = await told.ended(db, tenant, dead_address())
    await told.drain(deliverer)
    strict = Deliverer(context)  # The loopback is private, and nobody lets callbacks go there.
    refused = await told.ended(db, tenant, "http://127.0.0.1:10/hook")
    await told.drain(strict)
    assert await told.tries(db, away) == await told.tries(db, refused) == [(None, UNREACHED)]


async def test_a_receiver_that_hangs_up_is_tried_again(db: Database, tenant: UUID, deliverer: Deliverer) -> None:
    async with receiving(None) as receiver:
        job_id = await told.ended(db, tenant, receiver.address)
        await told.drain(deliverer)
    assert await told.tries(db, job_id) == [(None, BROKEN_OFF)]


async def test_no_try_lasts_longer_than_its_limit(
    db: Database, tenant: UUID, deliverer: Deliverer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.callbacks.posting.LIMIT_SECONDS", 0.2)
    async with receiving(handler=slowly(30)) as receiver:
        job_id = await told.ended(db, tenant, receiver.address)
        await told.drain(deliverer)
    assert await told.tries(db, job_id) == [(None, SILENT)]


async def test_the_status_counts_whatever_the_rest_of_the_answer_does(
    db: Database, tenant: UUID, deliverer: Deliverer
) -> None:
    dripping = Reply(200, b"x" * 10_000, pause=0.5)
    async with receiving(dripping) as drips, receiving(Reply(200, b"x" * 5_000_000)) as floods:
        jobs = [await told.ended(db, tenant, each.address) for each in (drips, floods)]
        await told.drain(deliverer)
    assert [await told.state(db, job_id) for job_id in jobs] == ["delivered"] * 2


async def test_a_try_whose_worker_died_is_made_again_and_noted(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    job_id = await told.ended(db, tenant, receiver.address)
    dead = Deliverer(deliverer._context)
    [taken] = await dead._take(10, slow=False)
    await told.drain(deliverer)
    assert receiver.calls == []
    await told.try_now(deliverer, db, job_id)
    assert await told.tries(db, job_id) == [(None, records.LOST), (200, None)]
    assert receiver.calls[0].body == taken.body


async def test_a_try_that_takes_longer_than_its_lease_stays_its_workers_own(
    db: Database, tenant: UUID, calling: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.callbacks.delivering.LEASE_SECONDS", 0.4)
    monkeypatch.setattr("service.callbacks.leases.RENEWED_EVERY_SECONDS", 0.05)
    async with receiving(handler=slowly(1)) as receiver:
        job_id = await told.ended(db, tenant, receiver.address)
        slow, other = Deliverer(calling), Deliverer(calling)
        under_way = asyncio.create_task(told.drain(slow))
        await making.until(lambda: asyncio.sleep(0, bool(receiver.calls)))
        while not under_way.done():
            await told.drain(other)
            await asyncio.sleep(0.05)
        assert (len(receiver.calls), await told.tries(db, job_id)) == (1, [(200, None)])


async def test_two_workers_never_take_the_same(db: Database, tenant: UUID, calling: Context) -> None:
    async with receiving() as one, receiving() as two:
        jobs = [
            *await told.ended_many(db, tenant, one.address, 30),
            *await told.ended_many(db, tenant, two.address, 30),
        ]
        await asyncio.gather(*(told.drain(Deliverer(calling)) for _ in range(3)))
    calls = [*one.calls, *two.calls]
    assert sorted(json.loads(call.body)["request_id"] for call in calls) == sorted(map(str, jobs))
    assert max(one.at_once, two.at_once) <= records.AT_ONE_RECEIVER


async def test_callbacks_that_never_had_their_turn_end_too(db: Database, tenant: UUID, receiver: Receiver) -> None:
    old, new = [await told.ended(db, tenant, receiver.address) for _ in range(2)]
    await db.execute("UPDATE callbacks SET begun_at = now() - interval '6 days' WHERE job_id = $1", old)
    await records.tidy(db, 5 * 86_400.0)
    assert [await told.state(db, job_id) for job_id in (old, new)] == ["given_up", "pending"]
