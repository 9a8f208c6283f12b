"""Exports: all that a filter means, in each form, in batches that are read as they are taken."""

import csv
import io
import sys
import threading
from typing import Any
from uuid import UUID

import httpx
import pyarrow.parquet
import pytest
from starlette.requests import Request

from service.api import exporting
from service.api.rendering import Renderer
from service.api.tables import KINDS, Parquet
from service.artifacts.links import FileLinks
from service.catalog.base import Lifted, LiftedFile
from service.db import Database, Row
from service.errors import Unauthenticated
from service.jobs import endings, lists
from service.jobs.filters import JobFilter
from service.keys import KeyRing
from tests import making
from tests.api.asking import is_problem, places
from tests.callbacks.told import ended_many

FORMS = tuple(exporting.TYPES)


async def listed(client: httpx.AsyncClient, query: str = "") -> list[dict[str, Any]]:
    jobs, cursor = [], ""
    while True:
        page = (await client.get(f"/v1/jobs?limit=7{query}{cursor}")).json()
        jobs += page["jobs"]
        if page["next_cursor"] is None:
            return jobs
        cursor = f"&cursor={page['next_cursor']}"


async def exported(client: httpx.AsyncClient, form: str, query: str = "") -> bytes:
    response = await client.get(f"/v1/jobs/export?format={form}{query}")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == exporting.TYPES[form]
    assert response.headers["content-disposition"] == f'attachment; filename="jobs.{form}"'
    return response.content


def read(form: str, content: bytes) -> list[dict[str, Any]]:
    if form == "parquet":
        return list(pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist())
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "EXPORTED_AT_ONCE", 4)


@pytest.fixture
async def some_jobs(db: Database, tenant: UUID) -> None:
    for number in range(9):
        await making.ended(db, tenant, tags=["even"] if number % 2 == 0 else [], metadata=f'{{"n": {number}}}')
    await making.ended(db, tenant, making.failed("=HYPERLINK(1)"))
    claim = await making.submitted(db, tenant)
    lifted = Lifted(
        seed=2**70,
        usage={"output_tokens": 5},
        timings={"inference": 0.5},
        files=(LiftedFile("mask", 0, "http://f.example/0"), LiftedFile("image", 0, "http://f.example/1")),
    )
    ending = making.completed()
    assert await endings.settle(db, claim.job_id, 1, ending, making.heard(ending.body), "webhook", lifted)
    await making.queued(db, tenant, webhook_url="https://hooks.example/?a=1,2")


@pytest.mark.usefixtures("some_jobs")
@pytest.mark.parametrize("query", ["", "&status=completed", "&tag=even", "&status=failed,queued", "&tag=none"])
async def test_lines_are_the_jobs_of_the_list(client: httpx.AsyncClient, query: str) -> None:
    lines = (await exported(client, "ndjson", query)).splitlines()
    assert [httpx.Response(200, content=line).json() for line in lines] == await listed(client, query)


@pytest.mark.usefixtures("some_jobs")
@pytest.mark.parametrize("form", ["csv", "parquet"])
async def test_tables_have_a_row_for_each_job_of_the_list(client: httpx.AsyncClient, form: str) -> None:
    jobs = await listed(client)
    rows = read(form, await exported(client, form))
    assert [row["request_id"] for row in rows] == [job["request_id"] for job in jobs]
    assert all(list(row) == list(KINDS) for row in rows)
    for row, job in zip(rows, jobs, strict=True):
        known = {name: row[name] for name in ("model", "status", "provider", "priority", "provider_request_id")}
        assert known == {name: job[name] or ("" if form == "csv" else None) for name in known}
    failed = next(row for row in rows if row["status"] == "failed")
    assert failed["error_message"] == ("'=HYPERLINK(1)" if form == "csv" else "=HYPERLINK(1)")
    whole = next(row for row in rows if row["usage"] != "{}")
    assert (whole["usage"], whole["model_timings"], whole["seed"]) == (
        '{"output_tokens": 5}', '{"inference":0.5}', str(2**70),
    )  # fmt: skip
    assert (int(whole["masks"]), int(whole["images"])) == (1, 1)
    seconds = next(job for job in jobs if job["usage"])["timings"]["total_seconds"]
    assert float(whole["total_seconds"]) == seconds
    assert [row["tags"] for row in rows][-1] == '["even"]'


@pytest.mark.parametrize("form", FORMS)
async def test_nothing_is_exported_as_nothing(client: httpx.AsyncClient, form: str) -> None:
    content = await exported(client, form)
    if form == "ndjson":
        assert content == b""
    else:
        assert read(form, content) == []
    assert (content.decode().strip() if form == "csv" else ",".join(KINDS)) == ",".join(KINDS)


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
async def test_a_spreadsheet_sees_no_formula(client: httpx.AsyncClient, db: Database, tenant: UUID, begin: str) -> None:
    await making.ended(db, tenant, making.failed(f'{begin}cmd|" /C calc"!A0'))
    [row] = read("csv", await exported(client, "csv"))
    assert row["error_message"] == f'\'{begin}cmd|" /C calc"!A0'
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row.values())


@pytest.mark.usefixtures("some_jobs")
@pytest.mark.parametrize("form", FORMS)
async def test_nobody_exports_another_tenants_jobs(
    stranger: httpx.AsyncClient, nobody: httpx.AsyncClient, form: str
) -> None:
    content = await exported(stranger, form)
    assert content == b"" if form == "ndjson" else read(form, content) == []
    assert is_problem(await nobody.get(f"/v1/jobs/export?format={form}"), 401)


