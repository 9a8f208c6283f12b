"""How a list is answered: one index is walked in the order of IDs, and what it cannot tell is looked up by key.

So each statement here reads a bounded number of rows, however many there are and whatever was asked.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

# So many entries of indexes are looked at for one page; a part of them where rows have to be read, or long texts.
LONGEST_WALK = 4_000
READING_ROWS, READING_TEXTS = 2, 5

# Of several indexes that one is walked whose next so many entries reach furthest.
PROBED_ENTRIES = 500


class Values:
    """Parameters, in pieces of SQL that are put together later: each statement gets those that it names."""

    def __init__(self) -> None:
        self._values: list[Any] = []

    def place(self, value: Any) -> str:
        self._values.append(value)
        return f"$[{len(self._values) - 1}]"

    def statement(self, sql: str) -> tuple[str, list[Any]]:
        """As asyncpg takes it."""
        used: dict[int, int] = {}
        numbered = re.sub(r"\$\[(\d+)\]", lambda found: f"${used.setdefault(int(found[1]), len(used) + 1)}", sql)
        return numbered, [self._values[index] for index in used]


@dataclass(frozen=True)
class Span:
    """The IDs between these two, neither of them included, from one end."""

    after: UUID
    before: UUID
    newer: bool

    @property
    def order(self) -> str:
        return "ASC" if self.newer else "DESC"


@dataclass(frozen=True)
class Walk:
    """Entries of an index, of one value or of several, each a SELECT of `job_id`.

    `gate` is a SELECT of one row if `walk.job_id` has such an entry, from the index alone; empty if that cannot be.
    """

    strands: Sequence[str]
    gate: str
    # A job may have several entries, one after the other.
    repeats: bool = False

    def entries(self, span: Span, limit: int, offset: int = 0) -> str:
        rest = f"ORDER BY job_id {span.order} LIMIT"
        if len(self.strands) == 1:
            return f"{self.strands[0]} {rest} {limit} OFFSET {offset}"
        merged = " UNION ALL ".join(f"({strand} {rest} {limit + offset})" for strand in self.strands)
        return f"SELECT job_id FROM ({merged}) AS strands {rest} {limit} OFFSET {offset}"


@dataclass(frozen=True)
class Place:
    """Where jobs are: the indexes that all of them have to be in, and what must hold of their rows.

    `key` is the column of `tables` that has the job's ID.
    """

    span: Span
    walks: Sequence[Walk]
    tables: str
    key: str
    conditions: Sequence[str]
    longest_walk: int

    def probes(self) -> str:
        """One row: how far the next entries of each walk reach; null where there are not so many."""
        return f"SELECT {', '.join(f'({walk.entries(self.span, 1, PROBED_ENTRIES)})' for walk in self.walks)}"

    def search(self, walks: Sequence[Walk], limit: int) -> str:
        """The `job_id` of the first jobs on the first of these walks that are on all, and of which all holds."""
        entries = walks[0].entries(self.span, self.longest_walk)
        if walks[0].repeats:
            entries = f"SELECT DISTINCT job_id FROM ({entries}) AS entries ORDER BY job_id {self.span.order}"
        looked_up = [walk.gate for walk in walks[1:] if walk.gate]
        if self.conditions:
            holds = " AND ".join(self.conditions)
            looked_up.append(f"SELECT FROM {self.tables} WHERE {self.key} = walk.job_id AND {holds}")
        # LIMIT keeps these look-ups by key, in this order, for one entry after the other until there are enough.
        kept = "".join(f" CROSS JOIN LATERAL ({each} LIMIT 1) AS kept_{n}" for n, each in enumerate(looked_up))
        return f"SELECT walk.job_id FROM ({entries}) AS walk{kept} ORDER BY walk.job_id {self.span.order} LIMIT {limit}"

    def end_of(self, walk: Walk) -> str:
        """The last `job_id` that `search` may look at; no row if the index ends before."""
        return walk.entries(self.span, 1, self.longest_walk - 1)
