"""The store: a blob is there whole or not at all, under its own hash, and nothing else is left lying about."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from service.artifacts.storage import Storage, TooLarge
from tests.artifacts.s3 import CREDENTIALS

LARGE = bytes(range(256)) * 30_000  # more than one of the bucket's parts


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def breaks_off(error: BaseException) -> AsyncIterator[bytes]:
    yield b"x" * 600_000
    raise error


@pytest.fixture(params=["disk", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return Storage.open((tmp_path / "a b").as_uri())
    if request.param == "s3":
        return Storage.open(f"s3://{request.getfixturevalue('s3').new_bucket()}/a b")
    (tmp_path / "spool").mkdir()
    return Storage(MemoryStore(), tmp_path / "spool")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


async def content(store: Storage, sha256: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in await store.read(sha256, start, end)])


async def test_what_is_put_is_read_back_by_its_hash(store: Storage) -> None:
    stored = await store.put(chunks(LARGE[:10], b"", LARGE[10:]), len(LARGE))
    assert (stored.sha256, stored.size) == (hashlib.sha256(LARGE).hexdigest(), len(LARGE))
    assert await content(store, stored.sha256) == LARGE
    assert await store.size(stored.sha256) == len(LARGE)
    assert await store.exists(stored.sha256)


async def test_the_same_bytes_are_one_blob(store: Storage, tmp_path: Path) -> None:
    once = await store.put(chunks(b"same"), 10)
    assert await store.put(chunks(b"sa", b"me"), 10) == once
    assert await content(store, once.sha256) == b"same"
    assert files(tmp_path) in ([], [once.sha256])


async def test_many_at_once_may_put_the_same_bytes(store: Storage) -> None:
    stored = await asyncio.gather(*(store.put(chunks(b"same"), 10) for _ in range(8)))
    assert len(set(stored)) == 1


async def test_nothing_is_a_blob_too(store: Storage) -> None:
    stored = await store.put(chunks(), 0)
    assert stored.size == 0
    assert await content(store, stored.sha256) == b""
    assert await content(store, stored.sha256, 0, 0) == b""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(start=st.integers(0, 99), end=st.none() | st.integers(0, 100))
async def test_a_part_is_a_slice(store: Storage, start: int, end: int | None) -> None:
    stored = await store.put(chunks(LARGE[:100]), 100)
    assert await content(store, stored.sha256, start, end) == LARGE[start : 100 if end is None else end]


async def test_one_byte_too_many_is_too_large(store: Storage, tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        await store.put(chunks(b"12345", b"6"), 5)
    assert files(tmp_path) == []


@pytest.mark.parametrize("error", [OSError("No space left on device"), asyncio.CancelledError(), ValueError("odd")])
async def test_a_source_that_breaks_off_leaves_nothing(store: Storage, tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        await store.put(breaks_off(error), 1_000_000)
    assert files(tmp_path) == []


async def test_a_store_that_cannot_take_it_leaves_nothing(tmp_path: Path) -> None:
    store = Storage.open(tmp_path.as_uri())
    (tmp_path / hashlib.sha256(b"x").hexdigest()[:2]).write_bytes(b"in the way")
    with pytest.raises(FileExistsError):
        await store.put(chunks(b"x"), 10)
    assert files(tmp_path / "spool") == []


async def test_a_source_is_closed_when_it_is_too_large(store: Storage) -> None:
    closed = []

    async def source() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 300_000
        finally:
            closed.append(True)

    with pytest.raises(TooLarge):
        await store.put(source(), 5)
    assert closed == [True]


async def test_a_file_can_be_looked_at_before_it_is_kept_and_is_gone_if_it_is_not(
    store: Storage, tmp_path: Path
) -> None:
    async with store.spool(chunks(b"look"), 10) as file:
        assert file.path.read_bytes() == b"look"
    assert not file.path.exists()
    assert not await store.exists(file.sha256)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["", "../" + "a" * 61, "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", "/" + "a" * 63, "é" * 64]
)
async def test_only_a_hash_names_a_blob(store: Storage, name: str) -> None:
    for use in (store.read, store.size, store.exists):
        with pytest.raises(ValueError, match="SHA-256"):
            await use(name)


async def test_a_blob_that_is_not_there_is_missed_before_the_first_byte(store: Storage) -> None:
    assert not await store.exists("0" * 64)
    for end in (None, 0, 5):
        with pytest.raises(FileNotFoundError):
            await store.read("0" * 64, 0, end)


async def test_the_bytes_reach_the_disk_before_their_name_and_the_name_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, done = Storage.open(tmp_path.as_uri()), []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        done.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).suffix or "folder"))
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        done.append(("replace", self.suffix))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    await store.put(chunks(b"x"), 10)
    assert done == [("fsync", ".part"), ("replace", ".part"), ("fsync", "folder"), ("fsync", "folder")]


PUT_AND_HANG = """
import asyncio, sys
from service.artifacts.storage import Storage
from tests.artifacts.s3 import CREDENTIALS

async def slow():
    yield b"x" * 600_000
    print("half", flush=True)
    await asyncio.sleep(60)
    yield b"y"

asyncio.run(Storage.open(sys.argv[1]).put(slow(), 10**6))
"""


def test_a_process_killed_half_way_leaves_no_blob_and_its_part_is_cleared_away(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PUT_AND_HANG, tmp_path.as_uri()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    (part,) = tmp_path.rglob("*.part")
    assert files(tmp_path) == [part.name]
    Storage.open(tmp_path.as_uri())
    assert part.exists(), "it may still be written by somebody"
    hours_ago = time.time() - 2 * 3600
    os.utime(part, (hours_ago, hours_ago))
    Storage.open(tmp_path.as_uri())
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "url", ["", "/data", "file://", "file:///", "file://host/x", "s3://", "gs:///x", "ftp://x/", "memory:///"]
)
def test_only_a_folder_or_a_bucket_is_a_store(url: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        Storage.open(url)


def test_a_bucket_is_opened_without_asking_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    Storage.open("s3://bucket/folder")


def test_what_killed_processes_left_beside_a_bucket_is_cleared_away_and_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    left, new, others = (tmp_path / name for name in ("roundtrip-1.part", "roundtrip-2.part", "theirs.part"))
    for part in (left, new, others):
        part.touch()
    hours_ago = time.time() - 2 * 3600
    for part in (left, others):
        os.utime(part, (hours_ago, hours_ago))
    Storage.open("s3://bucket/folder")
    assert files(tmp_path) == sorted([new.name, others.name])
