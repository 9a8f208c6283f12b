"""Blobs under the SHA-256 of what they hold, on a disk or in a bucket: written whole or not at all."""

import asyncio
import hashlib
import os
import re
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

if TYPE_CHECKING:
    from obstore import GetOptions

CHUNK_BYTES = 256 * 1024
ABANDONED_SECONDS = 3600
# Beside a bucket, files on their way are among those of others.
SPOOLED = "roundtrip-"
ABANDONED_PARTS_SECONDS = 2 * 86_400
CLOUDS = {"s3", "gs", "az", "abfss"}
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class TooLarge(Exception):
    """More bytes came than were allowed."""


class PartMissing(Exception):
    """A part of an upload is not there, or is not the one that is meant."""


@dataclass(frozen=True, slots=True)
class Stored:
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Spooled(Stored):
    """A whole file that is not in the store yet, at a path where it can be looked at."""

    path: Path


class Storage:
    """Reads go through obstore everywhere; it does not fsync, so on a disk the writing is done by hand."""

    def __init__(self, store: ObjectStore, spool: Path, root: Path | None = None) -> None:
        self._store = store
        self._spool = spool
        self._root = root

    @classmethod
    def open(cls, url: str) -> "Storage":
        parts = urlsplit(url)
        if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.strip("/"):
            root = Path(url2pathname(parts.path))
            spool = root / "spool"
            spool.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(spool.glob("*.part"), ABANDONED_SECONDS)
            _remove_abandoned(root.glob("parts/*/*"), ABANDONED_PARTS_SECONDS)
            return cls(LocalStore(root), spool, root)
        if parts.scheme in CLOUDS and parts.netloc:
            spool = Path(tempfile.gettempdir())
            _remove_abandoned(spool.glob(f"{SPOOLED}*.part"), ABANDONED_SECONDS)
            try:
                return cls(from_url(url), spool)
            except BaseError as error:  # It lacks an account or a key that the environment should have named.
                raise ValueError(str(error).splitlines()[0]) from None
        raise ValueError("must be a file:///, s3://, gs:// or az:// address")

    async def put(self, chunks: AsyncIterator[bytes], max_bytes: int) -> Stored:
        async with self.spool(chunks, max_bytes) as file:
            return await self.keep(file)

    @asynccontextmanager
    async def spool(self, chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[Spooled]:
        """Receive a file to look at; it is gone afterwards, unless it was kept."""
        digest, size = hashlib.sha256(), 0
        with _part(self._spool) as file:
            async with aclosing(_batches(chunks)) as batches:
                async for batch in batches:
                    size += len(batch)
                    if size > max_bytes:
                        raise TooLarge(f"more than {max_bytes:,} bytes")
                    digest.update(batch)
                    await asyncio.to_thread(file.write, batch)
            await asyncio.to_thread(file.flush)
            yield Spooled(digest.hexdigest(), size, Path(file.name))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A file for what is made of blobs; it is gone afterwards, for whoever has not opened it."""
        with _part(self._spool) as file:
            yield Path(file.name)

    @asynccontextmanager
    async def at_hand(self, sha256: str) -> AsyncIterator[Path]:
        """A blob where another process can read it; raises FileNotFoundError."""
        if self._root is not None:
            path = self._root / _key(sha256)
            await asyncio.to_thread(path.stat)
            yield path
            return
        blob = await self.read(sha256)
        with self.scratch() as path, path.open("wb") as file:
            async for chunk in blob:
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(file.flush)
            yield path

    async def keep(self, file: Spooled) -> Stored:
        if self._root is not None:
            await asyncio.to_thread(_publish, file.path, self._root, _key(file.sha256))
        elif not await self.exists(file.sha256):
            await obstore.put_async(self._store, _key(file.sha256), file.path, max_concurrency=2)
        return Stored(file.sha256, file.size)

    async def keep_part(self, upload: str, number: int, file: Spooled) -> None:
        """One part of a file that comes in several; parts that nobody joins are for the operator's broom."""
        await obstore.put_async(self._store, _part_key(upload, number), file.path)

    async def read_parts(self, upload: str, digests: Mapping[int, str]) -> AsyncGenerator[bytes]:
        """The parts one after another, each of which has to have its SHA-256. Raises PartMissing."""
        for number, expected in digests.items():
            digest = hashlib.sha256()
            try:
                part = await obstore.get_async(self._store, _part_key(upload, number))
                async for chunk in part.stream(min_chunk_size=CHUNK_BYTES):
                    digest.update(chunk)
                    yield bytes(chunk)
            except FileNotFoundError:
                raise PartMissing(number) from None
            if digest.hexdigest() != expected:
                raise PartMissing(number)

    async def sizes_of_parts(self, upload: str) -> dict[int, int]:
        """The parts that are there, with their sizes in bytes."""
        found = await obstore.list_with_delimiter_async(self._store, _part_key(upload, ""))
        return {int(name): each["size"] for each in found["objects"] if (name := each["path"].rpartition("/")[2])}

    async def drop_parts(self, upload: str, numbers: Iterable[int]) -> None:
        """Nothing is amiss if one is not there."""
        for number in numbers:
            with suppress(FileNotFoundError):
                await obstore.delete_async(self._store, _part_key(upload, number))

    async def delete(self, sha256: str) -> None:
        """Nothing is amiss if it is not there."""
        with suppress(FileNotFoundError):
            await obstore.delete_async(self._store, _key(sha256))

    async def exists(self, sha256: str) -> bool:
        try:
            await self.size(sha256)
        except FileNotFoundError:
            return False
        return True

    async def size(self, sha256: str) -> int:
        meta = await obstore.head_async(self._store, _key(sha256))
        return meta["size"]

    async def read(self, sha256: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Open a blob, or bytes start to end of it; raises FileNotFoundError before the first byte."""
        if end is not None and start >= end:
            await self.size(sha256)
            return _nothing()
        options: GetOptions = {}
        if end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        blob = await obstore.get_async(self._store, _key(sha256), options=options)
        return blob.stream(min_chunk_size=CHUNK_BYTES)


def _key(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise ValueError("not a SHA-256 in lower-case hex")
    return f"{sha256[:2]}/{sha256}"


def _part_key(upload: str, number: int | str) -> str:
    if not _NAME.fullmatch(upload):
        raise ValueError("not the name of an upload")
    return f"parts/{upload}/{number}"


@contextmanager
def _part(folder: Path) -> Iterator[IO[bytes]]:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=SPOOLED, suffix=".part", delete=False) as file:
        try:
            yield file
        finally:
            Path(file.name).unlink(missing_ok=True)


def _publish(part: Path, root: Path, key: str) -> None:
    """First the bytes reach the disk, then the name appears, then the folders that hold the name reach the disk."""
    blob = root / key
    blob.parent.mkdir(exist_ok=True)
    _fsync(part)
    part.replace(blob)
    _fsync(blob.parent)
    _fsync(root)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned(parts: Iterable[Path], seconds: float) -> None:
    """Delete what killed processes and clients left behind; no upload lasts as long as this."""
    for part in parts:
        try:
            if time.time() - part.stat().st_mtime > seconds:
                part.unlink()
        except (FileNotFoundError, PermissionError):
            continue  # Another process was quicker, or it is another account's.


async def _batches(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Join small chunks, so that each trip to a thread is worth it, and end the source with us."""
    try:
        waiting = bytearray()
        async for chunk in chunks:
            waiting += chunk
            if len(waiting) >= CHUNK_BYTES:
                yield bytes(waiting)
                waiting.clear()
        if waiting:
            yield bytes(waiting)
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield
