"""Answers questions about jobs."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from service.db import Database, Row, Snapshot
from service.errors import Invalid
from service.jobs import lists
from service.jobs.filters import USAGE, JobFilter
from service.stats import questions
from service.stats.measures import COST, TOTAL, Spread
from service.stats.prices import CURRENCY
from service.stats.questions import PERCENTILES, TIMES, Question
from service.stats.statements import LIVE_JOBS, MOST_JOBS, MOST_LIVE, MOST_SPREAD, MOST_UNCOUNTED, SPREAD, Statement

# Statements that may search for the jobs that filters mean.
MOST_SEARCHES = 4

# So many rows are put together beside the event loop.
LONG = 300

# What the jobs of a group have in common, as its rows have it.
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Group:
    """What the jobs have in common, and what was asked of them; unknown is None, never zero."""

    of: Mapping[str, str | datetime | None]
    figures: Mapping[str, int | float | Decimal | dict[str, int | float] | None]


@dataclass(frozen=True)
class Answer:
    """`complete`: not so while more jobs have just ended than could be looked at; soon they are counted."""

    groups: Sequence[Group]
    currency: str | None
    complete: bool


class TooMuch(Invalid):
    """A question that would cost too much, and what would make it cheaper."""

    def __init__(self, words: str) -> None:
        super().__init__([{"loc": ["query"], "msg": words, "type": "too_costly"}])


async def answer(db: Database, tenant_id: UUID | None, question: Question) -> Answer:
    """Of a tenant, or of all of them where none is named. Raises TooMuch, or TooCostly."""
    async with db.snapshot() as snapshot:
        job_ids = None
        if not question.is_kept:
            job_ids = await _matching(snapshot, tenant_id, question.wanted)
        statement = Statement(tenant_id, question, job_ids)
        sql, values = statement.text()
        rows = await snapshot.fetch(sql, *values)
        currency = await snapshot.fetchrow(CURRENCY)
    head, rows = rows[0], rows[1:]
    for found, most in ((head["tallies"], statement.most_tallies), (head["spreads"], MOST_SPREAD)):
        if found > most:
            words = "ask for a shorter time, in full days, for one model, or without percentiles."
            raise TooMuch(f"More than {most:,} figures would have to be put together: {words}")
    if head["jobs"] > MOST_JOBS:
        words = "at most that many are looked at one by one: begin and end at full hours, such as 2026-01-31T13:00:00Z."
        raise TooMuch(f"More than {MOST_JOBS:,} jobs are in the parts of an hour at the ends of this time; {words}")
    if head["live"] > MOST_LIVE:
        words = "ask for status=completed,failed,cancelled, or group by status alone."
        raise TooMuch(f"More than {MOST_LIVE:,} jobs have not ended yet, which are counted one by one: {words}")
    groups = await asyncio.to_thread(_grouped, question, rows) if len(rows) > LONG else _grouped(question, rows)
    return Answer(groups, currency["currency"] if currency else None, head["uncounted"] <= MOST_UNCOUNTED)


async def _matching(snapshot: Snapshot, tenant_id: UUID | None, wanted: JobFilter) -> list[UUID]:
    owners = [tenant_id] if tenant_id else await _everybody(snapshot)
    job_ids = await lists.matching(snapshot, owners, wanted, MOST_JOBS, MOST_SEARCHES)
    if job_ids is None:
        looked_through = lists.looked_through(owners, wanted, MOST_SEARCHES)
        words = "model, provider, status, error_type and times of full hours, or narrow it with created_after"
        raise TooMuch(
            f"These filters mean more than {min(MOST_JOBS, looked_through):,} jobs, or more than {looked_through:,}"
            f" would have to be looked through to find them: ask by {words} and created_before."
        )
    return job_ids


async def _everybody(snapshot: Snapshot) -> list[UUID]:
    rows = await snapshot.fetch("SELECT id FROM tenants LIMIT $1", lists.MOST_OWNERS + 1)
    if len(rows) > lists.MOST_OWNERS:
        raise TooMuch(f"These filters are looked up for {lists.MOST_OWNERS} tenants at most: name one.")
    return [row["id"] for row in rows]


def _grouped(question: Question, rows: Sequence[Row]) -> list[Group]:
    return _Cells(question, rows).groups()


class _Cells:
    """What was found of each group: a row for each measure, and what its percentiles are told from."""

    def __init__(self, question: Question, rows: Sequence[Row]) -> None:
        self._question = question
        self._rows: defaultdict[Key, dict[str, Row]] = defaultdict(dict)
        self._spreads: dict[Key, Spread] = {}
        columns = ["start" if name in TIMES else name for name in question.group_by]
        for row in rows:
            key = tuple([row[name] for name in columns])
            if row["measure"] == SPREAD:
                self._spreads[key] = Spread(row["buckets"], row["counts"])
            else:
                self._rows[key][row["measure"]] = row
        if not self._rows and not question.group_by:
            self._rows[()] = {}

    def groups(self) -> list[Group]:
        """In order: of time first, then of names."""
        return [self._group(key, row) for key, row in sorted(self._rows.items(), key=self._place)]

    def _place(self, item: tuple[Key, object]) -> Key:
        named = list(zip(self._question.group_by, item[0], strict=True))
        times = [value for name, value in named if name in TIMES]
        return (*times, *(value for name, value in named if name not in TIMES))

    def _group(self, key: Key, cells: Mapping[str, Row]) -> Group:
        figures = {name: self._figure(name, key, cells) for name in self._question.measures}
        return Group({name: value or None for name, value in zip(self._question.group_by, key, strict=True)}, figures)

    def _figure(
        self, measure: str, key: Key, cells: Mapping[str, Row]
    ) -> int | float | Decimal | dict[str, int | float] | None:
        total, of, cost = cells.get(TOTAL), cells.get(self._question.of), cells.get(COST)
        match measure:
            case "count":
                return sum(int(row["n"]) for name, row in cells.items() if name in (TOTAL, LIVE_JOBS))
            case "failure_rate":
                judged = ((total["completed"] or 0) + (total["failed"] or 0)) if total else 0
                return float((total["failed"] or 0) / judged) if total and judged else None
            case "mean":
                return float(of["total"] / of["n"]) if of else None
            case "tokens":
                told = {name.removeprefix(USAGE): row["total"] for name, row in cells.items() if _counts_tokens(name)}
                return {name: _number(sum_) for name, sum_ in sorted(told.items())} or None
            case "cost":
                return Decimal(cost["total"]) if cost else None
            case questions.COSTED:
                return int(cost["n"]) if cost else 0
            case _:
                spread = self._spreads.get(key)
                return spread.percentile(PERCENTILES[measure]) if spread else None


def _number(exact: Decimal) -> int | float:
    return int(exact) if exact == exact.to_integral_value() else float(exact)


def _counts_tokens(name: str) -> bool:
    return name.startswith(USAGE) and name.endswith("tokens")
