"""What goes out, and what follows from each answer."""

import asyncio
import json
from uuid import UUID

import pytest

from service import __version__
from service.artifacts.results import SMALL_BODY
from service.callbacks import again, delivering, records
from service.callbacks.delivering import Deliverer
from service.callbacks.envelopes import EndedJob
from service.callbacks.leases import Leases
from service.callbacks.lifecycle import CallbackFormat, CallbackState
from service.callbacks.posting import BROKEN_OFF, SILENT, UNREACHED, meaning
from service.callbacks.records import Hand, Tried
from service.callbacks.schedule import MOST_TRIES, PAUSES
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
        await told.end_the_breaks(db)
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
        await again.redeliver(db, job_id)
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
    await told.take(db)
    await told.drain(deliverer)
    assert receiver.calls == []
    await told.try_now(deliverer, db, job_id)
    assert await told.tries(db, job_id) == [(None, records.LOST), (200, None)]
    assert (await told.callback(db, job_id))["tries"] == 2


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


async def test_callbacks_whose_worker_died_in_the_end_end_too(db: Database, tenant: UUID, receiver: Receiver) -> None:
    lost, held = [await told.ended(db, tenant, receiver.address) for _ in range(2)]
    await told.take(db)
    await told.make_due(db, lost)
    await db.execute("UPDATE callbacks SET begun_at = now() - interval '6 days'")
    await records.tidy(db, 5 * 86_400.0)
    assert [await told.state(db, job_id) for job_id in (lost, held)] == ["given_up", "pending"]


async def test_a_retry_after_that_no_clock_will_see_is_none(db: Database, tenant: UUID, deliverer: Deliverer) -> None:
    never = "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"
    async with receiving(Reply(503, b"", {"retry-after": never})) as receiver:
        job_id = await told.ended(db, tenant, receiver.address)
        await told.drain(deliverer)
    assert await told.tries(db, job_id) == [(503, "HTTP 503")]
    assert 3 < await told.due_in(db, job_id) <= PAUSES[0] * 1.2


def unmakable(_: EndedJob) -> bytes:
    raise RuntimeError("it cannot be made")


