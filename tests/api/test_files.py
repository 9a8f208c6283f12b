"""Uploads, and stored files at addresses that nobody can guess."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from service.api import files
from service.artifacts import decoders, uploads
from service.artifacts.storage import Storage
from service.context import Context
from service.db import Database
from service.errors import Unavailable
from tests import making
from tests.api.asking import asked, is_problem, picture, places
from tests.artifacts.s3 import bucket_away


async def upload(client: httpx.AsyncClient, content: bytes = b"", **query: str) -> httpx.Response:
    return await client.post("/v1/files", content=content or picture(9), params=query)


async def test_an_upload_is_answered_with_its_address_and_facts(client: httpx.AsyncClient) -> None:
    response = await upload(client, name="a picture.png")
    file = response.json()
    assert response.status_code == 201
    assert (file["content_type"], file["width"], file["height"]) == ("image/png", 8, 6)
    assert file["sha256"] == hashlib.sha256(picture(9)).hexdigest()
    assert (file["file_name"], file["file_size"]) == ("a picture.png", len(picture(9)))


async def test_a_stored_file_needs_no_key(client: httpx.AsyncClient, nobody: httpx.AsyncClient) -> None:
    url = (await upload(client)).json()["url"]
    response = await nobody.get(url)
    assert (response.status_code, response.content) == (200, picture(9))
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]


async def test_an_upload_that_the_machine_had_no_time_to_look_at_can_be_sent_again(
    client: httpx.AsyncClient, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "WALL_SECONDS", 0.0)
    is_problem(await upload(client), 503)
    assert await making.count(db, "blobs") == 0


async def test_an_upload_works_as_an_input(client: httpx.AsyncClient) -> None:
    url = (await upload(client)).json()["url"]
    response = await client.post("/v1/jobs", json=asked(input={"image_url": url, "prompt": "What?"}))
    assert response.status_code == 202


async def test_the_same_file_twice_is_one_file(client: httpx.AsyncClient, db: Database) -> None:
    urls = [(await upload(client)).json()["url"] for _ in range(2)]
    assert urls[0] == urls[1]
    assert await making.count(db, "blobs") == 1


@pytest.mark.parametrize(
    ("asked_for", "status", "start", "end"),
    [("bytes=0-3", 206, 0, 4), ("bytes=4-", 206, 4, None), ("bytes=-5", 206, -5, None), ("lines=1-2", 200, 0, None)],
)
async def test_a_part_of_a_file_can_be_had(
    client: httpx.AsyncClient, asked_for: str, status: int, start: int, end: int | None
) -> None:
    url = (await upload(client)).json()["url"]
    response = await client.get(url, headers={"range": asked_for})
    assert (response.status_code, response.content) == (status, picture(9)[start:end])


async def test_a_part_beyond_the_end_is_refused(client: httpx.AsyncClient) -> None:
    url = (await upload(client)).json()["url"]
    response = await client.get(url, headers={"range": "bytes=99999-"})
    assert (response.status_code, response.headers["content-range"]) == (416, f"bytes */{len(picture(9))}")


async def test_a_file_that_is_known_is_not_sent_again(client: httpx.AsyncClient) -> None:
    url = (await upload(client)).json()["url"]
    etag = (await client.get(url)).headers["etag"]
    response = await client.get(url, headers={"if-none-match": etag})
    assert (response.status_code, response.content) == (304, b"")


async def test_the_head_of_a_file_is_its_size(client: httpx.AsyncClient) -> None:
    response = await client.head((await upload(client)).json()["url"])
    assert (response.status_code, response.headers["content-length"]) == (200, str(len(picture(9))))


async def test_a_page_is_only_ever_saved(client: httpx.AsyncClient) -> None:
    url = (await upload(client, b"<script>alert(1)</script>", name="x.html")).json()["url"]
    response = await client.get(url)
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"].startswith("attachment")


async def test_an_address_of_another_file_cannot_be_made(client: httpx.AsyncClient) -> None:
    url = (await upload(client)).json()["url"]
    token = url.split("/")[-2]
    other = hashlib.sha256(b"other").hexdigest()
    for forged in (f"{other}{token[64:]}", token[:-1] + ("0" if token[-1] != "0" else "1"), token.upper(), token[:64]):
        assert is_problem(await client.get(url.replace(token, forged)), 404)


async def test_a_file_of_no_blob_is_not_found(client: httpx.AsyncClient, db: Database) -> None:
    url = (await upload(client)).json()["url"]
    await db.execute("DELETE FROM blobs")
    assert is_problem(await client.get(url), 404)


async def test_a_blob_that_the_disk_lost_is_a_503(client: httpx.AsyncClient, context: Context) -> None:
    url = (await upload(client)).json()["url"]
    sha256 = url.split("/")[-2][:64]
    stored = context.settings.artifacts_location.removeprefix("file://")
    (Path(stored) / sha256[:2] / sha256).unlink()
    assert is_problem(await client.get(url), 503)


async def test_an_upload_that_the_disk_does_not_take_is_a_503(client: httpx.AsyncClient, context: Context) -> None:
    stored = Path(context.settings.artifacts_location.removeprefix("file://"))
    (stored / "spool").rename(stored / "away")
    assert is_problem(await upload(client), 503)
    (stored / "away").rename(stored / "spool")
    assert (await upload(client)).status_code == 201


async def test_a_file_that_cannot_go_to_its_bucket_is_not_kept(context: Context, tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    with pytest.raises(Unavailable), capture_logs() as logged:
        await uploads.keep(replace(context, storage=Storage(bucket_away(), tmp_path)), chunks(), 10)
    # Only the operator learns why.
    assert [(each["event"], "127.0.0.1" in each["error"]) for each in logged] == [("a file could not be stored", True)]
    assert await making.count(context.db, "blobs WHERE uploaded") == 0
    assert await making.count(context.db, "blobs JOIN unreferenced_blobs USING (sha256)") == 1


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", "a\0b", "\u202e"])
async def test_a_name_has_a_form(client: httpx.AsyncClient, name: str) -> None:
    assert places(await upload(client, name=name)) == [["query", "name"]]


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", 'a"b;c', "naïve 😀.png", "%2e%2e", "?x=1#y"])
async def test_a_strange_name_is_only_a_name(client: httpx.AsyncClient, name: str) -> None:
    response = await upload(client, name=name)
    assert (response.status_code, response.json()["file_name"]) == (201, name)
    assert (await client.get(response.json()["url"])).content == picture(9)


async def test_an_empty_file_is_refused(client: httpx.AsyncClient, db: Database) -> None:
    assert places(await client.post("/v1/files", content=b"")) == [["body"]]
    assert await making.count(db, "blobs") == 0


async def test_a_file_that_is_too_large_is_refused(
    client: httpx.AsyncClient, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LARGEST_UPLOAD", 1_000)
    assert is_problem(await upload(client, b"x" * 1_001), 413)
    assert await making.count(db, "blobs") == 0
