"""Everything that was seen from outside, in order, each also a JSON line of a file that outlives a failure."""

import json
import time
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class History:
    """Append only. `at` is of the monotonic clock, `clock` the time of day, which the database's rows bear too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: list[Json] = []
        self._file = (folder / "history.jsonl").open("a", buffering=1)

    def note(self, what: str, **facts: Any) -> Json:
        record = {"what": what, "at": time.monotonic(), "clock": time.time(), **facts}
        self.records.append(record)
        self._file.write(json.dumps(record, default=str) + "\n")
        return record

    def of(self, what: str) -> list[Json]:
        return [record for record in self.records if record["what"] == what]

    def close(self) -> None:
        self._file.close()


class Lines:
    """The lines of a JSON lines file that somebody else appends to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def new(self) -> list[Json]:
        """Those that were added since the last call, one that is not finished left for the next."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        return [json.loads(line) for line in whole.splitlines()]
