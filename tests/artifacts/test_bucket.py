"""The store in a bucket, over HTTP: what S3 is asked, and what is made of its answers."""

import asyncio
import hashlib
import socket
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.artifacts.storage import Storage

LARGE = bytes(range(256)) * 30_000


class Bucket:
    """As much of S3 as is used: whole objects, parts of them, and uploads in parts."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = defaultdict(dict)
        self.down = False
        self.app = Starlette(routes=[Route("/{key:path}", self.answer, methods=["GET", "PUT", "POST"])])

    async def answer(self, request: Request) -> Response:
        key, query = request.path_params["key"], request.query_params
        if self.down:
            return Response(status_code=403)
        if request.method == "POST" and "uploads" in query:
            return Response("<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
        if request.method == "PUT" and "partNumber" in query:
            self.parts[key][int(query["partNumber"])] = await request.body()
            return Response(headers={"etag": '"part"'})
        if request.method == "POST":
            self.objects[key] = b"".join(part for _, part in sorted(self.parts.pop(key).items()))
            return Response("<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
        if request.method == "PUT":
            self.objects[key] = await request.body()
            return Response(headers={"etag": '"whole"'})
        return self.found(self.objects.get(key), request.headers.get("range"))

    def found(self, content: bytes | None, wanted: str | None) -> Response:
        if content is None:
            return Response(status_code=404)
        headers = {"etag": '"x"', "last-modified": "Fri, 20 Nov 2026 12:00:00 GMT"}
        if wanted is None:
            return Response(content, headers=headers)
        first, last = wanted.removeprefix("bytes=").split("-")
        part = content[int(first) : int(last) + 1 if last else None]
        headers["content-range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
        return Response(part, 206, headers)


@pytest.fixture
async def bucket(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bucket]:
    bucket = Bucket()
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(bucket.app, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
    for name, value in {"ALLOW_HTTP": "true", "ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    yield bucket
    server.should_exit = True
    await serving


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_small_blob_lies_under_its_hash(bucket: Bucket) -> None:
    store = Storage.open("s3://pictures/kept")
    stored = await store.put(chunks(b"small"), 10)
    assert bucket.objects == {f"pictures/kept/{stored.sha256[:2]}/{stored.sha256}": b"small"}


async def test_a_large_blob_goes_up_in_parts_and_comes_back_in_slices(bucket: Bucket) -> None:
    store = Storage.open("s3://pictures")
    stored = await store.put(chunks(LARGE), len(LARGE))
    assert stored.sha256 == hashlib.sha256(b"".join(bucket.objects.values())).hexdigest()
    assert [chunk async for chunk in await store.read(stored.sha256, 10, 20)] == [LARGE[10:20]]
    assert b"".join([chunk async for chunk in await store.read(stored.sha256)]) == LARGE


async def test_a_blob_that_is_there_is_not_sent_again(bucket: Bucket) -> None:
    store = Storage.open("s3://pictures")
    stored = await store.put(chunks(b"once"), 10)
    (key,) = bucket.objects
    bucket.objects[key] = b"untouched"
    assert await store.put(chunks(b"once"), 10) == stored
    assert bucket.objects == {key: b"untouched"}


async def test_a_blob_that_is_not_there_is_told_from_a_bucket_that_is_not(bucket: Bucket) -> None:
    store = Storage.open("s3://pictures")
    assert not await store.exists("0" * 64)
    with pytest.raises(FileNotFoundError):
        await store.read("0" * 64)
    bucket.down = True
    with pytest.raises(Exception, match="403") as caught:
        await store.exists("0" * 64)
    assert not isinstance(caught.value, FileNotFoundError)
