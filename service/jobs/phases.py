"""Where a job's time went, of one that has ended and of one that goes on."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from service.jobs.filters import PHASES


class Told(Protocol):
    """A row of `reads`, or a dictionary in its place."""

    def __getitem__(self, name: str, /) -> Any: ...


def phases_of(row: Told) -> Mapping[str, float | None]:
    """Seconds by phase; None: not over yet, or nobody knows."""
    phases = {name: row[name] for name in PHASES}
    if row["completed_at"] is None:
        # Only of a job that has ended are they in the record.
        phases["queued_seconds"] = _between(row["created_at"], row["claimed_at"])
        phases["submit_seconds"] = _between(row["claimed_at"], row["answered_at"])
    return phases


def submitted_at(row: Told) -> datetime | None:
    """When the provider had the job. An answer that came after the end says only that it had it before."""
    if row["provider_request_id"] is None:
        return None
    claimed, answered, ended = row["claimed_at"], row["answered_at"], row["completed_at"]
    late = answered is None or (ended is not None and answered > ended)
    return claimed if late else answered  # type: ignore[no-any-return]


def _between(start: datetime | None, end: datetime | None) -> float | None:
    """Seconds, never below zero."""
    if start is None or end is None:
        return None
    return max(0.0, (end - start).total_seconds())
