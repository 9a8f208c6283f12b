"""Where a request stands: asked again and again, or streamed."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from service import keys
from service.context import Context
from service.db import Database
from service.front import statuses
from service.jobs import due, endings, store
from service.jobs.facts import Answer
from service.jobs.lifecycle import AttemptState, Duty
from service.settings import Settings
from tests import making
from tests.api.asking import in_every_status
from tests.conftest import MakeClient
from tests.front.asking import LLAVA, events, is_problem, of, on_a_wire

FAL = {
    "queued": ("IN_QUEUE", 202),
    "submitted": ("IN_QUEUE", 202),
    "in_progress": ("IN_PROGRESS", 202),
    "completed": ("COMPLETED", 200),
    "failed": ("COMPLETED", 200),
    "cancelled": ("COMPLETED", 200),
}


async def test_every_status_in_fals_words(client: httpx.AsyncClient, context: Context, tenant: UUID, api: str) -> None:
    for name, job_id in (await in_every_status(context, tenant)).items():
        app = "fal-ai/sa2va" if name == "completed" else LLAVA
        response = await client.get(f"{of(job_id, app)}/status")
        body = response.json()
        assert (body["status"], response.status_code) == FAL[name]
        assert response.headers["x-fal-request-id"] == body["request_id"] == str(job_id)
        assert body["status_url"] == f"{api}{of(job_id, app)}/status"
        assert body["logs"] is None
        assert ("error" in body) == (name in {"failed", "cancelled"})
        assert isinstance(body.get("queue_position", 0), int)
        assert ("queue_position" in body) == (body["status"] == "IN_QUEUE")


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", False),
        ("?logs=0", False),
        ("?logs=false", False),
        ("?logs=1", True),
        ("?logs=true", True),
        ("?logs=%00", False),
    ],
)
async def test_logs_come_when_they_are_asked_for(
    client: httpx.AsyncClient, db: Database, tenant: UUID, query: str, wanted: bool
) -> None:
    claim = await making.ended(db, tenant, making.failed("Too dark."))
    logs = (await client.get(f"{of(claim.job_id)}/status{query}")).json()["logs"]
    assert isinstance(logs, list) == wanted
    if wanted:
        assert [line["level"] for line in logs] == ["INFO", "INFO", "INFO", "ERROR"]
        assert logs[-1]["message"].endswith("Too dark.")
        assert all(set(line) == {"message", "level", "source", "timestamp", "labels"} for line in logs)


@pytest.mark.parametrize("path", ["", "/"])
@pytest.mark.parametrize("app", ["fal-ai/sa2va", "fal-ai/sa2va/8b/image", "fal-ai/sa2va/other"])
async def test_the_app_is_enough_and_more_does_no_harm(
    client: httpx.AsyncClient, db: Database, tenant: UUID, app: str, path: str
) -> None:
    job_id = await making.queued(db, tenant, model="fal-ai/sa2va/8b/image")
    assert (await client.get(f"{of(job_id, app)}/status{path}")).status_code == 202


async def test_the_providers_id_will_do(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant, "theirs-7")
    assert (await client.get(f"{of('theirs-7')}/status")).json()["request_id"] == str(claim.job_id)


async def test_the_position_counts_who_is_ahead(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    jobs = [await making.queued(db, tenant, priority=priority) for priority in ("low", "normal", "normal")]
    bodies = [(await client.get(f"{of(job_id)}/status")).json() for job_id in jobs]
    assert [body["queue_position"] for body in bodies] == [2, 0, 1]


async def test_inference_time_is_the_models_own(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    unknown = await making.ended(context.db, tenant)
    assert (await client.get(f"{of(unknown.job_id)}/status")).json()["metrics"] == {}
    jobs = await in_every_status(context, tenant)
    timed = (await client.get(f"{of(jobs['completed'], 'fal-ai/sa2va')}/status")).json()
    assert timed["metrics"] == {"inference_time": 1.5}


PATHS = ["/status", "/status?logs=1", "/status/stream", "", "/response"]


@pytest.mark.parametrize("path", PATHS)
async def test_anothers_request_is_nobodys(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, db: Database, tenant: UUID, path: str
) -> None:
    claim = await making.ended(db, tenant, request_id="theirs-1")
    absent = await client.get(f"{of('00000000-0000-7000-8000-000000000000')}{path}")
    assert is_problem(absent, 404, status="NOT_FOUND")
    for asked in (of(claim.job_id), of("theirs-1")):
        response = await stranger.get(f"{asked}{path}")
        assert (response.status_code, response.content) == (404, absent.content)
    for asked in (of(claim.job_id, "fal-ai/mini-cpm"), of(claim.job_id, "x")):
        assert (await client.get(f"{asked}{path}")).content == absent.content


@pytest.mark.parametrize("path", PATHS)
async def test_nothing_is_told_without_a_key(nobody: httpx.AsyncClient, db: Database, tenant: UUID, path: str) -> None:
    claim = await making.ended(db, tenant)
    assert is_problem(await nobody.get(f"{of(claim.job_id)}{path}"), 401)


@pytest.mark.parametrize("request_id", ["%00", "%ff%fe", "é", "x" * 5_000, "..", "'; --", "%0d%0ax:y"])
async def test_strange_ids_are_nothing(client: httpx.AsyncClient, request_id: str) -> None:
    assert (await client.get(f"{of(request_id)}/status")).status_code in {404, 405}


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/cancel"), ("DELETE", ""), ("PUT", "/status"), ("GET", "/cancel"), ("PATCH", "")]
)
async def test_other_methods_are_refused(
    client: httpx.AsyncClient, db: Database, tenant: UUID, method: str, path: str
) -> None:
    claim = await making.ended(db, tenant)
    response = await client.request(method, f"{of(claim.job_id)}{path}")
    assert response.status_code in {404, 405}
    assert response.headers["x-fal-request-id"]


async def test_a_head_of_a_stream_does_not_wait(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    job_id = await making.queued(db, tenant)
    response = await client.head(f"{of(job_id)}/status/stream")
    assert response.headers["content-type"].startswith("text/event-stream")


class Told:
    """The events of a status stream, one at a time."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, Any]:
        async for line in self._lines:
            if line.startswith("data: "):
                assert line.isascii()
                return dict(events(line)[0])
        raise StopAsyncIteration


