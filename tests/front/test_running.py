"""Calls that are answered with the result: fal.run, and its stream."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from service import requests
from service.context import Context
from service.db import Database
from service.jobs.submitting import Submitter
from service.settings import Settings
from tests import making
from tests.front.asking import LLAVA, events, is_problem, of, on_a_wire

RUN = f"/fal/run/{LLAVA}"


async def answered(client: httpx.AsyncClient, db: Database, ending: Any, **call: Any) -> httpx.Response:
    """A call whose job is ended while it waits."""
    calling = asyncio.create_task(client.request(**{"method": "POST", "url": RUN, "json": making.PROMPT, **call}))
    await making.until(lambda: db.fetchrow("SELECT 1 FROM waiters JOIN live_jobs USING (job_id)"))
    [claim] = await making.claim_all(db)
    await making.settle(db, claim, ending)
    return await calling


async def test_the_answer_is_the_models(client: httpx.AsyncClient, db: Database) -> None:
    response = await answered(client, db, making.completed())
    assert (response.status_code, response.content) == (200, making.CAT)
    job = (await client.get(f"/v1/jobs/{response.headers['x-fal-request-id']}")).json()
    assert (job["status"], job["input"]) == ("completed", making.PROMPT)


async def test_a_failure_is_the_models_too(client: httpx.AsyncClient, db: Database) -> None:
    response = await answered(client, db, making.failed(status=422))
    assert (response.status_code, response.json()) == (422, {"detail": "It broke."})


async def test_a_call_by_get_has_its_input_in_the_query(client: httpx.AsyncClient, db: Database) -> None:
    query = making.PROMPT | {"prompt": "42", "max_tokens": "7", "temperature": "0.5"}
    response = await answered(client, db, making.completed(), method="GET", json=None, params=query)
    job = (await client.get(f"/v1/jobs/{response.headers['x-fal-request-id']}")).json()
    assert job["input"] == making.PROMPT | {"prompt": "42", "max_tokens": 7, "temperature": 0.5}


@pytest.mark.parametrize(
    ("model", "query", "read"),
    [
        (
            "fal-ai/flux-vision-upscaler",
            [("image_url", "https://a.example/a,b.png"), ("seed", "42")],
            {"image_url": "https://a.example/a,b.png", "seed": 42},
        ),
        (
            "fal-ai/mini-cpm",
            [("prompt", "?"), ("image_urls", "https://a.example/1"), ("image_urls", "https://a.example/2,3")],
            {"prompt": "?", "image_urls": ["https://a.example/1", "https://a.example/2,3"]},
        ),
        (
            "fal-ai/mini-cpm",
            [("prompt", "?"), ("image_urls", "https://a.example/1,https://a.example/2,3")],
            {"prompt": "?", "image_urls": ["https://a.example/1", "https://a.example/2,3"]},
        ),
        (
            "fal-ai/mini-cpm",
            [("prompt", "?"), ("image_urls", "data:image/png;base64,AAAA,https://a.example/2,3")],
            {"prompt": "?", "image_urls": ["data:image/png;base64,AAAA", "https://a.example/2,3"]},
        ),
    ],
)
async def test_a_query_is_read_as_the_models_schema_has_it(
    client: httpx.AsyncClient, context: Context, provider: Any, model: str, query: list[Any], read: dict[str, Any]
) -> None:
    url = f"/fal/run/{model}"
    calling = asyncio.create_task(client.get(url, params=query))
    await making.until(lambda: context.db.fetchrow("SELECT 1 FROM live_jobs"))
    await Submitter(context).drain()
    [call] = provider.submissions
    assert json.loads(call.body) == read
    calling.cancel()


async def test_a_query_that_does_not_fit_is_refused(client: httpx.AsyncClient) -> None:
    assert is_problem(await client.get(RUN, params=making.PROMPT | {"max_tokens": "many"}), 422)


async def test_a_stream_has_the_whole_output_in_one_event(client: httpx.AsyncClient, db: Database) -> None:
    ending = making.completed('{"output": "Ein Kätzchen: 猫"}'.encode())
    response = await answered(client, db, ending, url=f"{RUN}/stream")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.content.isascii()
    assert events(response.text) == [{"output": "Ein Kätzchen: 猫"}]


async def test_a_stream_that_fails_has_the_failures_status(client: httpx.AsyncClient, db: Database) -> None:
    response = await answered(client, db, making.failed(status=422), url=f"{RUN}/stream")
    assert (response.status_code, response.json()) == (422, {"detail": "It broke."})


async def test_who_leaves_leaves_the_job(client: httpx.AsyncClient, db: Database) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await client.post(RUN, json=making.PROMPT, timeout=0.5)
    [claim] = await making.claim_all(db)
    await making.settle(db, claim)
    assert (await client.get(of(claim.job_id))).content == making.CAT


async def test_a_repeated_call_with_a_key_is_the_same_job(client: httpx.AsyncClient, db: Database) -> None:
    headers = {"x-fal-idempotency-key": "call-1"}
    first = await answered(client, db, making.completed(), headers=headers)
    second = await client.post(RUN, json=making.PROMPT, headers=headers)
    assert first.headers["x-fal-request-id"] == second.headers["x-fal-request-id"]
    assert second.content == making.CAT


async def test_looking_whether_it_is_there_starts_nothing(client: httpx.AsyncClient, db: Database) -> None:
    assert (await client.head(RUN, params=making.PROMPT)).status_code == 405
    assert await making.count(db, "jobs") == 0


@pytest.mark.parametrize("path", ["", "/stream"])
async def test_nothing_runs_without_the_right(
    make_client: Any, nobody: httpx.AsyncClient, db: Database, path: str
) -> None:
    for client, status in ((nobody, 401), (await make_client(scopes=("read",)), 403)):
        assert is_problem(await client.post(f"{RUN}{path}", json=making.PROMPT), status)
    assert is_problem(await (await make_client()).post(f"/fal/run/no/such{path}", json={}), 404)
    assert await making.count(db, "jobs") == 0


async def test_the_files_of_an_input_are_whole_for_the_provider(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    # Beside the test of the store itself: a call's job is a job as any other.
    text = json.dumps(making.PROMPT | {"image_url": "data:image/png;base64,AAAA"})
    response = await answered(client, context.db, making.completed(), json=None, content=text)
    job = (await client.get(f"/v1/jobs/{response.headers['x-fal-request-id']}")).json()
    assert (await client.get(job["input"]["image_url"])).content == bytes(3)


@pytest.mark.parametrize("path", ["", "/stream"])
async def test_a_database_that_goes_away_meanwhile_is_waited_for(
    settings: Settings, client: httpx.AsyncClient, db: Database, folder: Path, path: str
) -> None:
    async with on_a_wire(settings, folder, client) as (wire, http):
        calling = asyncio.create_task(http.post(f"{RUN}{path}", json=making.PROMPT))
        await making.until(lambda: db.fetchrow("SELECT 1 FROM waiters JOIN live_jobs USING (job_id)"))
        await wire.cut()
        [claim] = await making.claim_all(db)
        await making.settle(db, claim)
        await asyncio.sleep(0.5)
        assert not calling.done()
        await wire.mend()
        response = await calling
        assert (response.status_code, response.headers["x-fal-request-id"]) == (200, str(claim.job_id))
        assert json.loads(making.CAT) in (events(response.text) if path else [response.json()])


@pytest.mark.parametrize("path", ["", "/stream"])
async def test_a_database_that_stays_away_is_no_reason_to_call_again(
    settings: Settings,
    client: httpx.AsyncClient,
    db: Database,
    folder: Path,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """fal's client repeats a call that is answered 503 without a word of its own time limit."""
    monkeypatch.setattr(requests, "PATIENCE_SECONDS", 0.3)
    async with on_a_wire(settings, folder, client) as (wire, http):
        calling = asyncio.create_task(http.post(f"{RUN}{path}", json=making.PROMPT))
        await making.until(lambda: db.fetchrow("SELECT 1 FROM waiters JOIN live_jobs USING (job_id)"))
        await wire.cut()
        assert is_problem(response := await calling, 504)
        assert response.headers["x-fal-request-timeout-type"] == "user"
        [claim] = await making.claim_all(db)
        assert response.headers["x-fal-request-id"] == str(claim.job_id)
