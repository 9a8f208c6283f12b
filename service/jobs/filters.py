"""What may be asked of a list of jobs, read from a query string."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite, nan

from service.errors import Invalid
from service.jobs.cursors import Cursor, read_cursor
from service.jobs.lifecycle import Status
from service.models import outcomes

LARGEST_PAGE = 200
DEFAULT_PAGE = 50

# Tags, keys of metadata and figures that one question may name. A job has at most so many tags, and as many keys.
MOST_NAMED = 64

# PostgreSQL compiles what is searched for, in a time that grows with the square of its length.
LONGEST_TEXT = 1_000

# As JSON and SQL write numbers; Python reads more than these.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
LONGEST_NUMBER = 64

# In seconds, as columns of `outcomes` and as a job's `timings` have them.
PHASES = tuple(column.name for column in outcomes.c if column.name.endswith("_seconds"))

# What a job is measured by under names of the model's own, as they stand in a job.
USAGE = "usage."
MODEL_TIMINGS = "timings.model."


@dataclass(frozen=True)
class Bounds:
    """One end, or two. Both are inside; None is no end."""

    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class JobFilter:
    """Every condition must hold; several values of one must hold one of them (tags: all).

    `measures` are by a phase's name, `cost`, `usage.NAME` or `timings.model.NAME`. `mask_label` (whole, in any case)
    and `mask_area` (a fraction, 0 to 1) are of one and the same mask.
    """

    statuses: Sequence[Status] = ()
    models: Sequence[str] = ()
    providers: Sequence[str] = ()
    error_types: Sequence[str] = ()
    tags: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_after: datetime | None = None
    created_before: datetime | None = None
    mask_label: str | None = None
    mask_area: Bounds | None = None
    measures: Mapping[str, Bounds] = field(default_factory=dict)
    text: str | None = None
    limit: int = DEFAULT_PAGE
    cursor: Cursor | None = None

    @property
    def asks_what_is_in_jobs(self) -> bool:
        """Whoever sees which jobs are found by this learns what their clients wrote or what came back."""
        asked = (self.text, self.mask_label, self.mask_area)
        return bool(self.tags or self.metadata) or any(each is not None for each in asked)


def read_filter(query: Sequence[tuple[str, str]]) -> JobFilter:
    """A query string as a filter. Raises Invalid, for a name that is not known too."""
    lists: dict[str, list[str]] = {"status": [], "model": [], "provider": [], "error_type": [], "tag": []}
    single: dict[str, str] = {}
    metadata: dict[str, str] = {}
    bounds: dict[str, Bounds] = {}
    for name, value in query:
        if "\0" in name or "\0" in value:
            raise Invalid.at("query", name.replace("\0", ""), msg="Text may not hold a NUL character.")
        if name == "tag":
            lists[name].append(value)  # A tag may hold a comma.
        elif name in lists:
            lists[name].extend(part for part in value.split(",") if part)
        elif name.startswith("metadata.") and len(name) > len("metadata."):
            metadata[name.removeprefix("metadata.")] = value
        elif name in {"created_after", "created_before", "mask_label", "q", "limit", "cursor"}:
            single[name] = value
        elif (measure := name[:-4]) and name.endswith(("_min", "_max")) and _is_measure(measure):
            bounds[measure] = _bounded(bounds.get(measure, Bounds()), name, value)
        else:
            raise Invalid.at("query", name, msg="There is no such filter.", kind="extra_forbidden")
    if len(lists["tag"]) + len(metadata) + len(bounds) > MOST_NAMED:
        words = f"At most {MOST_NAMED} tags, keys of metadata and figures can be asked for at once."
        raise Invalid([{"loc": ["query"], "msg": words, "type": "too_costly"}])
    return JobFilter(
        statuses=[_status(word) for word in lists["status"]],
        models=lists["model"],
        providers=lists["provider"],
        error_types=lists["error_type"],
        tags=lists["tag"],
        metadata=metadata,
        created_after=_moment("created_after", single.get("created_after")),
        created_before=_moment("created_before", single.get("created_before")),
        mask_label=single.get("mask_label"),
        mask_area=bounds.pop("mask_area", None),
        measures=bounds,
        text=_text(single.get("q")),
        limit=_limit(single.get("limit")),
        cursor=read_cursor(single["cursor"]) if single.get("cursor") else None,
    )


def _is_measure(name: str) -> bool:
    if name in PHASES or name in {"cost", "mask_area"}:
        return True
    return any(name.startswith(prefix) and name != prefix for prefix in (USAGE, MODEL_TIMINGS))


def _bounded(bounds: Bounds, name: str, word: str) -> Bounds:
    number = float(word) if len(word) <= LONGEST_NUMBER and _NUMBER.fullmatch(word) else nan
    if not isfinite(number):
        raise Invalid.at("query", name, msg="Must be a number.", kind="float_parsing")
    if name.startswith("mask_area") and not 0 <= number <= 1:
        raise Invalid.at("query", name, msg="Must be a fraction, 0 to 1.", kind="value_error")
    return Bounds(number, bounds.high) if name.endswith("_min") else Bounds(bounds.low, number)


def _status(word: str) -> Status:
    try:
        return Status(word)
    except ValueError:
        known = ", ".join(status.value for status in Status)
        raise Invalid.at("query", "status", msg=f"Must be one of {known}.", kind="enum") from None


def _text(words: str | None) -> str | None:
    if words is not None and len(words) > LONGEST_TEXT:
        raise Invalid.at("query", "q", msg=f"May have at most {LONGEST_TEXT:,} characters.", kind="too_long")
    return words or None


def _limit(word: str | None) -> int:
    if word is None:
        return DEFAULT_PAGE
    if not (word.isascii() and word.isdecimal() and len(word) < 10 and 1 <= int(word) <= LARGEST_PAGE):
        raise Invalid.at("query", "limit", msg=f"Must be a whole number from 1 to {LARGEST_PAGE}.", kind="int_parsing")
    return int(word)


def _moment(name: str, word: str | None) -> datetime | None:
    if word is None:
        return None
    try:
        # A plus sign that was not percent-encoded arrives as a space.
        moment = datetime.fromisoformat(word.replace(" ", "+") if "T" in word else word)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Invalid.at("query", name, msg="Must be an ISO 8601 time.", kind="datetime_parsing") from None
