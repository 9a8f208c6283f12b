"""Figures of twenty thousand random jobs are those that a look at each of them gives."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from service.context import Context
from service.db import Database
from service.stats import counting
from service.stats.answers import Answer, TooMuch, answer
from service.stats.measures import ACCURACY
from service.stats.questions import DEFAULT_MEASURES, MEASURES, PERCENTILES, Question, read_question
from service.stats.spans import Grain, floor
from tests.making import count, make_tenant
from tests.servers import delete_all_rows
from tests.stats import drawn
from tests.stats.drawn import BEGIN, END, Drawn

JOBS, WAITING = 20_000, 1_500
_HELD_BACK = "DELETE FROM uncounted WHERE job_id = ANY ($1::uuid[]) RETURNING job_id"
GRAINS = {"hour": Grain.HOUR, "day": Grain.DAY, "month": Grain.MONTH}


class Record:
    def __init__(self, db: Database, jobs: list[Drawn], tenant: Any) -> None:
        self.db, self.tenant, self.everybodys = db, tenant, jobs
        self.jobs = [job for job in jobs if job.tenant == tenant]


@pytest.fixture(scope="module")
async def record(opened: Context) -> AsyncIterator[Record]:
    """Most of the jobs are counted, by two at once, in batches of all sizes; some wait for it."""
    db, random = opened.db, Random(4)
    await delete_all_rows(db.pool)
    tenants = [await make_tenant(db, name) for name in ("ours", "theirs")]
    jobs = drawn.draw(random, [tenants[0], *tenants], JOBS)
    await drawn.write(db, jobs)
    # Of these nothing comes after the end, so that all is known of them before they are counted.
    waiting = [job.id for job in jobs if job.phases.get("copy_seconds") is job.phases.get("callback_seconds") is None]
    waiting = [row["job_id"] for row in await db.fetch(_HELD_BACK, waiting[:WAITING])]

    async def count_all() -> None:
        while await counting.count_some(db, random.choice([1, 7, 500, 2_000])):
            continue

    await asyncio.gather(count_all(), count_all())
    await db.execute("INSERT INTO uncounted SELECT unnest($1::uuid[]), 'end'", waiting)
    yield Record(db, jobs, tenants[0])
    await delete_all_rows(db.pool)


def exact_percentile(values: list[float], hundredths: int) -> float:
    return sorted(values)[-(-hundredths * len(values) // 100) - 1]


def group_of(job: Drawn, group_by: list[str]) -> tuple[Any, ...]:
    return tuple(floor(job.created_at, GRAINS[name]) if name in GRAINS else getattr(job, name) for name in group_by)


def figure(measure: str, jobs: list[Drawn], of: str) -> Any:
    states = Counter(job.status for job in jobs)
    values = [job.measures[of] for job in jobs if of in job.measures]
    match measure:
        case "count":
            return len(jobs)
        case "failure_rate":
            judged = states["failed"] + states["completed"]
            return states["failed"] / judged if judged else None
        case "cost":
            costs = [job.cost for job in jobs if job.cost is not None]
            return sum(costs, Decimal(0)) if costs else None
        case "tokens":
            told = [job.usage["output_tokens"] for job in jobs if "output_tokens" in job.usage]
            return {"output_tokens": sum(told)} if told else None
        case "mean":
            return float(sum(map(Decimal, map(str, values))) / len(values)) if values else None
        case _:
            return exact_percentile(values, PERCENTILES[measure]) if values else None


def is_right(measure: str, got: Any, expected: Any) -> bool:
    if measure in PERCENTILES and expected is not None:
        # Nearer to zero than 1e-9 is zero.
        return got is not None and abs(got - float(expected)) <= (ACCURACY + 1e-9) * abs(float(expected)) + 1e-9
    if measure == "mean" and expected is not None:
        return bool(got == pytest.approx(expected, rel=1e-12, abs=1e-12))
    return bool(got == expected)


moments = st.one_of(
    st.none(),
    st.datetimes(BEGIN.replace(tzinfo=None) - timedelta(days=40), END.replace(tzinfo=None) + timedelta(days=400)).map(
        lambda moment: moment.replace(tzinfo=UTC)
    ),
    st.integers(0, 24 * 100).map(lambda hours: BEGIN.replace(minute=0) + timedelta(hours=hours)),
    st.integers(0, 9_999).map(lambda share: BEGIN + (END - BEGIN) * (share / 10_000)),
)
LATE = ("copy_seconds", "callback_seconds", "cost")
TOLD = ("usage.output_tokens", "usage.odd", "usage.absent", "timings.model.inference")
OF = st.sampled_from([*drawn.PHASES, *LATE, *TOLD])


def some_of(words: Any, most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(words), max_size=most, unique=True)


async def asked(record: Record, tenant: UUID | None, question: Question, *, can_be_too_much: bool) -> Answer | None:
    """Only what has to be looked at one by one, or told apart too finely, is ever too much here."""
    try:
        return await answer(record.db, tenant, question)
    except TooMuch:
        if not can_be_too_much:
            raise
        return None


@pytest.mark.timeout(600)  # A failure is made as short as it can be, which takes its time.
@settings(max_examples=150)
@given(
    group_by=some_of(["model", "provider", "status", "error_type"], 3),
    time=st.sampled_from([None, None, "hour", "day", "month"]),
    measures=some_of(MEASURES, 5),
    of=st.one_of(st.just("total_seconds"), OF),
    start=moments,
    end=moments,
    filters=st.fixed_dictionaries(
        {},
        optional={
            "model": some_of(drawn.MODELS, 2),
            "provider": some_of(drawn.PROVIDERS, 1),
            "status": some_of(("completed", "failed", "cancelled", *drawn.LIVE), 3),
            "error_type": some_of(drawn.ERRORS[1:], 2),
        },
    ),
    tag=st.sampled_from([None, None, None, None, *drawn.TAGS]),
    slow=st.sampled_from([None, None, None, 20.0]),
    of_everybody=st.booleans(),
)
async def test_figures_agree_with_a_look_at_every_job(
    record: Record, group_by: list[str], time: str | None, measures: list[str], of: str, start: datetime | None,
    end: datetime | None, filters: dict[str, list[str]], tag: str | None, slow: float | None, of_everybody: bool,
) -> None:  # fmt: skip
    if start and end and end < start:
        start, end = end, start
    group_by = [*group_by, time] if time else group_by
    if time == "hour":
        end = end or END
        start = max(start or BEGIN, end - timedelta(days=6))
    elif time == "day":
        end = end or END
        start = max(start or BEGIN, end - timedelta(days=40))
    query = [("group_by", ",".join(group_by)), ("measure", ",".join(measures)), ("of", of)]
    query += [(name, word) for name, words in filters.items() for word in words]
    ends = {"created_after": start and start.isoformat(), "created_before": end and end.isoformat()}
    more = ends | {"tag": tag, "total_seconds_min": slow and str(slow)}
    query += [(name, word) for name, word in more.items() if word]

    def is_meant(job: Drawn) -> bool:
        return (
            all(not words or getattr(job, name) in words for name, words in filters.items())
            and (start is None or job.created_at >= start)
            and (end is None or job.created_at < end)
            and (tag is None or tag in job.tags)
            and (slow is None or (not job.is_live and job.measures["total_seconds"] >= slow))
        )

    expected: dict[tuple[Any, ...], list[Drawn]] = {}
    counts = not measures or "count" in measures
    for job in record.everybodys if of_everybody else record.jobs:
        if is_meant(job) and (counts or not job.is_live):
            expected.setdefault(group_of(job, group_by), []).append(job)
    if not group_by:
        expected.setdefault((), [])
    question = read_question(query, END)
    tenant = None if of_everybody else record.tenant
    answered = await asked(record, tenant, question, can_be_too_much=not question.is_kept or len(expected) > 1_000)
    event("answered" if answered else "too much")
    if answered is None:
        return
    assert answered.complete
    assert {tuple(group.of.values()) for group in answered.groups} == set(expected)
    for group in answered.groups:
        jobs = expected[tuple(group.of.values())]
        assert list(group.figures) == (measures or list(DEFAULT_MEASURES))
        for measure, got in group.figures.items():
            wanted = figure(measure, jobs, of)
            assert is_right(measure, got, wanted), (group.of, measure, got, wanted)


async def test_all_that_waits_can_be_counted_at_once(record: Record) -> None:
    await counting.count_all(record.db, 700)
    question = read_question([("measure", "count,cost")], END)
    [everything] = (await answer(record.db, record.tenant, question)).groups
    costs = [job.cost for job in record.jobs if job.cost is not None]
    assert everything.figures == {"count": len(record.jobs), "cost": sum(costs, Decimal(0))}
    assert await count(record.db, "uncounted") == 0
