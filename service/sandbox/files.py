"""The files that results point to: bytes in memory, each with a time after which it is gone."""

import secrets
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Any

PREFIX = "/files/"


@dataclass(frozen=True, slots=True)
class StoredFile:
    data: bytes
    content_type: str
    expires: float


class Files:
    """Written by the model threads, read by the event loop; the oldest make room for the newest."""

    def __init__(self, public_url: str, *, keep_seconds: float, max_bytes: int) -> None:
        self._base = f"{public_url}{PREFIX}"
        self._keep_seconds = keep_seconds
        self._max_bytes = max_bytes
        self._files: dict[str, StoredFile] = {}
        self._bytes = 0
        self._lock = Lock()

    def put(self, data: bytes, name: str, content_type: str, keep_seconds: float | None = None) -> dict[str, Any]:
        """Store a file and return what a fal File object says of it."""
        path = f"b/sandbox/{secrets.token_urlsafe(16)}_{name}"
        expires = monotonic() + (self._keep_seconds if keep_seconds is None else keep_seconds)
        with self._lock:
            self._files[path] = StoredFile(data, content_type, expires)
            self._bytes += len(data)
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._files)))
        return {
            "url": f"{self._base}{path}",
            "content_type": content_type,
            "file_name": name,
            "file_size": len(data),
        }

    def get(self, path: str) -> StoredFile | None:
        file = self._files.get(path)
        return file if file is not None and monotonic() < file.expires else None

    def forget(self) -> None:
        now = monotonic()
        with self._lock:
            for path in [path for path, file in self._files.items() if file.expires <= now]:
                self._drop(path)

    def _drop(self, path: str) -> None:
        self._bytes -= len(self._files.pop(path).data)
