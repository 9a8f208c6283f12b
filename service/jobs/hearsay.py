"""What providers said of all jobs, newest first, in steps of a bounded number of reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from service.db import Database, Row
from service.jobs.lifecycle import Source, Verdict

LONGEST_WALK = 3_000
LATEST_ID = 2**63 - 1

_WALK = f"""
WITH walk AS MATERIALIZED (
    SELECT id, job_id, attempt, source, received_at, http_status, verdict, times,
           coalesce(removed_size, length(body)) AS size
    FROM reports WHERE id < $1 ORDER BY id DESC LIMIT {LONGEST_WALK}
), told AS (
    SELECT walk.*, jobs.model, jobs.tenant_id FROM walk LEFT JOIN jobs ON jobs.id = walk.job_id
    WHERE ($2::uuid IS NULL OR jobs.tenant_id = $2)
)
"""
_LIST = f"""{_WALK}
(SELECT * FROM told WHERE ($3::text IS NULL OR verdict = $3) AND ($4::text IS NULL OR source = $4)
 ORDER BY id DESC LIMIT $5)
UNION ALL
SELECT min(id), NULL, count(*)::int4, NULL, min(received_at), NULL, NULL, NULL, NULL, NULL, NULL FROM walk
"""
_COUNT = f"{_WALK} SELECT verdict, count(*) AS reports, min(received_at) AS since FROM told GROUP BY verdict"


@dataclass(frozen=True, slots=True)
class Heard:
    """`older` is where the next step begins, None at the end; `searched_to` how far a step came that was not filled."""

    rows: Sequence[Row]
    older: int | None
    searched_to: datetime | None


async def heard(
    db: Database, tenant_id: UUID | None, verdict: Verdict | None, source: Source | None, before: int, limit: int
) -> Heard:
    """Of a tenant's jobs or, where none is named, of everybody's and of those that there are not."""
    found = await db.fetch(
        _LIST, before, tenant_id, verdict.value if verdict else None, source.value if source else None, limit + 1
    )
    walked = next(row for row in found if row["verdict"] is None)
    rows = sorted((row for row in found if row["verdict"] is not None), key=lambda row: -row["id"])
    if len(rows) > limit:
        return Heard(rows[:limit], rows[limit - 1]["id"], None)
    if walked["attempt"] < LONGEST_WALK:
        return Heard(rows, None, None)
    return Heard(rows, walked["id"], walked["received_at"])


async def verdicts(db: Database, tenant_id: UUID | None) -> tuple[Mapping[str, int], datetime | None]:
    """How often each verdict was met among the newest reports of all, and since when these are."""
    rows = await db.fetch(_COUNT, LATEST_ID, tenant_id)
    since = min((row["since"] for row in rows), default=None)
    return {row["verdict"]: int(row["reports"]) for row in rows}, since