async def test_a_stream_tells_every_change_and_only_new_lines(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    claim = await making.claimed(context.db, tenant)
    async with client.stream("GET", f"{of(claim.job_id)}/status/stream?logs=1") as response:
        told = Told(response)
        first = await told.next()
        assert (first["status"], len(first["logs"])) == ("IN_QUEUE", 2)
        await store.record_answers(context.db, [making.accepted(claim)])
        assert len((await told.next())["logs"]) == 1
        await making.make_due(context.db, claim.job_id)
        [job] = await due.take_due(context.db, 1, 30.0)
        await due.record_progress(context.db, job, running=True, queue_position=None)
        assert (await told.next())["status"] == "IN_PROGRESS"
        await making.settle(context.db, claim, making.failed("Too dark: 暗い."))
        last = await told.next()
        assert (last["status"], last["error"], len(last["logs"])) == ("COMPLETED", "Too dark: 暗い.", 1)
        with pytest.raises(StopAsyncIteration):
            await told.next()


async def test_a_stream_without_logs_tells_each_status_once(
    client: httpx.AsyncClient, db: Database, tenant: UUID
) -> None:
    claim = await making.claimed(db, tenant)
    async with client.stream("GET", f"{of(claim.job_id)}/status/stream") as response:
        told = Told(response)
        assert (await told.next())["status"] == "IN_QUEUE"
        await store.record_answers(db, [making.accepted(claim)])
        await making.settle(db, claim)
        last = await told.next()
        assert (last["status"], last["logs"]) == ("COMPLETED", None)


async def test_many_streams_end_with_their_job(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    job_id = await making.queued(db, tenant)

    async def last() -> str:
        response = await client.get(f"{of(job_id)}/status/stream", timeout=30)
        return str(events(response.text)[-1]["status"])

    streams = [asyncio.create_task(last()) for _ in range(50)]
    await making.until(lambda: db.fetchrow("SELECT 1 FROM waiters WHERE job_id = $1", job_id))
    await endings.close(db, job_id, making.failed())
    assert set(await asyncio.gather(*streams)) == {"COMPLETED"}


LOCKED = "HTTP 403: User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."


async def test_what_a_provider_says_of_the_account_is_for_administrators(
    make_client: MakeClient, db: Database, tenant: UUID
) -> None:
    claim = await making.claimed(db, tenant)
    blocked = Answer(claim.job_id, 1, AttemptState.BLOCKED, Duty.SUBMIT, 0.0, http_status=403, error=LOCKED)
    await store.record_answers(db, [blocked])
    admin, reader = await make_client(), await make_client(scopes=("submit", "read"))
    own = f"/v1/jobs/{claim.job_id}"
    paths = [f"{of(claim.job_id)}/status?logs=1", f"{own}/events", f"{own}/attempts"]
    for path in paths:
        assert "balance" in (await admin.get(path)).text, path
        assert "balance" not in (await reader.get(path)).text, path
    assert "takes nothing for now" in (await reader.get(paths[0])).text
    await making.settle(db, (await making.claim_all(db))[0])
    for path in (f"{of(claim.job_id)}/status/stream?logs=1", f"{own}/stream"):
        assert "balance" in (await admin.get(path)).text, path
        assert "balance" not in (await reader.get(path)).text, path


async def test_a_stream_pings_while_its_database_is_away(
    settings: Settings, client: httpx.AsyncClient, db: Database, tenant: UUID, folder: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(statuses, "PING_SECONDS", 0.05)
    monkeypatch.setattr(keys, "REMEMBERED_SECONDS", 0.0)
    claim = await making.submitted(db, tenant)
    async with (
        on_a_wire(settings, folder, client) as (wire, http),
        http.stream("GET", f"{of(claim.job_id)}/status/stream") as stream,
    ):
        lines = stream.aiter_lines()
        while not (await anext(lines)).startswith("data"):
            continue
        await wire.cut()
        await making.settle(db, claim)
        for _ in range(20):
            assert (await anext(lines)) in {": ping", ""}
        await wire.mend()
        assert [json.loads(line[6:])["status"] async for line in lines if line.startswith("data")] == ["COMPLETED"]