@pytest.mark.parametrize(
    ("query", "place"),
    [("format=xlsx", "format"), ("format=csv&format=csv", "format"), ("limit=3", "limit"), ("cursor=A", "cursor"),
     ("status=gone", "status"), ("format=csv&colour=red", "colour")],
)  # fmt: skip
async def test_what_cannot_be_exported_says_where(client: httpx.AsyncClient, query: str, place: str) -> None:
    assert places(await client.get(f"/v1/jobs/export?{query}")) == [["query", place]]


async def test_without_pyarrow_the_answer_says_what_is_missing(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    response = await client.get("/v1/jobs/export?format=parquet")
    assert places(response) == [["query", "format"]]
    assert "the extra `parquet`" in response.json()["message"]


class Watched:
    """Pages, and how many of them were read."""

    def __init__(self, rows: list[list[Row]]) -> None:
        self.rows, self.read, self.closed = rows, 0, False

    async def pages(self) -> Any:
        try:
            for rows in self.rows:
                self.read += 1
                yield rows
        finally:
            self.closed = True


@pytest.fixture
async def watched(db: Database, tenant: UUID) -> Watched:
    await ended_many(db, tenant, "https://hooks.example/", 40)
    return Watched([rows async for rows in lists.pages(db, tenant, JobFilter())])


@pytest.fixture
def renderer() -> Renderer:
    links = FileLinks("http://here.example")
    links.use(b"secret" * 8)
    return Renderer("http://here.example", links)


async def test_a_batch_is_read_when_the_one_before_was_taken(watched: Watched, renderer: Renderer) -> None:
    assert len(watched.rows) == 10
    chunks = exporting.export(watched.pages(), renderer, "ndjson")
    lengths = []
    for number in range(1, 4):
        lengths.append(len((await anext(chunks)).splitlines()))
        assert watched.read == number
    assert lengths == [4, 4, 4]
    await chunks.aclose()
    assert watched.read == 3


def asking(keys: KeyRing, word: str) -> Request:
    async def receive() -> dict[str, str]:
        return {"type": word}

    return Request({"type": "http", "state": {"keys": keys}}, receive)


@pytest.mark.parametrize(("word", "read"), [("http.disconnect", 1), ("http.request", 10)])
async def test_nothing_more_is_read_for_who_has_gone(
    watched: Watched, client: httpx.AsyncClient, db: Database, word: str, read: int
) -> None:
    """Also where nothing is found, so that nothing is sent that would not reach him."""
    keys = KeyRing(db)
    caller = await keys.caller(client.headers["authorization"])
    async for _ in exporting.while_there(asking(keys, word), caller, watched.pages()):
        pass
    assert (watched.read, watched.closed) == (read, True)


async def test_a_revoked_key_breaks_an_export_off(
    watched: Watched, client: httpx.AsyncClient, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.keys.REMEMBERED_SECONDS", 0.0)
    keys = KeyRing(db)
    caller = await keys.caller(client.headers["authorization"])
    pages = exporting.while_there(asking(keys, "http.request"), caller, watched.pages())
    await anext(pages)
    await db.execute("UPDATE api_keys SET revoked_at = now()")
    with pytest.raises(Unauthenticated):
        await anext(pages)
    assert (watched.read, watched.closed) == (2, True)


async def test_the_end_of_parquet_is_written_beside_the_event_loop(
    watched: Watched, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def end(parquet: Parquet) -> bytes:
        threads.append(threading.current_thread())
        return ended(parquet)

    ended = Parquet.end
    monkeypatch.setattr(Parquet, "end", end)
    file = b"".join([piece async for piece in exporting.export(watched.pages(), renderer, "parquet")])
    assert pyarrow.parquet.read_table(io.BytesIO(file)).num_rows > 0
    assert threading.main_thread() not in threads
    assert len(threads) == 1


async def test_parquet_comes_in_row_groups(
    watched: Watched, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.tables.ROW_GROUP", 10)
    pieces = []
    reads = []
    async for piece in exporting.export(watched.pages(), renderer, "parquet"):
        pieces.append(piece)
        reads.append(watched.read)
    # The first leaves long before the last batch is read.
    assert len(pieces) > 3
    assert reads[1] <= 4
    file = pyarrow.parquet.ParquetFile(io.BytesIO(b"".join(pieces)))
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [12, 12, 12, 4]
    assert Parquet().end().startswith(b"PAR1")


async def test_a_client_that_goes_away_ends_it(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    await ended_many(db, tenant, "https://hooks.example/", 2_000)
    async with client.stream("GET", "/v1/jobs/export") as response:
        first = await anext(response.aiter_raw())
    assert 0 < len(first.splitlines()) < 2_000

    async def nobody_reads() -> bool:
        row = await db.fetchrow(
            "SELECT count(*) AS busy FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND state <> 'idle'"
            " AND query LIKE '%outcomes%' AND backend_type = 'client backend'"
        )
        return row is not None and row["busy"] == 0

    await making.until(nobody_reads)


@pytest.mark.usefixtures("some_jobs")
@pytest.mark.parametrize("form", FORMS)
async def test_a_head_is_the_headers_alone(client: httpx.AsyncClient, form: str) -> None:
    response = await client.head(f"/v1/jobs/export?format={form}")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == exporting.TYPES[form]
    assert "content-length" not in response.headers
