"""Where a job's time went, as bars on one line of time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from service.db import Row
from service.jobs.lifecycle import AttemptState
from service.jobs.phases import phases_of
from service.jobs.routing import GPU

# What people call each phase, and the class of its colour; most are named by their figure.
PHASES = {
    "queued_seconds": ("Waits here", "wait"),
    "submit_seconds": ("Is submitted", "submit"),
    "again": ("Waits here again", "wait"),
    "doubt": ("The answer was lost", "wait"),
    "provider_queue_seconds": ("Waits at the provider", "wait"),
    "run_seconds": ("Runs", "run"),
    "provider_seconds": ("Is with the provider", "run"),
    "webhook_seconds": ("End heard, is recorded", "submit"),
    "copy_seconds": ("Files are copied", "after"),
    "callback_seconds": ("Client is told", "after"),
}
OF_GPU = {"provider_queue_seconds": "Waits for a GPU worker", "provider_seconds": "Is with GPU workers"}
WHOLE = 1_000.0

TURNED_AWAY = {AttemptState.REFUSED, AttemptState.BLOCKED}
# After an attempt in one of these, a job that has not ended is submitted again.
BACK = TURNED_AWAY | {AttemptState.ABANDONED, AttemptState.SUPERSEDED}


@dataclass(frozen=True, slots=True)
class Bar:
    """`start` and `width` are parts of `WHOLE`; None for `seconds`: nobody knows. `open`: it goes on."""

    name: str
    words: str
    kind: str
    seconds: float | None
    start: float
    width: float
    open: bool


@dataclass(frozen=True, slots=True)
class Waterfall:
    bars: Sequence[Bar]
    total: float
    # Where the end is recorded; what follows is no part of the total.
    end: float | None
    model: Sequence[tuple[str, float]]


# A phase, when it began and how long it took, in seconds; None: it goes on, or nobody knows.
_Step = tuple[str, float, float | None]


def waterfall(row: Row, now: datetime, *, waits: bool = False) -> Waterfall:
    """`waits`: for a GPU worker, though one had begun it before."""
    phases = phases_of(row)
    ended = row["completed_at"] is not None
    so_far = max(0.0, (now - row["created_at"]).total_seconds())
    total = phases["total_seconds"] if ended and phases["total_seconds"] is not None else so_far
    steps, offset = list[_Step](), 0.0
    for name, seconds in _over(row, phases, total) if ended else _done(row, phases, waits):
        steps.append((name, offset, seconds))
        offset += seconds or 0.0
    after = [(name, total, phases[name]) for name in ("copy_seconds", "callback_seconds") if phases[name] is not None]
    going_on = [] if ended else [(_now(row, waits), offset, None)]
    steps += going_on + after
    longest = max([total, *(start + (seconds or 0.0) for _, start, seconds in steps)]) or 1.0
    bars = []
    for name, start, seconds in steps:
        words, kind = PHASES[name]
        words = OF_GPU.get(name, words) if row["provider"] == GPU else words
        is_open = (name, start, seconds) in going_on
        length = max(0.0, so_far - start) if is_open else seconds or 0.0
        width = max(3.0, WHOLE * length / longest)
        bars.append(Bar(name, words, kind, seconds, WHOLE * start / longest, width, is_open))
    own = json.loads(row["model_timings"]) if row["model_timings"] else {}
    told = [(str(name), float(value)) for name, value in own.items() if isinstance(value, int | float)]
    return Waterfall(bars, total, WHOLE * total / longest if ended and longest > total else None, told)


def _over(row: Row, phases: Mapping[str, float | None], total: float) -> Iterator[tuple[str, float | None]]:
    """What a job that has ended went through."""
    state = row["attempt_state"]
    if state is None:
        yield "queued_seconds", total
        return
    yield "queued_seconds", phases["queued_seconds"]
    yield "submit_seconds", phases["submit_seconds"]
    if state in TURNED_AWAY:
        # The record counts the time from any answer on for the provider's.
        yield "again", phases["provider_seconds"]
        return
    if row["provider_request_id"] is not None or state == AttemptState.COMPLETED:
        if phases["provider_queue_seconds"] is not None and phases["run_seconds"] is not None:
            yield "provider_queue_seconds", phases["provider_queue_seconds"]
            yield "run_seconds", phases["run_seconds"]
        elif row["provider"] == GPU and row["started_at"] is None:
            # No worker ever began it.
            yield "provider_queue_seconds", phases["provider_seconds"]
        else:
            yield "provider_seconds", phases["provider_seconds"]
    elif state == AttemptState.SUPERSEDED and row["answered_at"] is not None:
        yield "doubt", phases["provider_seconds"]
    yield "webhook_seconds", phases["webhook_seconds"]


def _done(row: Row, phases: Mapping[str, float | None], waits: bool) -> Iterator[tuple[str, float | None]]:
    """What of a job that goes on is over."""
    if row["claimed_at"] is not None:
        yield "queued_seconds", phases["queued_seconds"]
        if row["attempt_state"] != AttemptState.SUBMITTING:
            yield "submit_seconds", phases["submit_seconds"]
        if _now(row, waits) == "run_seconds":
            begun = row["answered_at"] or row["claimed_at"]
            yield "provider_queue_seconds", max(0.0, (row["started_at"] - begun).total_seconds())


def _now(row: Row, waits: bool) -> str:
    """What a job that goes on is in."""
    state = row["attempt_state"]
    if row["claimed_at"] is None:
        return "queued_seconds"
    if state == AttemptState.SUBMITTING:
        return "submit_seconds"
    if state in BACK:
        return "again"
    if state == AttemptState.AMBIGUOUS:
        return "doubt"
    if row["started_at"] is not None and not waits:
        return "run_seconds"
    return "provider_queue_seconds" if row["provider"] == GPU else "provider_seconds"
