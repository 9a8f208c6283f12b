"""What is wrong now, and what to do about it: the worst first.

Each check is a few bounded statements of its own, so that ten million jobs cost what a hundred do; one that fails, or
takes too long, is told as unknown and keeps no other from being told.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

import structlog

from service.db import Database, DatabaseAway, Row

log = structlog.get_logger()

# A check that takes longer is not waited for.
CHECK_SECONDS = 2.0
# So many are looked at together; the pool has other work.
AT_ONCE = 3

# Counts end here, and say then that there are more.
MOST_COUNTED = 1_000
# So many rows of what is in hand are looked through for those that something is wrong with.
LOOKED_THROUGH = 5_000


class Severity(StrEnum):
    CRITICAL = "critical"  # work does not go on, or is being lost
    WARNING = "warning"  # something fails, and will not mend itself
    NOTICE = "notice"  # worth knowing; the service looks after it


_RANK = {severity: rank for rank, severity in enumerate(Severity)}


@dataclass(frozen=True, slots=True)
class Finding:
    """`words` say what is wrong and `advice` what to do. `count` is at least so many where it is not `count_is_exact`.

    `since` is None where nobody knows. `filter` is that of a list of jobs which shows them, where one does.
    """

    kind: str
    severity: Severity
    words: str
    advice: str
    since: datetime | None = None
    count: int | None = None
    count_is_exact: bool = True
    filter: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the checks have to know. `tenant_id` is None for an administrator, who is told of everything."""

    db: Database
    tenant_id: UUID | None
    public_url: str
    broker_is_away: bool = False

    async def rows_of(self, statement: str) -> list[Row]:
        """Of a statement whose `{mine}` narrows a table to a tenant's rows, or does not for an administrator."""
        if self.tenant_id is None:
            return await self.db.fetch(statement.format(mine=""))
        return await self.db.fetch(statement.format(mine="WHERE tenant_id = $1"), self.tenant_id)


@dataclass(frozen=True, slots=True)
class Condition:
    """The findings, ranked, and the names of what could not be looked at."""

    at: datetime
    findings: Sequence[Finding]
    unknown: Sequence[str]

    @property
    def is_known(self) -> bool:
        return not self.unknown


Check = Callable[[Surroundings], Awaitable[Sequence[Finding]]]


async def look(around: Surroundings, checks: Mapping[str, Check]) -> Condition:
    room = asyncio.Semaphore(AT_ONCE)
    found = await asyncio.gather(*(_carry_out(name, check, around, room) for name, check in checks.items()))
    unknown = [name for name, findings in zip(checks, found, strict=True) if findings is None]
    findings = [finding for each in found for finding in each or ()]
    findings = [replace(finding, words=sentence(finding.words)) for finding in findings]
    return Condition(datetime.now(UTC), sorted(findings, key=_order), unknown)


async def _carry_out(
    name: str, check: Check, around: Surroundings, room: asyncio.Semaphore
) -> Sequence[Finding] | None:
    try:
        async with room, asyncio.timeout(CHECK_SECONDS):
            return await check(around)
    except (DatabaseAway, TimeoutError) as error:
        log.warning("a check of the service's condition failed", check=name, error=repr(error))
    except Exception:  # It is told as unknown, and keeps no other from being told.
        log.exception("a check of the service's condition failed", check=name)
    return None


def _order(finding: Finding) -> tuple[int, datetime, int]:
    """The worst first; of those the oldest, then the most."""
    return _RANK[finding.severity], finding.since or datetime.now(UTC), -(finding.count or 0)


def number(count: int, word: str, words: str | None = None) -> str:
    """`3 jobs`, and `more than 1,000 jobs` where counting ended."""
    if count == 1:
        return f"1 {word}"
    counted = f"more than {MOST_COUNTED:,}" if count > MOST_COUNTED else f"{count:,}"
    return f"{counted} {words or word + 's'}"


def sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def agrees(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
