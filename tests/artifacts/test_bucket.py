"""The store in a bucket of a real S3: what lies there, what is asked of it, and what is made of its answers."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import obstore
import pytest
from obstore.store import from_url

from service.artifacts.storage import Storage
from tests.artifacts.s3 import S3
from tests.stand_in.server import eventually

MEGABYTE = 2**20
ROOT = Path(__file__).parents[2]


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def many(megabytes: int) -> AsyncIterator[bytes]:
    for number in range(megabytes):
        yield number.to_bytes(4, "big") * (MEGABYTE // 4)


@pytest.fixture
def bucket(s3: S3) -> str:
    return s3.new_bucket()


async def test_a_small_blob_lies_under_its_hash(s3: S3, bucket: str) -> None:
    stored = await Storage.open(f"s3://{bucket}/kept").put(chunks(b"small"), 10)
    assert s3.keys(bucket) == [f"kept/{stored.sha256[:2]}/{stored.sha256}"]
    assert obstore.get(from_url(f"s3://{bucket}"), s3.keys(bucket)[0]).bytes() == b"small"


async def test_200_megabytes_go_up_in_parts_and_come_back_in_little_memory(
    s3: S3, bucket: str, extra_memory: Callable[[], int]
) -> None:
    store = Storage.open(f"s3://{bucket}")
    stored = await store.put(many(200), 200 * MEGABYTE)
    assert (stored.size, s3.unfinished(bucket)) == (200 * MEGABYTE, [])
    assert await store.size(stored.sha256) == stored.size
    digest, size = hashlib.sha256(), 0
    async for chunk in await store.read(stored.sha256):
        digest.update(chunk)
        size += len(chunk)
    assert (digest.hexdigest(), size) == (stored.sha256, stored.size)
    start = 123 * MEGABYTE
    part = b"".join([chunk async for chunk in await store.read(stored.sha256, start, start + 8)])
    assert part == (123).to_bytes(4, "big") * 2
    assert extra_memory() < 50 * MEGABYTE


async def test_a_blob_is_at_hand_for_another_process(s3: S3, bucket: str) -> None:
    store = Storage.open(f"s3://{bucket}")
    stored = await store.put(many(7), 7 * MEGABYTE)
    async with store.at_hand(stored.sha256) as path:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == stored.sha256
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        async with store.at_hand("0" * 64):
            pass


async def test_a_blob_that_is_there_is_not_sent_again(s3: S3, bucket: str) -> None:
    store = Storage.open(f"s3://{bucket}")
    stored = await store.put(chunks(b"once"), 10)
    [key] = s3.keys(bucket)
    obstore.put(from_url(f"s3://{bucket}"), key, b"untouched")
    assert await store.put(chunks(b"once"), 10) == stored
    assert obstore.get(from_url(f"s3://{bucket}"), key).bytes() == b"untouched"


async def test_many_at_once_may_put_the_same_large_blob(s3: S3, bucket: str) -> None:
    stores = [Storage.open(f"s3://{bucket}") for _ in range(4)]
    stored = await asyncio.gather(*(store.put(many(12), 12 * MEGABYTE) for store in stores))
    assert len(set(stored)) == len(s3.keys(bucket)) == 1
    whole = b"".join([chunk async for chunk in await stores[0].read(stored[0].sha256)])
    assert hashlib.sha256(whole).hexdigest() == stored[0].sha256
    assert s3.unfinished(bucket) == []


async def test_a_blob_that_was_deleted_is_not_there(s3: S3, bucket: str) -> None:
    store = Storage.open(f"s3://{bucket}")
    stored = await store.put(chunks(b"gone"), 10)
    for _ in range(2):
        await store.delete(stored.sha256)
        assert not await store.exists(stored.sha256)
    assert s3.keys(bucket) == []


async def test_parts_of_an_upload_are_joined_and_dropped(s3: S3, bucket: str) -> None:
    store, digests = Storage.open(f"s3://{bucket}"), {}
    for number, content in ((1, b"one " * 200_000), (2, b"two")):
        async with store.spool(chunks(content), MEGABYTE) as file:
            await store.keep_part("upload", number, file)
            digests[number] = file.sha256
    stored = await store.put(store.read_parts("upload", digests), 2 * MEGABYTE)
    assert stored.sha256 == hashlib.sha256(b"one " * 200_000 + b"two").hexdigest()
    await store.drop_parts("upload", digests)
    assert len(s3.keys(bucket)) == 1


PUT = """
import asyncio, sys
from service.artifacts.storage import Storage

async def many():
    for number in range(200):
        yield number.to_bytes(4, "big") * 2**18

asyncio.run(Storage.open(sys.argv[1]).put(many(), 2**30))
"""


def killed_while_putting(s3: S3, bucket: str) -> None:
    command = [sys.executable, "-c", PUT, f"s3://{bucket}"]
    # What it has received by then is left there.
    with TemporaryDirectory() as spool:
        surroundings = {**os.environ, **s3.environment, "TMPDIR": spool}
        with subprocess.Popen(command, cwd=ROOT, env=surroundings) as writer:
            eventually(lambda: s3.unfinished(bucket), within=60, every=0.005)
            writer.send_signal(signal.SIGKILL)


async def test_a_writer_that_is_killed_leaves_nothing_to_be_seen(s3: S3, bucket: str) -> None:
    killed_while_putting(s3, bucket)
    assert (s3.keys(bucket), len(s3.unfinished(bucket))) == ([], 1)
    store = Storage.open(f"s3://{bucket}")
    stored = await store.put(many(200), 200 * MEGABYTE)
    assert [key.split("/")[1] for key in s3.keys(bucket)] == [stored.sha256]


async def test_a_blob_that_is_not_there_is_told_from_a_bucket_that_is_not(s3: S3, bucket: str) -> None:
    store = Storage.open(f"s3://{bucket}")
    assert not await store.exists("0" * 64)
    with pytest.raises(FileNotFoundError):
        await store.read("0" * 64)


async def test_a_server_that_is_away_is_not_taken_for_an_empty_one(
    monkeypatch: pytest.MonkeyPatch, s3: S3, bucket: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    store = Storage.open(f"s3://{bucket}")
    with pytest.raises(Exception, match="onnect") as caught:
        await asyncio.wait_for(store.exists("0" * 64), 100)
    assert not isinstance(caught.value, FileNotFoundError)


def test_other_clouds_are_opened_by_their_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened only: no server of theirs was tried."""
    Storage.open("gs://bucket/folder")
    Storage.open("abfss://container@account.dfs.core.windows.net/folder")
    with pytest.raises(ValueError, match="ccount"):
        Storage.open("az://container/folder")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    Storage.open("az://container/folder")
