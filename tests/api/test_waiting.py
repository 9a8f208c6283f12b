"""Waiting for a job: `?wait=` and the stream of its changes."""

import asyncio
import json
from typing import Any
from uuid import UUID

import httpx
import pytest

from service import keys
from service.api import streaming
from service.artifacts.records import record_failure, take_owed
from service.context import Context
from service.db import Database
from service.front import statuses
from service.jobs import due, endings, operations, store
from service.jobs.guards import CHANNEL
from tests import making
from tests.api.asking import JOB, places
from tests.callbacks import told


async def somebody_waits(db: Database, job_id: UUID) -> None:
    """Until a client has left word that it waits."""
    while await db.fetchrow("SELECT FROM waiters WHERE job_id = $1", job_id) is None:  # noqa: ASYNC110 - it is a row
        await asyncio.sleep(0.005)


async def test_a_wait_ends_with_the_job(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant)
    waiting = asyncio.create_task(client.get(f"/v1/jobs/{claim.job_id}?wait=60"))
    await somebody_waits(db, claim.job_id)
    await making.settle(db, claim)
    job = (await waiting).json()
    assert (job["status"], job["output"]) == ("completed", {"output": "A cat."})


async def test_a_wait_ends_with_a_job_that_we_close(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    job_id = await making.queued(db, tenant)
    waiting = asyncio.create_task(client.get(f"/v1/jobs/{job_id}?wait=60"))
    await somebody_waits(db, job_id)
    await endings.close(db, job_id, operations.CANCELLED)
    assert (await waiting).json()["status"] == "cancelled"


async def test_many_may_wait_for_one_job(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant)
    waiting = [asyncio.create_task(client.get(f"/v1/jobs/{claim.job_id}?wait=60")) for _ in range(8)]
    await somebody_waits(db, claim.job_id)
    await making.settle(db, claim)
    assert {(await each).json()["status"] for each in waiting} == {"completed"}


@pytest.mark.parametrize("seconds", ["0", "0.05", "1e-9"])
async def test_a_wait_that_is_over_shows_the_job_as_it_is(
    client: httpx.AsyncClient, db: Database, tenant: UUID, seconds: str
) -> None:
    claim = await making.submitted(db, tenant)
    assert (await client.get(f"/v1/jobs/{claim.job_id}?wait={seconds}")).json()["status"] == "submitted"


async def test_nobody_waits_for_an_end_that_was(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    claim = await making.ended(db, tenant)
    assert (await client.get(f"/v1/jobs/{claim.job_id}?wait=120")).json()["status"] == "completed"
    assert await making.count(db, "waiters") == 0


@pytest.mark.parametrize("seconds", ["-1", "x", "", "nan", "inf", "1e999"])
async def test_a_wait_has_its_bounds(client: httpx.AsyncClient, db: Database, tenant: UUID, seconds: str) -> None:
    job_id = await making.queued(db, tenant)
    assert places(await client.get(f"/v1/jobs/{job_id}", params={"wait": seconds})) == [["query", "wait"]]


Told = tuple[int, str, dict[str, Any]]


class Stream:
    """The server-sent events of a job, one at a time."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> Told:
        fields: dict[str, str] = {}
        async for line in self._lines:
            if not line and fields:
                return int(fields["id"]), fields["event"], json.loads(fields["data"])
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
        raise StopAsyncIteration

    async def rest(self) -> list[Told]:
        told = []
        while not told or told[-1][1] != "end":
            told.append(await self.next())
        assert [line async for line in self._lines if line] == []
        return told


async def test_a_stream_tells_every_change_and_then_the_end(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    claim = await making.claimed(context.db, tenant)
    async with client.stream("GET", f"/v1/jobs/{claim.job_id}/stream") as response:
        stream = Stream(response)
        assert [(await stream.next())[1] for _ in range(2)] == ["registered", "submitting"]
        await store.record_answers(context.db, [making.accepted(claim)])
        assert (await stream.next())[1] == "accepted"
        await making.make_due(context.db, claim.job_id)
        [job] = await due.take_due(context.db, 1, 30.0)
        await due.record_progress(context.db, job, running=True, queue_position=None)
        assert (await stream.next())[1] == "started"
        await making.settle(context.db, claim)
        told = await stream.rest()
    assert response.headers["content-type"].startswith("text/event-stream")
    assert [event for _, event, _ in told] == ["completed", "end"]
    assert told[-1][2] == (await client.get(f"/v1/jobs/{claim.job_id}")).json()


async def test_the_stream_of_an_ended_job_tells_its_history(
    client: httpx.AsyncClient, db: Database, tenant: UUID
) -> None:
    claim = await making.ended(db, tenant)
    async with client.stream("GET", f"/v1/jobs/{claim.job_id}/stream") as response:
        told = await Stream(response).rest()
    assert [event for _, event, _ in told] == ["registered", "submitting", "accepted", "completed", "end"]
    ids = [number for number, _, _ in told]
    assert ids == sorted(ids)


async def test_a_stream_goes_on_where_it_broke_off(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    claim = await making.ended(db, tenant)
    async with client.stream("GET", f"/v1/jobs/{claim.job_id}/stream") as response:
        whole = await Stream(response).rest()
    for number, _, _ in whole[:-1]:
        headers = {"last-event-id": str(number)}
        async with client.stream("GET", f"/v1/jobs/{claim.job_id}/stream", headers=headers) as response:
            rest = await Stream(response).rest()
        assert [each for each in whole[:-1] if each[0] > number] == rest[:-1]


@pytest.mark.parametrize("last", ["x", "-1", "", "9" * 30, "1.5", "\u0661"])
async def test_a_strange_last_event_starts_from_the_beginning(
    client: httpx.AsyncClient, db: Database, tenant: UUID, last: str
) -> None:
    claim = await making.ended(db, tenant)
    headers = {"last-event-id": last.encode()}
    async with client.stream("GET", f"/v1/jobs/{claim.job_id}/stream", headers=headers) as response:
        assert (await Stream(response).next())[1] == "registered"


async def test_a_client_that_leaves_is_forgotten(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant)
    async with client.stream("GET", f"/v1/jobs/{claim.job_id}/stream") as response:
        await Stream(response).next()
    await making.settle(db, claim)
    assert (await client.get(f"/v1/jobs/{claim.job_id}")).json()["status"] == "completed"


async def test_the_last_copy_wakes_who_waits(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    """Long before anybody looks of his own accord: nobody does here."""
    job_id = await told.ended_with_files(db, tenant, "https://a.example/", "https://x.example/1", "https://x.example/2")
    heard: asyncio.Queue[object] = asyncio.Queue()
    async with db.pool.acquire() as connection:
        await connection.add_listener(CHANNEL, lambda *said: heard.put_nowait(said[-1]))
        await db.execute("INSERT INTO waiters VALUES ($1, now() + interval '1 minute')", job_id)
        for owed in await take_owed(db, 8, 60.0):
            await record_failure(db, owed, "gone", None)
            assert await asyncio.wait_for(heard.get(), 30) == str(job_id)
        await connection.reset(timeout=5)


@pytest.mark.parametrize("path", ["/v1/jobs/{}/stream", "/fal/queue/fal-ai/llava-next/requests/{}/status/stream"])
async def test_a_stream_ends_when_its_key_is_revoked(
    client: httpx.AsyncClient, db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(keys, "REMEMBERED_SECONDS", 0.0)
    for part in (streaming, statuses):
        monkeypatch.setattr(part, "PING_SECONDS", 0.05)
    claim = await making.submitted(db, tenant)
    async with client.stream("GET", path.format(claim.job_id)) as response:
        lines = response.aiter_lines()
        while "data" not in await anext(lines):
            continue
        while await anext(lines) != ": ping":
            continue
        await db.execute("UPDATE api_keys SET revoked_at = now()")
        said = [line async for line in lines]
    assert {line for line in said if line} <= {": ping"}
    assert (await client.get(f"/v1/jobs/{claim.job_id}")).status_code == 401


@pytest.mark.parametrize("path", ["/v1/jobs/{}?wait=60", "/fal/run/fal-ai/llava-next"])
async def test_who_waits_gets_nothing_when_its_key_is_revoked(
    client: httpx.AsyncClient, db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(keys, "REMEMBERED_SECONDS", 0.0)
    claim = await making.submitted(db, tenant)
    if "run" in path:
        waiting = asyncio.create_task(client.post(path, json=JOB["input"]))
        await making.until(lambda: db.fetchrow("SELECT job_id FROM waiters"))
        [claim] = await making.claim_all(db)
    else:
        waiting = asyncio.create_task(client.get(path.format(claim.job_id)))
        await somebody_waits(db, claim.job_id)
    await db.execute("UPDATE api_keys SET revoked_at = now()")
    await making.settle(db, claim)
    assert (await waiting).status_code == 401
