"""How many jobs of each status the filters of a list mean, as it is said."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from service.dashboard.figures import short
from service.dashboard.scope import Scope
from service.db import Database
from service.jobs import lists
from service.jobs.filters import JobFilter
from service.jobs.lifecycle import LIVE, Status
from service.stats.answers import answer
from service.stats.measures import TOTAL
from service.stats.questions import Question

# Where the tallies cannot tell, so many are counted, among so many that are looked at.
MOST_FOUND = 500
LONGEST_SEARCH = 1_000

TALLIED = "From the tallies: jobs that were removed since are still in them, and one that has just ended may not be yet"
FOUND = "All that there are"
AT_LEAST = "Among the newest that were looked through; there may be more"


@dataclass(frozen=True, slots=True)
class Counts:
    """Of each status, and in all; None: nobody knows."""

    of: Mapping[Status, str | None]
    all: str | None
    meaning: str = ""


UNKNOWN = Counts(dict.fromkeys(Status), None)


async def counts(db: Database, scope: Scope, wanted: JobFilter | None) -> Mapping[str, Any]:
    """From the tallies; where these cannot tell, of as many jobs as are quickly found. `wanted` None: nobody knows."""
    if wanted is None:
        return {"counts": UNKNOWN, "chosen": ()}
    return {"counts": await _counts(db, scope, replace(wanted, statuses=(), cursor=None)), "chosen": wanted.statuses}


async def _counts(db: Database, scope: Scope, wanted: JobFilter) -> Counts:
    question = Question(["status"], ["count"], TOTAL, wanted)
    if question.is_kept:
        found: Any = (await answer(db, scope.tenant_id, question)).groups
        numbers: Mapping[Any, int] = {group.of["status"]: group.figures["count"] for group in found}
        # What has not ended is counted exactly.
        of = {status: _said("" if status in LIVE else "≈ ", numbers.get(status, 0)) for status in Status}
        return Counts(of, _said("≈ ", sum(numbers.values())), TALLIED)
    # Long texts take too long to be searched for those that are not shown.
    if wanted.text or (owners := scope.owners) is None:
        return UNKNOWN
    numbers, is_all = await lists.by_status(db, owners, wanted, MOST_FOUND, LONGEST_SEARCH)
    sign = "" if is_all else "≥ "
    of = {status: _said(sign, numbers.get(status, 0)) for status in Status}
    return Counts(of, _said(sign, sum(numbers.values())), FOUND if is_all else AT_LEAST)


def _said(sign: str, number: int) -> str | None:
    return None if sign == "≥ " and number == 0 else f"{sign}{short(number)}"
