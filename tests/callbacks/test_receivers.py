"""A receiver that is dead, slow or in distress costs the others nothing."""

import asyncio
import json
from datetime import UTC, datetime
from time import monotonic
from uuid import UUID

import pytest

from service.callbacks import records
from service.callbacks.delivering import SLOTS, Deliverer
from service.context import Context
from service.db import Database, Row
from tests import making
from tests.callbacks import told
from tests.callbacks.receiver import Receiver, dead_address, receiving, slowly
from tests.provider import Call, Reply, says


async def breaker(db: Database) -> Row | None:
    return await db.fetchrow(
        "SELECT failures, slow, extract(epoch FROM open_until - now())::float8 AS open_for FROM receivers"
    )


async def end_the_break(db: Database) -> None:
    await db.execute("UPDATE receivers SET open_until = now() - interval '1 ms'")


async def all_due(db: Database) -> None:
    await db.execute("UPDATE callbacks SET due_at = now() - interval '1 ms' WHERE state = 'pending' AND NOT leased")


async def test_a_live_receiver_is_served_before_ten_thousand_callbacks_to_a_dead_one(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    await told.ended_many(db, tenant, dead_address(), 10_000)
    live = await told.ended(db, tenant, receiver.address)
    begun = monotonic()
    taken = await deliverer._take(SLOTS, slow=False)
    print(f"\na take among 10,001 callbacks: {(monotonic() - begun) * 1000:.1f} ms")
    # As many as one receiver is to bear, and the one that is alive although its callback is the newest.
    assert len(taken) == records.AT_ONE_RECEIVER + 1
    assert live in {delivery.due.job_id for delivery in taken}


async def test_a_dead_receiver_is_left_alone_after_five_failures(
    db: Database, tenant: UUID, deliverer: Deliverer
) -> None:
    await told.ended_many(db, tenant, dead_address(), 200)
    await told.drain(deliverer)
    row = await breaker(db)
    assert row is not None
    assert row["failures"] == records.FAILURES
    assert 0 < row["open_for"] <= records.SHORTEST_BREAK_SECONDS
    made = await making.count(db, "callback_tries")
    assert records.FAILURES <= made <= records.FAILURES + records.AT_ONE_RECEIVER
    await all_due(db)
    await told.drain(deliverer)
    assert await making.count(db, "callback_tries") == made
    untouched = await db.fetch("SELECT tries FROM callbacks WHERE tries = 0 AND state = 'pending'")
    assert len(untouched) == 200 - made


async def test_after_the_break_one_callback_tries_for_all(db: Database, tenant: UUID, deliverer: Deliverer) -> None:
    await told.ended_many(db, tenant, dead_address(), 50)
    await told.drain(deliverer)
    for number, longest in ((1, 60.0), (2, 120.0), (3, 240.0)):
        before = await making.count(db, "callback_tries")
        await end_the_break(db)
        await all_due(db)
        await told.drain(deliverer)
        row = await breaker(db)
        assert row is not None
        assert await making.count(db, "callback_tries") == before + 1
        assert (row["failures"], longest / 2 < row["open_for"] <= longest) == (records.FAILURES + number, True)


async def test_no_break_is_longer_than_a_quarter_of_an_hour(db: Database, tenant: UUID, deliverer: Deliverer) -> None:
    await told.ended(db, tenant, dead_address())
    await db.execute(
        "INSERT INTO receivers SELECT tenant_id, receiver, 60, now() - interval '1 s', false FROM callbacks"
    )
    await told.drain(deliverer)
    row = await breaker(db)
    assert row is not None
    assert 890 < row["open_for"] <= records.LONGEST_BREAK_SECONDS


async def test_a_receiver_that_is_back_gets_everything(db: Database, tenant: UUID, deliverer: Deliverer) -> None:
    async with receiving(Reply(503)) as receiver:
        jobs = await told.ended_many(db, tenant, receiver.address, 40)
        await told.drain(deliverer)
        failed = len(receiver.calls)
        receiver.handler = says(Reply())
        await end_the_break(db)
        await all_due(db)
        await told.drain(deliverer)
        assert {await told.state(db, job_id) for job_id in jobs} == {"delivered"}
        assert (len(receiver.calls), await breaker(db)) == (failed + 40, None)


async def test_who_asks_for_a_redelivery_need_not_wait_for_the_end_of_the_break(
    db: Database, tenant: UUID, deliverer: Deliverer
) -> None:
    async with receiving(Reply(503)) as receiver:
        jobs = await told.ended_many(db, tenant, receiver.address, 20)
        await told.drain(deliverer)
        receiver.handler = says(Reply())
        await told.drain(deliverer)
        assert "delivered" not in {await told.state(db, job_id) for job_id in jobs}
        assert await records.redeliver_many(db, tenant, datetime(2026, 1, 1, tzinfo=UTC), None, None) == 20
        await told.drain(deliverer)
        assert {await told.state(db, job_id) for job_id in jobs} == {"delivered"}


async def test_what_one_address_refuses_does_not_close_the_receiver(
    db: Database, tenant: UUID, deliverer: Deliverer
) -> None:
    async with receiving(Reply(404)) as receiver:
        await told.ended_many(db, tenant, receiver.address, 30)
        await told.drain(deliverer)
    assert (len(receiver.calls), await breaker(db)) == (30, None)


async def test_one_success_between_failures_keeps_it_open(db: Database, tenant: UUID, deliverer: Deliverer) -> None:
    answers = [Reply(500)] * 4 + [Reply()]
    async with receiving(*(answers * 10)) as receiver:
        for _ in range(25):
            await told.ended(db, tenant, receiver.address)
            await told.drain(deliverer)
        assert len(receiver.calls) == 25
    assert await breaker(db) is None


async def test_another_tenants_failures_are_not_mine(db: Database, tenant: UUID, deliverer: Deliverer) -> None:
    """Many share a host: what one of them does to it must not cost the others their callbacks."""
    theirs = await making.make_tenant(db, "theirs")

    async def by_path(call: Call) -> Reply:
        return Reply(200 if call.path == "/mine" else 500)

    async with receiving(handler=by_path) as receiver:
        await told.ended_many(db, theirs, f"{receiver.url}/theirs", 20)
        await told.drain(deliverer)
        mine = await told.ended(db, tenant, f"{receiver.url}/mine")
        await told.drain(deliverer)
    assert await told.state(db, mine) == "delivered"


async def test_no_more_than_eight_are_under_way_at_one_receiver(calling: Context, db: Database, tenant: UUID) -> None:
    async with receiving(handler=slowly(0.05)) as receiver:
        await told.ended_many(db, tenant, receiver.address, 60)
        await asyncio.gather(*(told.drain(Deliverer(calling)) for _ in range(4)))
        assert len({json.loads(call.body)["request_id"] for call in receiver.calls}) == 60
    assert (receiver.at_once, len(receiver.calls)) == (records.AT_ONE_RECEIVER, 60)


async def test_slow_receivers_are_served_beside_the_others(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.callbacks.posting.SLOW_SECONDS", 0.05)
    let_go = asyncio.Event()

    async def hang(_: Call) -> Reply:
        await let_go.wait()
        return Reply()

    async with receiving(handler=slowly(0.1)) as slow:
        await told.ended(db, tenant, slow.address)
        await told.drain(deliverer)
        row = await breaker(db)
        assert row is not None
        assert (row["slow"], row["failures"]) == (True, 0)
        slow.handler = hang
        held = await told.ended_many(db, tenant, slow.address, 100)
        deliverer.pump.wake()
        deliverer.slow.wake()
        quick = await told.ended_many(db, tenant, receiver.address, 100)
        await deliverer.pump.drain()
        assert {await told.state(db, job_id) for job_id in quick} == {"delivered"}
        assert {await told.state(db, job_id) for job_id in held} == {"pending"}
        assert len(slow.calls) <= 1 + records.AT_ONE_RECEIVER
        slow.handler = says(Reply())
        let_go.set()
        await told.drain(deliverer)
        assert {await told.state(db, job_id) for job_id in held} == {"delivered"}
    assert await breaker(db) is None


async def test_receivers_that_nobody_calls_any_more_are_forgotten(
    db: Database, tenant: UUID, deliverer: Deliverer
) -> None:
    await told.ended_many(db, tenant, dead_address(), 20)
    await told.drain(deliverer)
    await records.tidy(db, 86_400.0)
    assert await breaker(db) is not None
    await db.execute("UPDATE callbacks SET state = 'given_up'")
    await end_the_break(db)
    await records.tidy(db, 86_400.0)
    assert await breaker(db) is None