async def test_a_callback_that_cannot_be_made_is_given_up_and_says_why(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(delivering.ENVELOPES, CallbackFormat.STANDARD, unmakable)
    broken = await told.ended(db, tenant, receiver.address, callback_format="standard")
    other = await told.ended(db, tenant, receiver.address)
    await told.drain(deliverer)
    assert await told.state(db, broken) == "given_up"
    assert await told.tries(db, broken) == [(None, "The callback could not be made (RuntimeError).")]
    assert await told.state(db, other) == "delivered"


async def test_a_try_that_fails_in_our_own_hands_is_a_try(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_down(*_: object) -> Tried:
        raise RuntimeError("a bug")

    monkeypatch.setattr(delivering, "post", break_down)
    job_id = await told.ended(db, tenant, receiver.address)
    for _ in range(MOST_TRIES):
        await told.try_now(deliverer, db, job_id)
    assert await told.state(db, job_id) == "given_up"
    assert await told.tries(db, job_id) == [(None, "It could not be sent (RuntimeError).")] * MOST_TRIES
    assert await making.count(db, "receivers") == 0


async def test_a_callback_whose_worker_dies_in_each_try_comes_to_its_end(
    db: Database, tenant: UUID, receiver: Receiver
) -> None:
    job_id = await told.ended(db, tenant, receiver.address)
    for number in range(MOST_TRIES):
        [due] = await told.take(db)
        assert due.tries == number
        await told.make_due(db, job_id)
    assert await told.take(db) == []
    assert await told.state(db, job_id) == "given_up"
    assert await told.tries(db, job_id) == [(None, records.LOST)] * MOST_TRIES


async def test_only_who_holds_a_callback_says_what_follows(db: Database, tenant: UUID, receiver: Receiver) -> None:
    job_id = await told.ended(db, tenant, receiver.address)
    [lost] = await told.take(db)
    await told.make_due(db, job_id)
    [held] = await told.take(db)
    await records.renew(db, [(job_id, lost.taken)], 1_000.0)
    assert await told.due_in(db, job_id) < 100
    await records.record(db, lost, meaning(404, 0.1, 1))
    assert (await told.callback(db, job_id))["leased"]
    await records.record(db, held, meaning(200, 0.1, 2))
    assert await told.state(db, job_id) == "delivered"
    assert await told.tries(db, job_id) == [(None, records.LOST), (404, "HTTP 404"), (200, None)]


async def test_a_redelivery_that_is_asked_for_during_the_last_try_follows_it(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    job_id = await told.ended(db, tenant, receiver.address)
    await db.execute("UPDATE callbacks SET tries = $1", MOST_TRIES - 1)
    [due] = await told.take(db)
    await again.redeliver(db, job_id)
    await records.record(db, due, meaning(404, 0.1, MOST_TRIES))
    assert await told.state(db, job_id) == "pending"
    await told.drain(deliverer)
    assert (await told.state(db, job_id), (await told.callback(db, job_id))["tries"]) == ("delivered", 1)


async def test_a_redelivery_that_is_asked_for_during_a_try_that_arrives_is_that_one(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    job_id = await told.ended(db, tenant, receiver.address)
    [due] = await told.take(db)
    await again.redeliver(db, job_id)
    await records.record(db, due, meaning(200, 0.1, 1))
    await told.drain(deliverer)
    assert (await told.state(db, job_id), receiver.calls) == ("delivered", [])


async def test_what_never_reached_the_network_is_no_try(db: Database, tenant: UUID, receiver: Receiver) -> None:
    job_id = await told.ended(db, tenant, receiver.address)
    await db.execute("INSERT INTO receivers SELECT tenant_id, receiver, 4, NULL, false FROM callbacks")
    [due] = await told.take(db)
    await records.record(db, due, Tried(CallbackState.PENDING, 0.1, again_in=5.0, counts=False))
    row = await told.callback(db, job_id)
    assert (row["state"], row["tries"], row["leased"], await told.tries(db, job_id)) == ("pending", 0, False, [])
    assert [row["failures"] for row in await db.fetch("SELECT failures FROM receivers")] == [4]


async def test_a_renewal_that_fails_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.callbacks.leases.RENEWED_EVERY_SECONDS", 0.01)
    asked: list[object] = []

    async def renew(held: object) -> None:
        asked.append(held)
        raise RuntimeError("a bug")

    with Leases(renew).held(UUID(int=1), 1):
        await making.until(lambda: asyncio.sleep(0, len(asked) > 2))


async def large(db: Database, tenant: UUID, url: str, size: int) -> UUID:
    return await told.ended(db, tenant, url, making.completed(b'{"output": "%s"}' % (b"x" * size)))


async def test_of_large_bodies_few_are_in_hand_at_a_time(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering, "LARGEST_BYTES", 5 * SMALL_BODY)
    in_hand, most = 0, 0

    async def hold(_: Call) -> Reply:
        nonlocal in_hand, most
        in_hand, most = in_hand + 1, max(most, in_hand + 1)
        await asyncio.sleep(0.02)
        in_hand -= 1
        return Reply()

    receiver.handler = hold
    jobs = [await large(db, tenant, receiver.address, 2 * SMALL_BODY) for _ in range(7)]
    await told.drain(deliverer)
    assert {await told.state(db, job_id) for job_id in jobs} == {"delivered"}
    assert most == 2
    assert {len(call.body) > 2 * SMALL_BODY for call in receiver.calls} == {True}


async def test_a_body_that_is_larger_than_all_the_room_is_taken_alone(
    db: Database, tenant: UUID, receiver: Receiver
) -> None:
    larger, small = (
        await large(db, tenant, receiver.address, SMALL_BODY),
        await told.ended(db, tenant, receiver.address),
    )
    room = {"largest_bytes": SMALL_BODY, "hand": Hand([tenant], SMALL_BODY + 1), "share": 10}
    assert [due.job_id for due in await told.take(db, **room)] == [small]
    [taken] = await told.take(db, largest_bytes=SMALL_BODY)
    assert (taken.job_id, taken.body, taken.size > SMALL_BODY) == (larger, None, True)


async def test_a_large_body_is_the_same_in_every_try(db: Database, tenant: UUID, deliverer: Deliverer) -> None:
    async with receiving(Reply(500), Reply()) as receiver:
        job_id = await large(db, tenant, receiver.address, SMALL_BODY)
        await told.drain(deliverer)
        await told.try_now(deliverer, db, job_id)
    assert await told.state(db, job_id) == "delivered"
    assert len({call.body for call in receiver.calls}) == 1
