"""The provider's side of the truth: every accepted submit, every end and every webhook try, a JSON line each."""

import json
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from service.sandbox.queue import Delivery, Entry, utc_now


class Journal:
    """Appends to a file that outlives the sandbox's memory; without a path it keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        # Unbuffered: what was accepted stands in the file before anybody is told so.
        self._file: IO[bytes] | None = None if path is None else path.open("ab", buffering=0)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def accepted(self, entry: Entry) -> None:
        knobs = entry.knobs.model_dump(exclude_defaults=True)
        self._write("accepted", entry, model=entry.model, key=entry.knobs.key, url=entry.webhook_url, knobs=knobs)

    def finished(self, entry: Entry) -> None:
        assert entry.outcome is not None
        self._write("finished", entry, status=entry.outcome.status, digest=digest(entry.outcome.body))

    def tried(self, entry: Entry, delivery: Delivery) -> None:
        said = {"url": delivery.url, "status": delivery.status, "error": delivery.error}
        self._write("webhook", entry, kind=delivery.kind, **said)

    def _write(self, what: str, entry: Entry, **facts: Any) -> None:
        if self._file is not None and not self._file.closed:
            line = {"at": utc_now(), "what": what, "request_id": entry.id, **facts}
            self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")


def digest(body: Any) -> str:
    """SHA-256 of a result whose keys are sorted and whose JSON has no spaces: the same however it was sent."""
    return sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
