"""GET /v1/jobs: newest first, narrowed by what was asked, whole over all its pages."""

import asyncio
import json
import re
from base64 import b64encode
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.catalog.base import Lifted, LiftedFile
from service.context import Context
from service.db import Database
from service.jobs import endings, operations, reads
from service.jobs.cursors import Cursor, make_cursor, read_cursor
from service.jobs.filters import LONGEST_TEXT
from tests import making
from tests.api.asking import LLAVA, in_every_status, is_problem, places, register, with_files


async def listed(client: httpx.AsyncClient, **query: Any) -> list[str]:
    response = await client.get("/v1/jobs", params={name.replace("__", "."): value for name, value in query.items()})
    assert response.status_code == 200, response.text
    return [job["request_id"] for job in response.json()["jobs"]]


async def test_the_newest_job_comes_first(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    jobs = [str(await making.queued(db, tenant)) for _ in range(5)]
    assert await listed(client) == jobs[::-1]


ONLY_WHOLE = {"input", "output", "held_since", "removed", "cost_of_others"}


async def test_a_listed_job_is_the_job_without_its_input_and_output(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    for job_id in (await in_every_status(context, tenant)).values():
        whole = (await client.get(f"/v1/jobs/{job_id}")).json()
        [summary] = [job for job in (await client.get("/v1/jobs")).json()["jobs"] if job["request_id"] == str(job_id)]
        assert summary == {name: value for name, value in whole.items() if name not in ONLY_WHOLE}


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


async def test_a_question_may_name_64_tags_and_no_more(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    tags = [f"t{number}" for number in range(60)]
    job_id = str(await making.queued(db, tenant, tags=tags, metadata='{"a": 1, "b": 2, "c": 3}'))
    others = {"metadata__a": "1", "metadata__b": "2", "metadata__c": "3"}
    assert await listed(client, tag=["t0", *tags], **others) == [job_id]
    query = [*(("tag", tag) for tag in tags), ("metadata.a", "1"), ("usage.tokens_min", "1"), ("usage.tokens_max", "2")]
    more = [*query, ("tag", "t0"), ("tag", "t0"), ("tag", "t0")]
    for path in ("/v1/jobs", "/v1/jobs/export", "/v1/stats"):
        assert (await client.get(path, params=[*query, ("tag", "t0")])).status_code == 200
        assert places(await client.get(path, params=more)) == [["query"]]


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


@pytest.mark.parametrize("text", ["WORD", "100% _", "zürich", "the output"])
async def test_a_list_is_narrowed_by_text_of_the_input_or_the_output(
    client: httpx.AsyncClient, db: Database, tenant: UUID, text: str
) -> None:
    claim = await making.submitted(db, tenant, input='{"prompt": "a word, 100% _ Zürich"}')
    ending, lifted = making.completed(), Lifted(text="This is the output.")
    await endings.settle(db, claim.job_id, 1, ending, making.heard(), "webhook", lifted)
    await making.queued(db, tenant, input='{"prompt": "1000 x_"}')
    assert await listed(client, q=text) == [str(claim.job_id)]


async def test_of_a_file_that_came_in_the_output_a_list_reads_only_the_beginning(
    client: httpx.AsyncClient, db: Database, tenant: UUID
) -> None:
    claim = await making.submitted(db, tenant)
    uri = "DATA:image/png;base64," + b64encode(Random(4).randbytes(2**20)).decode()
    files = tuple(LiftedFile("image", index, url) for index, url in enumerate([uri, "https://example.com/1.png"]))
    await endings.settle(db, claim.job_id, 1, making.completed(), making.heard(), "webhook", lifted=Lifted(files=files))
    [job] = (await client.get("/v1/jobs")).json()["jobs"]
    assert [image["source_url"] for image in job["images"]] == [None, "https://example.com/1.png"]
    statement = reads._several
    values = statement.values(job_ids=[claim.job_id], tenants=[tenant])
    row = await db.fetchrow(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.sql}", *values)
    assert row is not None
    plan = json.loads(row[0])[0]["Plan"]
    # A page of 8 kB holds four pieces of a long text.
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < len(uri) // 2**13


SAID = 'Said "no" in C:\\new\nat <b>Zürich</b>/ÄRA, 東京 😀 100% (a|b)* ..'


@pytest.mark.parametrize("spelled", [{"ensure_ascii": False}, {"ensure_ascii": True}, "slashes", "capitals", "html"])
@pytest.mark.parametrize(
    "text",
    [
        "said",
        '"No"',
        "C:\\new",
        "C:\\NEW\nAT",
        "zürich",
        "ZÜRICH",
        "ära",
        "</B>/är",
        "東京",
        "😀",
        "100% (a|b)* ..",
        SAID,
    ],
)
async def test_text_of_an_input_is_found_however_its_client_wrote_it(
    client: httpx.AsyncClient, db: Database, tenant: UUID, spelled: Any, text: str
) -> None:
    prompt = json.dumps(SAID, **(spelled if isinstance(spelled, dict) else {}))
    if spelled == "slashes":
        prompt = prompt.replace("/", "\\/")
    if spelled == "capitals":
        prompt = re.sub(r"\\u\w{4}", lambda found: f"\\u{found[0][2:].upper()}", prompt)
    if spelled == "html":
        prompt = prompt.replace("<", r"\u003c").replace('\\"', r"\u0022").replace(r"\nat", r"\u000Aat")
    assert json.loads(prompt) == SAID
    body = f'{{"model": "{LLAVA}", "input": {{"image_url": "https://a.example/x", "prompt": {prompt}}}}}'
    response = await client.post("/v1/jobs", content=body.encode())
    assert response.status_code == 202, response.text
    await register(client)
    assert await listed(client, q=text) == [response.json()["request_id"]]
    assert await listed(client, q=f"{text}?") == []


async def test_the_longest_text_that_may_be_searched_for_is_searched_for(
    client: httpx.AsyncClient, db: Database, tenant: UUID
) -> None:
    job_id = str(await making.queued(db, tenant, input=json.dumps({"prompt": "É" * LONGEST_TEXT})))
    assert await listed(client, q="é" * LONGEST_TEXT) == [job_id]
    assert await listed(client, q='"' * LONGEST_TEXT) == []
    assert places(await client.get("/v1/jobs", params={"q": "é" * (LONGEST_TEXT + 1)})) == [["query", "q"]]


async def test_a_list_is_narrowed_by_masks(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    job_id = str(await with_files(context, tenant))
    await making.ended(context.db, tenant)
    for asked in (
        {"mask_label": "a TRUCK"},
        {"mask_area_min": "0.5"},
        {"mask_label": "A truck", "mask_area_max": "0.5"},
    ):
        assert await listed(client, **asked) == [job_id]
    for asked in (
        {"mask_label": "truck"},
        {"mask_area_min": "0.51"},
        {"mask_label": "A truck", "mask_area_max": "0.4"},
    ):
        assert await listed(client, **asked) == []


async def test_a_label_beyond_what_an_index_holds_is_found_whole(
    client: httpx.AsyncClient, db: Database, tenant: UUID
) -> None:
    long = "Ä" * 250
    for label in (f"{long}a", f"{long}b"):
        claim = await making.submitted(db, tenant)
        lifted = Lifted(files=(LiftedFile("mask", 0, "https://example.com/0.png", label=label),))
        assert await endings.settle(db, claim.job_id, 1, making.completed(), making.heard(), "webhook", lifted)
    assert await listed(client, mask_label=f"{long}B".lower()) == [str(claim.job_id)]
    assert await listed(client, mask_label=long) == []


async def test_a_list_is_narrowed_by_what_the_model_counted(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    job_id = str(await with_files(context, tenant))
    odd = await making.submitted(context.db, tenant)
    lifted = Lifted(usage={"tokens_min": 0.1}, timings={"inference": 10**400})
    await endings.settle(context.db, odd.job_id, 1, making.completed(), making.heard(), "webhook", lifted)
    assert await listed(client, usage__tokens_min="3", usage__tokens_max="3.0") == [job_id]
    assert await listed(client, timings__model__inference_max="1.5") == [job_id]
    assert await listed(client, timings__model__inference_min="1.6") == [str(odd.job_id)]
    assert await listed(client, usage__tokens_min_max="0.1", usage__tokens_min_min="0.1") == [str(odd.job_id)]


async def test_a_phase_of_a_job_that_goes_on_is_asked_for_as_it_is_shown(
    client: httpx.AsyncClient, db: Database, tenant: UUID
) -> None:
    await making.queued(db, tenant)
    await db.execute("UPDATE live_jobs SET due_at = 'infinity'")
    claim = await making.submitted(db, tenant)
    await making.make_older(db, claim.job_id, 0.0)
    shown = (await client.get(f"/v1/jobs/{claim.job_id}")).json()["timings"]
    for phase in ("queued_seconds", "submit_seconds"):
        bounds = {f"{phase}_min": repr(shown[phase]), f"{phase}_max": repr(shown[phase])}
        assert await listed(client, **bounds) == [str(claim.job_id)]
    assert await listed(client, queued_seconds_min=repr(shown["queued_seconds"] + 1e-6)) == []
    assert await listed(client, total_seconds_min="0") == []


async def test_metadata_of_the_same_spelling_is_not_the_same(
    client: httpx.AsyncClient, db: Database, tenant: UUID
) -> None:
    number = str(await making.queued(db, tenant, metadata='{"k": 7.50}'))
    text = str(await making.queued(db, tenant, metadata='{"k": "7.5"}'))
    assert await listed(client, metadata__k="7.5") == [text, number]
    assert await listed(client, metadata__k="7.50") == [number]
    assert await listed(client, metadata__k="75e-1") == [number]


async def test_metadata_beyond_what_an_index_holds_is_found_whole(
    client: httpx.AsyncClient, db: Database, tenant: UUID
) -> None:
    key, value = "".join(chr(0x4E00 + number * 7) for number in range(1_500)), "x" * 300
    described = ({key: "7.0", f"{key}b": 7}, {key: True}, {"k": f"{value}a"}, {"k": f"{value}b"})
    first, second, _, fourth = [(await register(client, metadata=each))["request_id"] for each in described]
    assert await listed(client, **{f"metadata__{key}": "7.0"}) == [first]
    assert await listed(client, **{f"metadata__{key}b": "7"}) == [first]
    assert await listed(client, **{f"metadata__{key}": "true"}) == [second]
    assert await listed(client, metadata__k=f"{value}b") == [fourth]
    assert await listed(client, metadata__k=value) == []


async def test_pages_are_gone_through_in_both_directions(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    jobs = [str(await making.queued(db, tenant)) for _ in range(5)][::-1]

    async def page(cursor: str | None) -> tuple[list[str], str | None, str | None]:
        answer = (await client.get("/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        assert answer["searched_to"] is None
        return [job["request_id"] for job in answer["jobs"]], answer["next_cursor"], answer["previous_cursor"]

    first, on, none = await page(None)
    second, further, back = await page(on)
    third, end, back_from_third = await page(further)
    assert (first, second, third) == (jobs[:2], jobs[2:4], jobs[4:])
    assert (none, end) == (None, None)
    assert (await page(back_from_third))[0] == second
    again, forth, beginning = await page(back)
    assert (again, beginning) == (first, None)
    assert (await page(forth))[0] == second
    # A page that nothing is left of leads back, too.
    await db.execute("DELETE FROM jobs WHERE id = $1", UUID(jobs[4]))
    nothing, _, back = await page(further)
    assert nothing == []
    assert (await page(back))[0] == second


async def test_a_job_that_ends_while_it_is_looked_for_is_listed_once(
    client: httpx.AsyncClient, db: Database, tenant: UUID
) -> None:
    jobs = [await making.queued(db, tenant) for _ in range(60)]

    async def end_all() -> None:
        for job_id in jobs:
            await endings.close(db, job_id, operations.CANCELLED)

    ending = asyncio.create_task(end_all())
    looks = 0
    while not ending.done() or not looks:
        assert await listed(client, limit=200) == [str(job_id) for job_id in reversed(jobs)]
        looks += 1
    await ending


async def test_of_a_long_text_the_beginning_is_searched(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    job_id = str(await making.queued(db, tenant, input=f'{{"prompt": "{"x" * 19_000} near {"y" * 10_000} far"}}'))
    assert await listed(client, q="NEAR") == [job_id]
    assert await listed(client, q="far") == []


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


@given(st.builds(Cursor, st.uuids(), st.booleans()))
def test_a_cursor_opens_to_what_it_was_made_of(cursor: Cursor) -> None:
    assert read_cursor(make_cursor(cursor)) == cursor


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
        "total_seconds=1",
        "total_seconds_min=x",
        "total_seconds_max=nan",
        "copy_seconds_min=inf",
        "cost_min=",
        "mask_area_min=%00",
        "mask_area_min=2",
        "mask_label=x&mask_area_max=-0.1",
        "total_seconds_min=1_0",
        "total_seconds_min=0x1",
        # A pattern that tried each way to read it would take minutes.
        f"cost_min={'1' * 16_000}x",
        "usage._min=1",
        "usage._max=1",
        "usage.tokens=1",
        "timings.model._max=1",
        "timings.total_seconds_min=1",
        "area_min=1",
        "_min=1",
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
        "total_seconds_min=-1e308&total_seconds_max=1e308",
        "cost_min=1e-300",
        "usage.tokens_min=1e308&usage.tokens_max=-0",
        "usage.%F0%9F%98%80%25'%22_min_max=1",
        "timings.model.%24%5B0%5D_min=1",
        f"usage.{'x' * 4_000}_min=1",
        f"mask_label={'x' * 4_000}",
        "mask_label=",
        "metadata.a=1e131071",
        "metadata.a=1e131072",
        "metadata.a=-0.0e-20000",
        "metadata.a=1e-16383",
        "metadata.a=1e-999999",
        f"model={','.join(map(str, range(500)))}",
        "&".join(f"metadata.key-{number}=x" for number in range(100)),
    ],
)
async def test_a_strange_question_is_no_trouble(client: httpx.AsyncClient, query: str) -> None:
    response = await client.get(f"/v1/jobs?{query}")
    assert response.status_code == 200 or is_problem(response, 422)
