"""What a request ended with, and how it is stopped."""

import json
from uuid import UUID

import httpx
import pytest

from service.context import Context
from service.db import Database
from service.jobs.facts import Ending
from service.jobs.lifecycle import Event
from tests import making
from tests.api.asking import with_files
from tests.front.asking import LLAVA, is_problem, of


@pytest.mark.parametrize("path", ["", "/", "/response", "/response/"])
async def test_the_result_is_the_models_own_body(
    client: httpx.AsyncClient, db: Database, tenant: UUID, path: str
) -> None:
    body = b'{"output": "A cat.",   "n": 1.50}'
    claim = await making.ended(db, tenant, making.completed(body))
    response = await client.get(f"{of(claim.job_id)}{path}")
    assert (response.status_code, response.content) == (200, body)
    assert response.headers["x-fal-request-id"] == str(claim.job_id)


@pytest.mark.parametrize("status", [400, 422, 500, 503, 504])
async def test_a_failure_is_told_as_the_model_told_it(
    client: httpx.AsyncClient, db: Database, tenant: UUID, status: int
) -> None:
    body = b'{"detail":[{"loc":["body","image_url"],"msg":"too small","type":"image_too_small"}]}'
    ending = Ending(Event.FAILED, status, body, "too small", "image_too_small")
    claim = await making.ended(db, tenant, ending)
    response = await client.get(of(claim.job_id))
    assert (response.status_code, response.content) == (status, body)
    assert response.headers["x-fal-error-type"] == "image_too_small"
    assert "x-fal-request-timeout-type" not in response.headers


async def test_files_are_at_their_copies(client: httpx.AsyncClient, context: Context, tenant: UUID, api: str) -> None:
    job_id = await with_files(context, tenant)
    masks = (await client.get(of(job_id, "fal-ai/sa2va"))).json()["masks"]
    assert masks[0]["url"].startswith(f"{api}/files/")
    assert masks[1]["url"] == "https://example.com/mask-1.png"


@pytest.mark.parametrize("make", [making.queued, making.claimed, making.submitted])
async def test_a_result_that_is_not_there_yet(
    client: httpx.AsyncClient, db: Database, tenant: UUID, make: object
) -> None:
    made = await make(db, tenant)  # type: ignore[operator]
    job_id = getattr(made, "job_id", made)
    assert is_problem(response := await client.get(of(job_id)), 400)
    assert "still in progress" in json.dumps(response.json())


async def test_a_cancel_has_four_answers(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, db: Database, tenant: UUID
) -> None:
    running = (await making.submitted(db, tenant)).job_id
    ended = (await making.ended(db, tenant)).job_id
    waiting = await making.queued(db, tenant)
    removed = await client.put(f"{of(waiting)}/cancel")
    assert (removed.status_code, removed.json()) == (200, {"status": "OK"})
    asked = await client.put(f"{of(running)}/cancel/")
    assert (asked.status_code, asked.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert is_problem(await client.put(f"{of(ended)}/cancel"), 400, status="ALREADY_COMPLETED")
    assert is_problem(await client.put(f"{of(waiting)}/cancel"), 400, status="ALREADY_COMPLETED")
    absent = await client.put(f"{of('nobody-knows')}/cancel")
    assert is_problem(absent, 404, status="NOT_FOUND")
    foreign = await stranger.put(f"{of(running)}/cancel")
    assert (foreign.status_code, foreign.content) == (404, absent.content)


async def test_a_cancelled_request_is_completed_with_499(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    job_id = await making.queued(db, tenant)
    await client.put(f"{of(job_id)}/cancel")
    status = (await client.get(f"{of(job_id)}/status")).json()
    assert (status["status"], status["error_type"]) == ("COMPLETED", "client_cancelled")
    assert is_problem(await client.get(of(job_id)), 499)


async def test_who_may_only_read_stops_nothing(make_client: object, db: Database, tenant: UUID) -> None:
    reader = await make_client(scopes=("read",))  # type: ignore[operator]
    job_id = await making.queued(db, tenant)
    assert is_problem(await reader.put(f"{of(job_id)}/cancel"), 403)
    assert (await reader.get(f"{of(job_id, LLAVA)}/status")).status_code == 202
