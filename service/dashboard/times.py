"""The times that the figures of a page may be about, each with what its charts are drawn by."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.stats.questions import TIMES
from service.stats.spans import Grain, after, floor

FIELD = "range"


@dataclass(frozen=True, slots=True)
class Range:
    """`words` follow "in"; `grain` is hour, day or month, and `coarser` what is drawn where that is too much.

    Percentiles are put together from far more figures than counts, and so by `coarser` steps.
    """

    name: str
    words: str
    length: timedelta
    grain: str
    coarser: str

    def start(self, now: datetime) -> datetime:
        """At a full hour, day or month, so that the one that goes on is the last."""
        step = {"hour": timedelta(hours=1), "day": timedelta(days=1), "month": timedelta(days=28)}[self.grain]
        return floor(now - self.length + step, TIMES[self.grain])


RANGES = {
    each.name: each
    for each in (
        Range("24h", "the last 24 hours", timedelta(hours=24), "hour", "hour"),
        Range("7d", "the last 7 days", timedelta(days=7), "hour", "day"),
        Range("30d", "the last 30 days", timedelta(days=30), "day", "day"),
        Range("90d", "the last 90 days", timedelta(days=90), "day", "day"),
        Range("12m", "the last 12 months", timedelta(days=365), "month", "month"),
    )
}
DEFAULT = "24h"


def chosen(name: str | None) -> Range:
    """The default one for a name that is not known."""
    return RANGES.get(name or DEFAULT, RANGES[DEFAULT])


def starts(first: datetime, now: datetime, grain: str) -> Iterator[datetime]:
    """The beginnings of all grains from that of the first on, up to now."""
    size: Grain = TIMES[grain]
    start = floor(first, size)
    while start <= now:
        yield start
        start = after(start, size)


def label(start: datetime, grain: str) -> str:
    if grain == "hour":
        return f"{start:%H:%M}" if start.hour else f"{start.day} {start:%b}"
    return f"{start.day} {start:%b}" if grain == "day" else f"{start:%b %Y}"


def full_label(start: datetime, grain: str) -> str:
    if grain == "hour":
        return f"{start.day} {start:%b}, {start:%H:%M}"
    return f"{start.day} {start:%b %Y}" if grain == "day" else f"{start:%B %Y}"
