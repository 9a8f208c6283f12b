"""Submissions that a client's retries repeat, for tenants who asked that they be one."""

import asyncio
from uuid import UUID

import httpx
import pytest

from service.context import Context
from service.db import Database
from service.jobs import operations
from tests import making
from tests.front.asking import LLAVA, submit


@pytest.fixture
async def joining(db: Database, tenant: UUID) -> None:
    await db.execute("UPDATE tenants SET join_seconds = 60 WHERE id = $1", tenant)


async def test_without_the_tenants_wish_each_is_its_own(client: httpx.AsyncClient) -> None:
    assert len({(await submit(client))["request_id"] for _ in range(2)}) == 2


@pytest.mark.usefixtures("joining")
async def test_fifty_at_once_are_one(client: httpx.AsyncClient, db: Database) -> None:
    receipts = await asyncio.gather(*(submit(client) for _ in range(50)))
    assert len({receipt["request_id"] for receipt in receipts}) == 1
    assert await making.count(db, "jobs") == await making.count(db, "live_jobs") == 1


@pytest.mark.usefixtures("joining")
async def test_a_byte_makes_another(client: httpx.AsyncClient) -> None:
    bodies = [b'{"image_url":"https://a.example/a.png",%s"prompt":"?"}' % space for space in (b"", b" ")]
    assert len({(await submit(client, json=None, content=body))["request_id"] for body in bodies}) == 2


@pytest.mark.usefixtures("joining")
async def test_what_is_asked_besides_makes_another(client: httpx.AsyncClient) -> None:
    asked = [{}, {"params": {"fal_webhook": "https://a.example/"}}, {"headers": {"x-fal-queue-priority": "low"}}]
    assert len({(await submit(client, **each))["request_id"] for each in asked}) == 3


@pytest.mark.usefixtures("joining")
async def test_a_key_wins_over_the_window(client: httpx.AsyncClient) -> None:
    keys = ["one", "two"]
    assert len({(await submit(client, headers={"idempotency-key": key}))["request_id"] for key in keys}) == 2


@pytest.mark.usefixtures("joining")
async def test_tenants_are_not_joined(client: httpx.AsyncClient, stranger: httpx.AsyncClient, db: Database) -> None:
    await db.execute("UPDATE tenants SET join_seconds = 60")
    assert (await submit(client))["request_id"] != (await submit(stranger))["request_id"]


@pytest.mark.usefixtures("joining")
async def test_after_the_window_it_is_another(client: httpx.AsyncClient, db: Database) -> None:
    first = (await submit(client))["request_id"]
    await db.execute("UPDATE idempotency_keys SET created_at = now() - interval '61 s'")
    receipts = await asyncio.gather(*(submit(client) for _ in range(10)))
    [second] = {receipt["request_id"] for receipt in receipts}
    assert first != second


@pytest.mark.usefixtures("joining")
async def test_a_request_that_failed_may_be_repeated_at_once(client: httpx.AsyncClient, context: Context) -> None:
    first = (await submit(client))["request_id"]
    assert await operations.cancel(context, UUID(first))
    second = (await submit(client))["request_id"]
    assert second != first
    assert (await submit(client))["request_id"] == second


@pytest.mark.usefixtures("joining")
async def test_other_hints_or_another_address_make_another(client: httpx.AsyncClient, db: Database) -> None:
    headers = [{}, {"x-fal-store-io": "0"}, {"x-fal-request-timeout": "5"}, {"x-fal-runner-hint": "session-7"}]
    assert len({(await submit(client, headers=each))["request_id"] for each in headers}) == len(headers)
    calling = asyncio.create_task(client.post(f"/fal/run/{LLAVA}", json=making.PROMPT))
    await making.until(lambda: db.fetchrow("SELECT 1 FROM waiters JOIN live_jobs USING (job_id)"))
    assert await making.count(db, "jobs") == len(headers) + 1
    calling.cancel()
