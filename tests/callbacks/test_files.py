"""A callback waits a little for the copies of the files that it names."""

import asyncio
import json
from uuid import UUID

import pytest

from service.artifacts.copying import copy_due
from service.artifacts.records import record_failure, take_owed
from service.callbacks.delivering import Deliverer
from service.context import Context
from service.db import Database
from service.jobs.endings import COPIES_WAIT_SECONDS
from service.queue import TaskName
from tests.api.asking import picture
from tests.callbacks import told
from tests.callbacks.receiver import Receiver
from tests.provider import Provider, Reply, says


async def test_it_is_told_with_the_stored_copies(
    calling: Context,
    tenant: UUID,
    provider: Provider,
    deliverer: Deliverer,
    receiver: Receiver,
    nudges: list[TaskName],
) -> None:
    db = calling.db
    provider.result = says(Reply(200, picture(), {"content-type": "image/png"}))
    files = [f"{provider.url}/files/{name}.png" for name in ("a", "b", "c")]
    job_id = await told.ended_with_files(db, tenant, receiver.address, *files)
    await told.drain(deliverer)
    assert receiver.calls == []
    assert COPIES_WAIT_SECONDS - 5 < await told.due_in(db, job_id) <= COPIES_WAIT_SECONDS
    await copy_due(calling)
    calling.nudger.close()
    assert nudges == [TaskName.DELIVER]
    await told.drain(deliverer)
    urls = [mask["url"] for mask in json.loads(receiver.calls[0].body)["payload"]["masks"]]
    assert all(url.startswith(f"{calling.settings.public_url}/files/") for url in urls)
    assert len(urls) == 3


@pytest.mark.parametrize("times", range(5))
async def test_of_copies_that_are_recorded_at_once_one_lets_it_go(
    db: Database, tenant: UUID, receiver: Receiver, times: int
) -> None:
    job_id = await told.ended_with_files(db, tenant, receiver.address, *(f"https://x.example/{n}" for n in range(8)))
    owed = await take_owed(db, 8, 60.0)
    let_go = await asyncio.gather(*(record_failure(db, each, "gone", None) for each in owed))
    assert sorted(let_go) == [False] * 7 + [True]
    assert await told.due_in(db, job_id) <= 0


async def test_a_copy_that_is_recorded_twice_counts_once(db: Database, tenant: UUID, receiver: Receiver) -> None:
    job_id = await told.ended_with_files(db, tenant, receiver.address, "https://x.example/1", "https://x.example/2")
    first, second = await take_owed(db, 2, 60.0)
    assert [await record_failure(db, first, "gone", None) for _ in range(2)] == [False, False]
    assert not await record_failure(db, second, "busy", 5.0)
    assert await told.due_in(db, job_id) > 0
    assert await record_failure(db, second, "gone", None)
    assert await told.due_in(db, job_id) <= 0


async def test_it_does_not_wait_for_ever(db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver) -> None:
    job_id = await told.ended_with_files(db, tenant, receiver.address, "https://x.example/a.png")
    await told.try_now(deliverer, db, job_id)
    assert json.loads(receiver.calls[0].body)["payload"] == {"masks": [{"url": "https://x.example/a.png"}]}
    assert await told.state(db, job_id) == "delivered"


async def test_a_late_copy_disturbs_no_callback_that_is_under_way(
    db: Database, tenant: UUID, deliverer: Deliverer, receiver: Receiver
) -> None:
    job_id = await told.ended_with_files(db, tenant, receiver.address, "https://x.example/a.png")
    await told.make_due(db, job_id)
    await told.take(db)
    [owed] = await take_owed(db, 1, 60.0)
    await record_failure(db, owed, "gone", None)
    assert await told.due_in(db, job_id) > 2


async def test_what_was_told_is_told_again_word_for_word_although_the_copies_came_since(
    calling: Context, tenant: UUID, provider: Provider, deliverer: Deliverer, receiver: Receiver
) -> None:
    provider.result = says(Reply(200, picture(), {"content-type": "image/png"}))
    receiver.handler = says(Reply(500), Reply())
    job_id = await told.ended_with_files(calling.db, tenant, receiver.address, f"{provider.url}/files/a.png")
    await told.try_now(deliverer, calling.db, job_id)
    await copy_due(calling)
    await told.try_now(deliverer, calling.db, job_id)
    first, second = receiver.calls
    assert first.body == second.body
    assert provider.url in first.body.decode()
