"""A receiver that is dead, slow or in distress costs the others nothing."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic
from uuid import UUID

import pytest

from service.callbacks import again, records
from service.callbacks.delivering import SLOTS, Deliverer
from service.callbacks.records import Hand
from service.context import Context
from service.db import Database, Row
from service.names import StrangersResolver
from service.network import AddressGuard, open_http
from tests import making
from tests.callbacks import told
from tests.callbacks.receiver import Receiver, dead_address, receiving, slowly
from tests.nameserver import answering_names
from tests.provider import Call, Reply, says

_TRIED = "SELECT tenant_id FROM callback_tries JOIN callbacks USING (job_id)"


async def breaker(db: Database) -> Row | None:
    return await db.fetchrow(
        "SELECT failures, slow, extract(epoch FROM open_until - now())::float8 AS open_for FROM receivers"
    )


async def all_due(db: Database) -> None:
    await db.execute("UPDATE callbacks SET due_at = now() - interval '1 ms' WHERE state = 'pending' AND NOT leased")


async def test_a_live_receiver_is_served_before_ten_thousand_callbacks_to_a_dead_one(
    db: Database, tenant: UUID, receiver: Receiver
) -> None:
    await told.ended_many(db, tenant, dead_address(), 10_000)
    live = await told.ended(db, tenant, receiver.address)
    begun = monotonic()
    taken = await told.take(db, SLOTS)
    print(f"\na take among 10,001 callbacks: {(monotonic() - begun) * 1000:.1f} ms")
    # As many as one receiver is to bear, and the one that is alive although its callback is the newest.
    assert len(taken) == records.AT_ONE_RECEIVER + 1
    assert live in {due.job_id for due in taken}


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
        await told.end_the_breaks(db)
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
        await told.end_the_breaks(db)
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
        assert await again.redeliver_many(db, tenant, datetime(2026, 1, 1, tzinfo=UTC), None, None) == 20
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
    monkeypatch.setattr("service.callbacks.posting.SLOW_SECONDS", 1.0)
    let_go = asyncio.Event()

    async def hang(_: Call) -> Reply:
        await let_go.wait()
        return Reply()

    async with receiving(handler=slowly(1.1)) as slow:
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
    await told.end_the_breaks(db)
    await records.tidy(db, 86_400.0)
    assert await breaker(db) is None


async def test_who_asks_for_a_pause_is_sent_nothing_at_all(db: Database, tenant: UUID, deliverer: Deliverer) -> None:
    async with receiving(Reply(429, b"", {"retry-after": "120"})) as receiver:
        await told.ended(db, tenant, receiver.address)
        await told.drain(deliverer)
        await told.ended_many(db, tenant, f"{receiver.url}/other", 5)
        await told.drain(deliverer)
        row = await breaker(db)
        assert row is not None
        assert (len(receiver.calls), 100 < row["open_for"] <= 120) == (1, True)
        await told.end_the_breaks(db)
        receiver.handler = says(Reply())
        await told.drain(deliverer)
        assert len(receiver.calls) == 6


async def test_a_pause_that_is_asked_for_is_no_longer_than_a_break(
    db: Database, tenant: UUID, deliverer: Deliverer
) -> None:
    async with receiving(Reply(503, b"", {"retry-after": "86400"})) as receiver:
        await told.ended(db, tenant, receiver.address)
        await told.drain(deliverer)
    row = await breaker(db)
    assert row is not None
    assert 890 < row["open_for"] <= records.LONGEST_BREAK_SECONDS


async def many_receivers(db: Database, tenant: UUID, number: int, due: str = "now()") -> None:
    await told.ended_many(db, tenant, "https://h0.example/hook", number)
    await db.execute(
        "UPDATE callbacks SET receiver = 'https://h' || numbered.number || '.example'"
        " FROM (SELECT job_id, row_number() OVER () AS number FROM callbacks WHERE tenant_id = $1) AS numbered"
        " WHERE callbacks.job_id = numbered.job_id",
        tenant,
    )
    await db.execute(f"UPDATE callbacks SET due_at = {due} WHERE tenant_id = $1", tenant)


@pytest.mark.parametrize("number", [200, 2_000])
async def test_no_tenant_has_all_the_slots_however_many_receivers_it_names(
    db: Database, tenant: UUID, receiver: Receiver, number: int
) -> None:
    theirs = await making.make_tenant(db, "theirs")
    await many_receivers(db, theirs, number)
    mine = {await told.ended(db, tenant, receiver.address) for _ in range(3)}
    taken = await told.take(db, 30, lease_seconds=600.0, share=20)
    assert mine < {due.job_id for due in taken}
    assert len([due for due in taken if due.tenant_id == theirs]) == 20
    again = await told.take(db, 30, share=20, hand=Hand([due.tenant_id for due in taken]))
    assert again == []


async def test_what_is_due_is_found_among_many_receivers_for_whom_nothing_is(
    db: Database, tenant: UUID, receiver: Receiver
) -> None:
    await many_receivers(db, tenant, 2_000, due="now() + interval '1 hour'")
    mine = await told.ended(db, tenant, receiver.address)
    assert [due.job_id for due in await told.take(db)] == [mine]


async def test_a_take_uses_the_index_of_receivers_whatever_the_statistics_say(db: Database, tenant: UUID) -> None:
    """They were made when nothing was due; then it is an hour later."""
    await many_receivers(db, tenant, 2_000, due="now() + interval '1 hour'")
    await db.execute("ANALYZE callbacks")
    await db.execute("UPDATE callbacks SET due_at = now() - interval '1 s'")
    values = (64, 8.0, False, 1.0, 12, [], 48, 1, True)
    plan = [row[0].strip() for row in await db.fetch(f"EXPLAIN {records._TAKE}", *values)]
    scans = [line for line in plan if "ix_callbacks_due_at" in line]
    assert len(scans) <= 1, "\n".join(plan)  # That of `earliest`.
    assert len([line for line in plan if "ix_callbacks_receiver" in line]) == 3, "\n".join(plan)
    assert len(await told.take(db, 64)) == 64


async def test_rows_that_somebody_else_changes_hold_nobody_up(db: Database, tenant: UUID, receiver: Receiver) -> None:
    held, free = [await told.ended(db, tenant, receiver.address) for _ in range(2)]
    async with db.pool.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE callbacks SET begun_at = now() WHERE job_id = $1", held)
        async with asyncio.timeout(30):
            assert [due.job_id for due in await told.take(db)] == [free]


async def test_a_redelivery_of_many_goes_a_few_at_a_time(
    db: Database, tenant: UUID, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(again, "AGAIN_AT_A_TIME", 7)
    theirs = await making.make_tenant(db, "theirs")
    for each in (tenant, theirs):
        await told.ended_many(db, each, receiver.address, 20)
    await db.execute("UPDATE callbacks SET state = 'delivered', tries = 3, ended_at = now()")
    long_ago = datetime(2026, 1, 1, tzinfo=UTC)
    assert await again.redeliver_many(db, tenant, long_ago, None, None) == 20
    assert len(await db.fetch("SELECT FROM callbacks WHERE state = 'pending' AND tries = 0")) == 20
    assert await again.redeliver_many(db, None, long_ago, None, None) == 40
    assert len(await db.fetch("SELECT FROM callbacks WHERE state = 'pending' AND tries = 0")) == 40


async def test_what_waited_for_its_tenants_slots_is_taken_when_they_are_free(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    number = 2 * SLOTS
    jobs = [
        await told.ended(db, tenant, f"http://127.0.{n}.1:{receiver.url.rpartition(':')[2]}/") for n in range(number)
    ]
    await deliverer.pump.drain()
    left = [job_id for job_id in jobs if not await told.tries(db, job_id)]
    assert left == []


async def test_receivers_whose_name_servers_are_silent_cost_the_others_nothing(
    calling: Context, db: Database, tenant: UUID, receiver: Receiver
) -> None:
    theirs, port = await making.make_tenant(db, "theirs"), receiver.url.rpartition(":")[2]
    async with answering_names(well_example=["127.0.0.1"]) as server:
        names = StrangersResolver(["127.0.0.1"], server.port)
        async with open_http(guard=AddressGuard(allow_private=True), resolver=names) as http:
            deliverer = Deliverer(replace(calling, callbacks=http))
            for number in range(60):
                await told.ended(db, theirs, f"http://{number}.silent.example/hook")
            deliverer.pump.wake()
            await making.until(lambda: asyncio.sleep(0, len(server.asked) > 40))
            mine = [await told.ended(db, tenant, f"http://well.example:{port}/hook") for _ in range(6)]
            deliverer.pump.wake()
            await making.until(lambda: asyncio.sleep(0, len(receiver.calls) == 6))
            assert {row["tenant_id"] for row in await db.fetch(_TRIED)} <= {tenant}
            await deliverer.pump.drain()
    assert {await told.state(db, job_id) for job_id in mine} == {"delivered"}
    assert await db.fetch("SELECT FROM receivers WHERE tenant_id = $1", tenant) == []


async def test_a_receiver_that_cannot_be_looked_up_for_want_of_name_servers_is_not_blamed(
    calling: Context, db: Database, tenant: UUID
) -> None:
    async with answering_names() as server:
        pass
    names = StrangersResolver(["127.0.0.1"], server.port)
    async with open_http(guard=AddressGuard(allow_private=True), resolver=names) as http:
        job_id = await told.ended(db, tenant, "http://well.example/hook")
        await told.drain(Deliverer(replace(calling, callbacks=http)))
    row = await told.callback(db, job_id)
    assert (row["state"], row["tries"], await told.tries(db, job_id)) == ("pending", 0, [])
    assert await told.due_in(db, job_id) > 0
    assert await breaker(db) is None
