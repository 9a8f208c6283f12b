"""The first page: what is wrong now, the work in hand, and how it went over a chosen time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.dashboard import charts, figures, times
from service.dashboard.charts import Axis, Series
from service.dashboard.pages import Page, Part
from service.dashboard.refreshing import answered
from service.dashboard.scope import Scope, scope_of
from service.dashboard.times import RANGES, Range
from service.dashboard.troubles import LIMIT_SECONDS, found_troubles
from service.db import Database
from service.jobs.backlog import Backlog, backlog
from service.jobs.filters import JobFilter
from service.jobs.lifecycle import ENDED, Status
from service.stats.answers import Answer, TooMuch, answer
from service.stats.measures import TOTAL
from service.stats.questions import COSTED, Question

MEASURES = ("count", "failure_rate", "p50", "p95", "p99")
COARSER = {"hour": "day", "day": "month"}
COARSEST = "month"
MOST_HOURS = 48
KINDS = {Status.COMPLETED: "ok", Status.FAILED: "bad", Status.CANCELLED: "rest"}


async def show_home(request: Request) -> Response:
    context: Context = request.state.context
    scope = await scope_of(request)
    db, now = context.db, datetime.now(UTC)
    chosen = times.chosen(request.query_params.get(times.FIELD))
    parts = [
        Part("troubles", "home/troubles.html", partial(found_troubles, request, scope), seconds=LIMIT_SECONDS),
        Part("hand", "home/hand.html", partial(work_in_hand, db, scope, now)),
        Part("totals", "home/totals.html", partial(totals, db, scope, chosen, now)),
        Part("throughput", "home/chart.html", partial(throughput, db, scope, chosen, now)),
        Part("times", "home/charts.html", partial(durations, db, scope, chosen, now)),
        Part("models", "home/models.html", partial(by_model, db, scope, chosen, now)),
    ]
    facts = {"chosen": chosen, "ranges": list(RANGES.values())}
    return await answered(request, Page("home.html", "Home", "home", scope, parts, facts))


async def work_in_hand(db: Database, scope: Scope, now: datetime) -> Mapping[str, Any]:
    found: Backlog = await backlog(db, scope.tenant_id)
    since = found.oldest_since
    return {"hand": found, "oldest_seconds": max(0.0, (now - since).total_seconds()) if since else None}


def asked(group_by: Sequence[str], measures: Sequence[str], start: datetime, statuses: Sequence[Status]) -> Question:
    return Question(group_by, measures, TOTAL, JobFilter(created_after=start, statuses=statuses))


async def totals(db: Database, scope: Scope, chosen: Range, now: datetime) -> Mapping[str, Any]:
    found = await answer(db, scope.tenant_id, asked((), (*MEASURES, "cost", COSTED), chosen.start(now), ENDED))
    return {**found.groups[0].figures, "currency": found.currency, "chosen": chosen, "complete": found.complete}


@dataclass(frozen=True, slots=True)
class Steps:
    """Figures by step of the time, and how large the steps are."""

    grain: str
    starts: Sequence[datetime]
    answer: Answer

    @property
    def axis(self) -> Axis:
        # Of many hours the days are written.
        written = "day" if self.grain == "hour" and len(self.starts) > MOST_HOURS else self.grain
        short = [times.label(start, written) for start in self.starts]
        return Axis(short, [times.full_label(start, self.grain) for start in self.starts])

    def values(self, figure: str, **of: str) -> list[Any]:
        """One for each step; None where there is no such group."""
        found = {
            group.of[self.grain]: group.figures[figure]
            for group in self.answer.groups
            if all(group.of[name] == value for name, value in of.items())
        }
        return [found.get(start) for start in self.starts]


async def by_time(
    db: Database,
    scope: Scope,
    chosen: Range,
    now: datetime,
    grain: str,
    group_by: Sequence[str],
    measures: Sequence[str],
) -> Steps:
    """In larger steps where the wanted ones would be too many figures. Raises TooMuch."""
    start = chosen.start(now)
    while True:
        try:
            found = await answer(db, scope.tenant_id, asked((*group_by, grain), measures, start, ENDED))
        except TooMuch:
            if grain == COARSEST:
                raise
            grain = COARSER[grain]
        else:
            return Steps(grain, list(times.starts(start, now, grain)), found)


async def throughput(db: Database, scope: Scope, chosen: Range, now: datetime) -> Mapping[str, Any]:
    steps = await by_time(db, scope, chosen, now, chosen.grain, ["status"], ["count"])
    counts = {status: steps.values("count", status=status) for status in ENDED}
    series = [Series(status.value, KINDS[status], [value or 0 for value in counts[status]]) for status in ENDED]
    sums = {status: sum(value or 0 for value in counts[status]) for status in ENDED}
    summary = ", ".join(f"{figures.number(number)} {status}" for status, number in sums.items())
    return {
        "chart": charts.bars(
            f"Jobs that ended, by the {steps.grain} of their registration",
            steps.axis,
            series,
            figures.short,
            summary=f"In {chosen.words}: {summary}.",
        )
    }


async def durations(db: Database, scope: Scope, chosen: Range, now: datetime) -> Mapping[str, Any]:
    steps = await by_time(db, scope, chosen, now, chosen.coarser, [], ["failure_rate", "p50", "p95", "p99"])
    told = [Series(name, name, steps.values(name)) for name in ("p50", "p95", "p99")]
    rates = steps.values("failure_rate")
    last = next((value for value in reversed(told[1].values) if value is not None), None)
    highest = max((rate for rate in rates if rate is not None), default=None)
    return {
        "charts": [
            charts.lines(
                "From registration to end",
                steps.axis,
                told,
                figures.seconds,
                summary=f"The latest 95th percentile is {figures.seconds(last)}.",
                end=charts.nice_seconds,
            ),
            charts.lines(
                "Share that failed",
                steps.axis,
                [Series("failed", "bad", rates)],
                figures.percent,
                summary=f"The highest is {figures.percent(highest)}.",
                least=0.02,
            ),
        ]
    }


async def by_model(db: Database, scope: Scope, chosen: Range, now: datetime) -> Mapping[str, Any]:
    found = await answer(
        db, scope.tenant_id, asked(("model", "provider"), (*MEASURES, "cost", COSTED), chosen.start(now), ENDED)
    )
    rows = sorted(found.groups, key=lambda group: -_size(group.figures["count"]))
    longest = max((_size(row.figures["p99"]) for row in rows), default=0)
    return {"rows": rows, "longest": longest, "currency": found.currency, "chosen": chosen}


def _size(figure: Any) -> float:
    return float(figure or 0)
