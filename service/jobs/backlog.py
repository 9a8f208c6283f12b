"""The work in hand, counted up to a bound, so that it costs the same however much there is."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from service.callbacks.lifecycle import CallbackState
from service.db import Database
from service.jobs.cursors import moment_of
from service.jobs.lifecycle import Status

MOST_COUNTED = 20_000
MOST_OWED = 2_000

_HAND = """
SELECT status, count(*) AS jobs FROM (SELECT status FROM live_jobs WHERE {mine} LIMIT {most}) AS counted
GROUP BY status
"""
_OWED = """
SELECT (SELECT job_id FROM live_jobs WHERE {mine} ORDER BY job_id LIMIT 1) AS oldest,
       (SELECT count(*) FROM (SELECT job_id FROM copies LIMIT {owed}) AS owed {joined}) AS copies,
       (SELECT count(*) FROM (SELECT FROM callbacks WHERE {mine} AND state = '{pending}' LIMIT {owed}) AS owed)
           AS callbacks
"""


def _about(sql: str, tenant_id: UUID | None) -> str:
    return sql.format(
        mine="tenant_id = $1" if tenant_id else "true",
        joined="JOIN jobs ON jobs.id = owed.job_id AND jobs.tenant_id = $1" if tenant_id else "",
        most=MOST_COUNTED + 1,
        owed=MOST_OWED + 1,
        pending=CallbackState.PENDING,
    )


@dataclass(frozen=True, slots=True)
class Backlog:
    """What of a tenant, or of all, is not over. `more`: there are more jobs than were counted, `MOST_COUNTED`."""

    queued: int
    submitted: int
    in_progress: int
    more: bool
    oldest: UUID | None
    copies: int
    callbacks: int

    @property
    def live(self) -> int:
        return self.queued + self.submitted + self.in_progress

    @property
    def oldest_since(self) -> datetime | None:
        """When the oldest job that goes on was registered."""
        return moment_of(self.oldest) if self.oldest else None


async def backlog(db: Database, tenant_id: UUID | None) -> Backlog:
    """Of all tenants, where none is named."""
    values = [tenant_id] if tenant_id else []
    counts = {row["status"]: int(row["jobs"]) for row in await db.fetch(_about(_HAND, tenant_id), *values)}
    owed = await db.fetchrow(_about(_OWED, tenant_id), *values)
    assert owed is not None
    return Backlog(
        queued=counts.get(Status.QUEUED, 0),
        submitted=counts.get(Status.SUBMITTED, 0),
        in_progress=counts.get(Status.IN_PROGRESS, 0),
        more=sum(counts.values()) > MOST_COUNTED,
        oldest=owed["oldest"],
        copies=int(owed["copies"]),
        callbacks=int(owed["callbacks"]),
    )
