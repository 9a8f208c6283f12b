"""Results that are not told yet, on this machine's disk: what was computed once survives whatever happens to us."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
import structlog

from service.gpu.queues import Ticket
from service.gpu.runtimes.base import ProducedFile

log = structlog.get_logger()

MANIFEST = "manifest.json"


class KeptFile(msgspec.Struct):
    name: str
    content_type: str


class Result(msgspec.Struct):
    """An end to be told: a file of its output has a mark for its address, until it has one. `lines` were said last."""

    ticket: Ticket
    run: int
    status: int
    payload: Any
    error: str | None = None
    files: list[KeptFile] = []
    mark: str = ""
    lines: list[str] = []
    done: int | None = None
    of: int | None = None


class Entry:
    """One result on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.result = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Result)

    def content(self, index: int) -> bytes:
        return (self.folder / str(index)).read_bytes()

    def payload(self, urls: list[str]) -> Any:
        """With the addresses of its files."""
        return _with_urls(self.result.payload, {f"{self.result.mark}{n}": url for n, url in enumerate(urls)})

    def keep(self) -> None:
        """The result as it is now."""
        draft = self.folder / f"{MANIFEST}.new"
        _write(draft, msgspec.json.encode(self.result))
        draft.replace(self.folder / MANIFEST)

    def remove(self) -> None:
        # Under another name first, so that half a removal leaves no half entry.
        gone = self.folder.with_name(f".gone-{self.folder.name}-{secrets.token_hex(4)}")
        try:
            self.folder.rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)


class Outbox:
    """A folder that one process holds at a time: the first that is free of those for a model on a device."""

    def __init__(self, place: Path, name: str) -> None:
        self.folder, self._lock = _hold(place, name)
        for left in self.folder.glob(".*-*"):
            shutil.rmtree(left, ignore_errors=True)

    def put(self, result: Result, files: list[ProducedFile] | None = None) -> None:
        """Durable when it returns. What was put before for the same attempt stays."""
        target = self.folder / result.ticket.request_id
        draft = self.folder / f".draft-{secrets.token_hex(8)}"
        draft.mkdir()
        for index, file in enumerate(files or []):
            _write(draft / str(index), file.content)
        _write(draft / MANIFEST, msgspec.json.encode(result))
        _sync(draft)
        try:
            draft.rename(target)
        except OSError:
            shutil.rmtree(draft)
            if not self.holds(target.name):
                raise
        _sync(self.folder)

    def holds(self, request_id: str) -> bool:
        return (self.folder / request_id / MANIFEST).exists()

    def entries(self) -> Iterator[Entry]:
        """Those that can be read; another is set aside, so that it does not hold up the rest."""
        for folder in sorted(self.folder.iterdir()):
            if folder.name.startswith(".") or not (folder / MANIFEST).exists():
                continue
            try:
                entry = Entry(folder)
            except msgspec.MsgspecError as error:
                log.error("a result on disk cannot be read; it is set aside", folder=str(folder), error=str(error))
                self.set_aside(folder)
            else:
                yield entry

    def set_aside(self, folder: Path) -> None:
        """Keep it for an operator to look at; its job is run again."""
        aside = self.folder.parent / "set-aside"
        aside.mkdir(mode=0o700, exist_ok=True)
        folder.rename(aside / f"{folder.name}-{secrets.token_hex(4)}")

    def replace(self, result: Result) -> None:
        """Tell this instead of what was put for the same attempt."""
        Entry(self.folder / result.ticket.request_id).remove()
        self.put(result)

    def close(self) -> None:
        self._lock.close()


def taken_apart(output: Any) -> tuple[Any, list[ProducedFile], str]:
    """An output with marks instead of its files; the files; and what the marks begin with."""
    files: list[ProducedFile] = []
    mark = f"file:{secrets.token_hex(16)}/"

    def walk(value: Any) -> Any:
        if isinstance(value, ProducedFile):
            files.append(value)
            return {
                "url": f"{mark}{len(files) - 1}",
                "content_type": value.content_type,
                "file_name": value.file_name,
                "file_size": len(value.content),
                "width": value.width,
                "height": value.height,
            }
        if isinstance(value, dict):
            return {key: walk(each) for key, each in value.items()}
        return [walk(each) for each in value] if isinstance(value, (list, tuple)) else value

    return walk(output), files, mark


def _with_urls(value: Any, urls: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _with_urls(each, urls) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_urls(each, urls) for each in value]
    return urls.get(value, value) if isinstance(value, str) else value


def _hold(place: Path, name: str) -> tuple[Path, IO[str]]:
    for number in range(1_000):
        folder = place / f"{name}-{number}"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (place / f"{name}-{number}.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return folder, lock
    raise OSError(f"no folder for results is free in {place}")


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
