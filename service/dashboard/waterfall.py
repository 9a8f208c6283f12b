"""Where a job's time went, as bars on one line of time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from service.db import Row
from service.jobs.phases import phases_of

# The figure of each phase, what people call it, and the class of its colour.
PHASES = (
    ("queued_seconds", "Waits here", "wait"),
    ("submit_seconds", "Is submitted", "submit"),
    ("provider_queue_seconds", "Waits at the provider", "wait"),
    ("run_seconds", "Runs", "run"),
    ("provider_seconds", "Is with the provider", "run"),
    ("webhook_seconds", "End heard, is recorded", "submit"),
    ("copy_seconds", "Files are copied", "after"),
    ("callback_seconds", "Client is told", "after"),
)
WHOLE = 1_000.0


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


# What a bar is made of: its seconds, and where it stands, in seconds.
_Place = tuple[str, str, str, float | None, float, float, bool]


def waterfall(row: Row, now: datetime) -> Waterfall:
    phases = phases_of(row)
    offset, places = 0.0, list[_Place]()
    split = phases["provider_queue_seconds"] is not None and phases["run_seconds"] is not None
    left_out = {"provider_seconds"} if split else {"provider_queue_seconds", "run_seconds"}
    ended = row["completed_at"] is not None
    so_far = max(0.0, (now - row["created_at"]).total_seconds())
    total = phases["total_seconds"] if ended and phases["total_seconds"] is not None else so_far
    for name, words, kind in PHASES:
        if name in left_out:
            continue
        taken = phases[name]
        if name in {"copy_seconds", "callback_seconds"}:
            if taken is not None:
                places.append((name, words, kind, taken, total, taken, False))
            continue
        goes_on = not ended and taken is None
        if goes_on:
            places.append((name, words, kind, None, offset, max(0.0, so_far - offset), True))
            break
        places.append((name, words, kind, taken, offset, taken or 0.0, False))
        offset += taken or 0.0
    longest = max([total, *(start + length for *_, start, length, _ in places)], default=0.0) or 1.0
    bars = [
        Bar(name, words, kind, taken, WHOLE * start / longest, max(3.0, WHOLE * length / longest), goes_on)
        for name, words, kind, taken, start, length, goes_on in places
    ]
    own = json.loads(row["model_timings"]) if row["model_timings"] else {}
    told = [(str(name), float(value)) for name, value in own.items() if isinstance(value, int | float)]
    return Waterfall(bars, total, WHOLE * total / longest if ended and longest > total else None, told)
