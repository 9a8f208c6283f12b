"""A time put together from whole months, days and hours, so that a year costs little more than a day. All in UTC."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum

# Before and after all jobs.
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)


class Grain(IntEnum):
    """As `tallies` has it."""

    HOUR = 0
    DAY = 1
    MONTH = 2


@dataclass(frozen=True, slots=True)
class Span:
    """From a moment up to another one, not included; of whole grains, or of single jobs where `grain` is None."""

    start: datetime
    end: datetime
    grain: Grain | None


def bounded(moment: datetime) -> datetime:
    """The moment of these times that is nearest: one can count on from it in both directions."""
    return min(max(moment, EARLIEST), LATEST)


def floor(moment: datetime, grain: Grain) -> datetime:
    """The beginning of the grain that a moment is in."""
    moment = moment.replace(minute=0, second=0, microsecond=0)
    if grain >= Grain.DAY:
        moment = moment.replace(hour=0)
    return moment.replace(day=1) if grain == Grain.MONTH else moment


def ceiling(moment: datetime, grain: Grain) -> datetime:
    """The next beginning of a grain that is not before a moment."""
    start = floor(moment, grain)
    return start if start == moment else after(start, grain)


def after(start: datetime, grain: Grain) -> datetime:
    """The beginning of the next grain."""
    longer = {Grain.HOUR: timedelta(hours=1), Grain.DAY: timedelta(days=1), Grain.MONTH: timedelta(days=31)}
    return floor(start + longer[grain], grain)


def spans(start: datetime | None, end: datetime | None, coarsest: Grain) -> list[Span]:
    """The coarsest spans that make up a time, each moment of it in one of them. None is no end."""
    start, end = bounded(start or EARLIEST), bounded(end or LATEST)
    return list(_cover(start, end, None, coarsest)) if start < end else []


def _cover(start: datetime, end: datetime, grain: Grain | None, coarsest: Grain) -> Iterator[Span]:
    coarser = Grain.HOUR if grain is None else Grain(grain + 1) if grain < coarsest else None
    if coarser is not None and (first := ceiling(start, coarser)) < (last := floor(end, coarser)):
        if start < first:
            yield Span(start, first, grain)
        yield from _cover(first, last, coarser, coarsest)
        if last < end:
            yield Span(last, end, grain)
    else:
        yield Span(start, end, grain)
