"""What may be asked of the figures, read from a query string."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from service.errors import Invalid
from service.jobs.filters import JobFilter, read_filter
from service.stats.measures import TOTAL, is_measure
from service.stats.spans import Grain, bounded, floor

GROUPS = ("model", "provider", "status", "error_type")
TIMES = {"hour": Grain.HOUR, "day": Grain.DAY, "month": Grain.MONTH}
# In hundredths.
PERCENTILES = {"p50": 50, "p75": 75, "p90": 90, "p95": 95, "p99": 99}
MEASURES = ("count", "failure_rate", "mean", *PERCENTILES, "tokens", "cost")
# How many jobs the cost is of, where that is asked for; it comes with it, and is no measure of the API.
COSTED = "costed"
DEFAULT_MEASURES = ("count", "failure_rate", "p50", "p95", "p99")

# By hour or day: the time that is taken when none is asked for, and the longest.
DEFAULT_TIMES = {"hour": timedelta(hours=24), "day": timedelta(days=30)}
LONGEST_TIMES = {"hour": timedelta(days=14), "day": timedelta(days=366)}


@dataclass(frozen=True)
class Question:
    """`of` is the measure that mean and percentiles are of. The time that is asked about stands in `wanted`."""

    group_by: Sequence[str]
    measures: Sequence[str]
    of: str
    wanted: JobFilter

    @property
    def time(self) -> str | None:
        """What of the time is grouped by."""
        return next((name for name in self.group_by if name in TIMES), None)

    @property
    def is_kept(self) -> bool:
        """Whether the tallies can answer it: nothing is asked that they do not know of a job."""
        wanted = self.wanted
        unknown = (wanted.tags, wanted.metadata, wanted.mask_area, wanted.measures, wanted.text)
        if any(unknown) or wanted.mask_label is not None:
            return False
        # Error types are told apart in the time that jobs took, and in nothing else.
        return not self.by_error or (self.of == TOTAL and not {"tokens", "cost"} & set(self.measures))

    @property
    def by_error(self) -> bool:
        return "error_type" in self.group_by or bool(self.wanted.error_types)


def read_question(query: Sequence[tuple[str, str]], now: datetime) -> Question:
    """Raises Invalid."""
    own: dict[str, list[str]] = {"group_by": [], "measure": [], "of": []}
    filters = []
    for name, value in query:
        if name in own:
            own[name].extend(part for part in value.split(",") if part)
        elif name in {"limit", "cursor"}:
            raise Invalid.at("query", name, msg="There are no pages here.", kind="extra_forbidden")
        else:
            filters.append((name, value))
    wanted = read_filter(filters)
    group_by = _known("group_by", own["group_by"], (*GROUPS, *TIMES))
    measures = _known("measure", own["measure"], MEASURES) or list(DEFAULT_MEASURES)
    if len([name for name in group_by if name in TIMES]) > 1:
        raise Invalid.at("query", "group_by", msg=f"Only one of {', '.join(TIMES)}.")
    of = own["of"] or [TOTAL]
    if len(of) > 1 or not is_measure(of[0]) or "\0" in of[0]:
        words = "Must be a phase such as total_seconds, cost, usage.NAME or timings.model.NAME."
        raise Invalid.at("query", "of", msg=words, kind="enum")
    question = Question(group_by, measures, of[0], wanted)
    return replace(question, wanted=_timed(wanted, question.time, now))


def _known(name: str, words: Sequence[str], known: Sequence[str]) -> list[str]:
    if unknown := [word for word in words if word not in known]:
        words_known = ", ".join(known)
        raise Invalid.at("query", name, msg=f"{unknown[0][:100]!r} is none of {words_known}.", kind="enum")
    return list(dict.fromkeys(words))


def _timed(wanted: JobFilter, time: str | None, now: datetime) -> JobFilter:
    """With the time that is meant where none is asked for. By month, or not by time at all, that is all there was."""
    if time not in DEFAULT_TIMES:
        return wanted
    end = bounded(wanted.created_before or now)
    start = wanted.created_after
    if start is None:
        start = floor(end, TIMES[time]) - DEFAULT_TIMES[time]
    if end - bounded(start) > LONGEST_TIMES[time]:
        longest = LONGEST_TIMES[time].days
        coarser = {"hour": "day", "day": "month"}[time]
        words = f"By {time} at most {longest} days can be asked for: bring created_after and created_before closer"
        raise Invalid.at("query", "group_by", msg=f"{words} together, or group by {coarser}.", kind="too_costly")
    return replace(wanted, created_after=start.astimezone(UTC))
