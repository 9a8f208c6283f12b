"""Jobs as rows of a flat table, for spreadsheets and column stores."""

import csv
import io
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from service.api.shapes import JobSummary
from service.errors import Invalid
from service.jobs.filters import PHASES
from service.jsontext import encode

# What a spreadsheet takes for the beginning of a formula, or skips before one.
FORMULAS = ("=", "+", "-", "@", "\t", "\r")

# Rows that are kept in memory for a row group of Parquet.
ROW_GROUP = 5_000

Cell = str | int | float | datetime | None

# Text of a job that is not under its own name.
_TEXTS: dict[str, Callable[[JobSummary], str | None]] = {
    "error_type": lambda job: job.error.type if job.error else None,
    "error_message": lambda job: job.error.message if job.error else None,
    "tags": lambda job: encode(job.tags).decode(),
    "metadata": lambda job: encode(job.metadata).decode(),
    "usage": lambda job: encode(job.usage).decode(),
    "model_timings": lambda job: encode(job.timings.model).decode(),
}
_NUMBERS: dict[str, Callable[[JobSummary], int | None]] = {
    "error_status": lambda job: job.error.status if job.error else None,
    "masks": lambda job: len(job.masks),
    "images": lambda job: len(job.images),
}
IDENTITY = ("request_id", "model", "status", "provider")
TEXTS = ("provider_request_id", "priority", "webhook_url", "retry_of", "retried_as", "cost")
NUMBERS = ("attempt", "resubmissions", "queue_position")
MOMENTS = ("created_at", "submitted_at", "started_at", "completed_at", "deadline_at", "cancel_requested_at")

# The columns in order, by what they hold. A seed may be larger than any integer that others know.
KINDS = (
    dict.fromkeys(IDENTITY, "text")
    | dict.fromkeys(MOMENTS, "moment")
    | dict.fromkeys((*TEXTS, *_TEXTS, "seed"), "text")
    | dict.fromkeys((*NUMBERS, *_NUMBERS), "int")
    | dict.fromkeys(("billable_units", *PHASES), "float")
)


def cells(job: JobSummary) -> list[Cell]:
    """In the order of KINDS."""
    return [_cell(job, name) for name in KINDS]


def _cell(job: JobSummary, name: str) -> Cell:
    if (get := _TEXTS.get(name) or _NUMBERS.get(name)) is not None:
        return get(job)
    if name == "seed":
        return None if job.seed is None else str(job.seed)
    value: Cell = getattr(job.timings if name in PHASES else job, name)
    return value


def csv_heading() -> bytes:
    return _csv([list(KINDS)])


def csv_rows(jobs: Sequence[JobSummary]) -> bytes:
    """Text that a spreadsheet would take for a formula begins with an apostrophe."""
    return _csv([[_harmless(cell) for cell in cells(job)] for job in jobs])


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _harmless(cell: Cell) -> Cell:
    if isinstance(cell, datetime):
        return cell.isoformat().replace("+00:00", "Z")
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULAS) else cell


class Parquet:
    """A Parquet file in pieces, a row group at a time. Raises Invalid where pyarrow is not installed."""

    def __init__(self) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError:
            words = "Parquet needs the extra `parquet` on the server; ask for csv or ndjson."
            raise Invalid.at("query", "format", msg=words, kind="not_installed") from None
        kinds = {
            "text": pyarrow.string(),
            "moment": pyarrow.timestamp("us", tz="UTC"),
            "int": pyarrow.int64(),
            "float": pyarrow.float64(),
        }
        self._schema = pyarrow.schema([(name, kinds[kind]) for name, kind in KINDS.items()])
        self._outlet = _Outlet()
        self._writer = pyarrow.parquet.ParquetWriter(self._outlet, self._schema, compression="zstd")
        self._table = pyarrow.Table.from_arrays
        self._array = pyarrow.array
        self._rows: list[list[Cell]] = []

    def add(self, jobs: Sequence[JobSummary]) -> bytes:
        """What of the file is ready by these."""
        self._rows.extend(cells(job) for job in jobs)
        if len(self._rows) >= ROW_GROUP:
            self._write()
        return self._outlet.taken()

    def end(self) -> bytes:
        """The rest of the file."""
        if self._rows:
            self._write()
        self._writer.close()
        return self._outlet.taken()

    def _write(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [self._array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._writer.write_table(self._table(arrays, schema=self._schema))
        self._rows = []


class _Outlet(io.RawIOBase):
    """Holds what was written until it is taken."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._pieces.append(bytes(piece))
        self._written += len(self._pieces[-1])
        return len(self._pieces[-1])

    def tell(self) -> int:
        return self._written

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
