"""What rules of retention should have removed, and could not."""

from collections.abc import Sequence

from service.condition.findings import LOOKED_THROUGH, MOST_COUNTED, Finding, Severity, Surroundings, agrees, number

# What failed once may have been in somebody's hands just then; it is told when it failed again.
_POSTPONED = f"""
WITH looked AS (
    SELECT job_id, since, tried_at, error FROM postponed_removals
    WHERE ($1::uuid IS NULL OR tenant_id = $1) AND error IS NOT NULL LIMIT {LOOKED_THROUGH}
), failed AS (
    SELECT * FROM looked WHERE tried_at > since
)
SELECT count(DISTINCT job_id) AS jobs, min(since) AS since, (SELECT count(*) FROM looked) AS looked,
       (SELECT error FROM failed ORDER BY tried_at DESC LIMIT 1) AS error
FROM failed
"""


async def postponed_removals(around: Surroundings) -> Sequence[Finding]:
    """What the database said is for administrators."""
    row = await around.db.fetchrow(_POSTPONED, around.tenant_id)
    assert row is not None
    if not (jobs := int(row["jobs"])):
        return []
    why = f": {row['error']}" if around.tenant_id is None else "."
    return [
        Finding(
            "postponed_removals",
            Severity.WARNING,
            f"Rules of retention could not be carried out of {number(jobs, 'job')}, and"
            f" {agrees(jobs, 'it is', 'they are')} tried again every ten minutes{why}",
            "The workers' logs say of which. If somebody holds their rows, find him in pg_stat_activity.",
            row["since"],
            min(jobs, MOST_COUNTED),
            jobs <= MOST_COUNTED and row["looked"] < LOOKED_THROUGH,
        )
    ]
