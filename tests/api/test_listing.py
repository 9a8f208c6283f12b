"""GET /v1/jobs: newest first, narrowed by what was asked, whole over all its pages."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.catalog.base import Lifted
from service.context import Context
from service.db import Database
from service.jobs import endings
from service.jobs.filters import make_cursor, read_cursor
from tests import making
from tests.api.asking import in_every_status, is_problem, places


async def listed(client: httpx.AsyncClient, **query: Any) -> list[str]:
    response = await client.get("/v1/jobs", params={name.replace("__", "."): value for name, value in query.items()})
    assert response.status_code == 200, response.text
    return [job["request_id"] for job in response.json()["jobs"]]


async def test_the_newest_job_comes_first(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    jobs = [str(await making.queued(db, tenant)) for _ in range(5)]
    assert await listed(client) == jobs[::-1]


async def test_a_listed_job_is_the_job_without_its_input_and_output(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    for job_id in (await in_every_status(context, tenant)).values():
        whole = (await client.get(f"/v1/jobs/{job_id}")).json()
        [summary] = [job for job in (await client.get("/v1/jobs")).json()["jobs"] if job["request_id"] == str(job_id)]
        assert summary == {name: value for name, value in whole.items() if name not in {"input", "output"}}


async def test_a_list_is_narrowed_by_status(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    jobs = {status: str(job_id) for status, job_id in (await in_every_status(context, tenant)).items()}
    for status, job_id in jobs.items():
        assert await listed(client, status=status) == [job_id]
    assert set(await listed(client, status="queued,completed")) == {jobs["queued"], jobs["completed"]}
    assert set(await listed(client, status=["failed", "submitted"])) == {jobs["failed"], jobs["submitted"]}


async def test_a_list_is_narrowed_by_model_and_provider(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    first = str(await making.queued(db, tenant, model="fal-ai/llava-next"))
    second = str(await making.queued(db, tenant, model="fal-ai/mini-cpm", provider="other"))
    assert await listed(client, model="fal-ai/llava-next") == [first]
    assert await listed(client, model=["fal-ai/llava-next", "fal-ai/mini-cpm"]) == [second, first]
    assert await listed(client, provider="other") == [second]
    assert await listed(client, model="none") == []


async def test_a_list_is_narrowed_by_every_tag_that_is_named(
    client: httpx.AsyncClient, db: Database, tenant: UUID
) -> None:
    both = str(await making.queued(db, tenant, tags=["a", "b,c"]))
    one = str(await making.queued(db, tenant, tags=["a"]))
    assert await listed(client, tag="a") == [one, both]
    assert await listed(client, tag=["a", "b,c"]) == [both]


@pytest.mark.parametrize(
    ("metadata", "asked"),
    [
        ('{"k": "v"}', "v"),
        ('{"k": "7"}', "7"),
        ('{"k": 7}', "7"),
        ('{"k": 7.0}', "7"),
        ('{"k": true}', "true"),
        ('{"k": null}', "null"),
        ('{"k": ""}', ""),
        ('{"k": "\\u00e9 %_\\\\"}', "é %_\\"),
        ('{"k": 12345678901234567890123}', "12345678901234567890123"),
    ],
)
async def test_a_list_is_narrowed_by_metadata_of_any_kind(
    client: httpx.AsyncClient, db: Database, tenant: UUID, metadata: str, asked: str
) -> None:
    job_id = str(await making.queued(db, tenant, metadata=metadata))
    await making.queued(db, tenant, metadata='{"k": "other", "v": "k"}')
    assert await listed(client, metadata__k=asked) == [job_id]


async def test_a_list_is_narrowed_by_time(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    jobs = [str(await making.queued(db, tenant)) for _ in range(3)]
    row = await db.fetchrow("SELECT created_at FROM jobs WHERE id = $1", UUID(jobs[1]))
    assert row is not None
    moment = row["created_at"]
    assert await listed(client, created_after=moment.isoformat()) == jobs[:0:-1]
    assert await listed(client, created_before=moment.isoformat()) == jobs[:1]
    assert await listed(client, created_after=(moment + timedelta(days=1)).isoformat()) == []
    assert await listed(client, created_before=moment.replace(tzinfo=None).isoformat()) == jobs[:1]


@pytest.mark.parametrize("text", ["WORD", "100% \\_", "zürich", "the output"])
async def test_a_list_is_narrowed_by_text_of_the_input_or_the_output(
    client: httpx.AsyncClient, db: Database, tenant: UUID, text: str
) -> None:
    claim = await making.submitted(db, tenant, input='{"prompt": "a word, 100% \\_ Zürich"}')
    ending, lifted = making.completed(), Lifted(text="This is the output.")
    await endings.settle(db, claim.job_id, 1, ending, making.heard(), "webhook", lifted)
    await making.queued(db, tenant, input='{"prompt": "1000 x_"}')
    assert await listed(client, q=text) == [str(claim.job_id)]


@hypothesis_settings(max_examples=15)
@given(limit=st.integers(1, 8), status=st.sampled_from(["", "queued", "completed,queued"]), tag=st.booleans())
async def test_the_pages_are_the_whole_list_in_its_order(
    client: httpx.AsyncClient, thirteen: None, limit: int, status: str, tag: bool
) -> None:
    query: dict[str, Any] = ({"status": status} if status else {}) | ({"tag": "odd"} if tag else {})
    whole = await listed(client, limit=200, **query)
    paged: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await client.get("/v1/jobs", params={**query, "limit": limit, "cursor": cursor})).json()
        assert len(page["jobs"]) <= limit
        paged += [job["request_id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
    assert paged == whole


@pytest.fixture
async def thirteen(db: Database, tenant: UUID) -> None:
    for number in range(13):
        make = making.ended if number % 3 == 0 else making.queued
        await db.execute("UPDATE live_jobs SET due_at = 'infinity'")  # so that `ended` claims its own
        await make(db, tenant, tags=["odd"] if number % 2 else [])


async def test_jobs_that_come_while_a_client_pages_do_not_disturb_it(
    client: httpx.AsyncClient, db: Database, tenant: UUID
) -> None:
    jobs = [str(await making.queued(db, tenant)) for _ in range(4)]
    first = (await client.get("/v1/jobs?limit=2")).json()
    await making.queued(db, tenant)
    second = (await client.get("/v1/jobs", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [job["request_id"] for job in first["jobs"] + second["jobs"]] == jobs[::-1]


@given(st.uuids())
def test_a_cursor_opens_to_what_it_was_made_of(job_id: UUID) -> None:
    assert read_cursor(make_cursor(job_id)) == job_id


@pytest.mark.parametrize(
    "query",
    [
        "status=finished",
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=1.5",
        "limit=x",
        "limit=%D9%A3",
        f"limit={'9' * 5_000}",
        "cursor=x",
        "cursor=%FF",
        f"cursor={'A' * 5_000}",
        "created_after=yesterday",
        "created_after=",
        "created_before=2026-13-01",
        "created_after=%00",
        "q=%00",
        "tag=%00",
        "metadata.%00=1",
        "metadata.=1",
        "unheard=1",
        "Status=queued",
    ],
)
async def test_a_question_that_is_none_is_told_where(client: httpx.AsyncClient, query: str) -> None:
    assert places(await client.get(f"/v1/jobs?{query}"))[0][0] == "query"


@pytest.mark.parametrize(
    "query",
    [
        "created_after=0001-01-01T00:00:00%2B14:00",
        "created_before=9999-12-31T23:59:59-14:00",
        "created_after=9999-12-31T23:59:59Z",
        "created_before=0001-01-01",
        "metadata.a=1e999",
        "metadata.a=%5B%5B",
        f"metadata.a={'9' * 4_000}",
        "metadata.a.b.c=%7B%7D",
        "q=%25%5C_%F0%9F%98%80%EF%BF%BE",
        "q=%FF%FE",
        f"q={'x' * 4_000}",
        f"tag={'x' * 4_000}",
        "model=%F0%9F%98%80",
        "&&&",
        "limit=1&limit=2",
    ],
)
async def test_a_strange_question_is_no_trouble(client: httpx.AsyncClient, query: str) -> None:
    response = await client.get(f"/v1/jobs?{query}")
    assert response.status_code == 200 or is_problem(response, 422)
