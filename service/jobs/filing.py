"""Statements that keep news of a job which ended nothing, as evidence, and judge it."""

from uuid import UUID

from service.db import Database
from service.jobs.endings import OURS
from service.jobs.facts import Ending, Evidence
from service.jobs.lifecycle import AttemptState, Verdict

# $1 job, $2 attempt, $3 request ID, $4 http status, $5 body
_VERDICT = f"""coalesce(
    (SELECT CASE
        WHEN attempts.provider_request_id <> $3 THEN '{Verdict.FOREIGN}'
        WHEN outcomes.source = '{OURS}' THEN '{Verdict.LATE}'
        WHEN outcomes.attempt <> $2 THEN '{Verdict.LATE}'
        WHEN outcomes.http_status = $4 AND results.body = $5 THEN '{Verdict.DUPLICATE}'
        ELSE '{Verdict.CONFLICT}' END
     FROM attempts JOIN outcomes ON outcomes.job_id = attempts.job_id
     LEFT JOIN results ON results.job_id = attempts.job_id
     WHERE attempts.job_id = $1 AND attempts.number = $2),
    (SELECT {{or_else}} FROM attempts WHERE job_id = $1 AND number = $2),
    '{Verdict.UNKNOWN}')"""

# A live job that it did not end is one whose attempt bears another request ID. Of polls that bring the same words one
# after another the first is kept, and how often they came.
_NOT_APPLIED = (
    f"CASE WHEN provider_request_id = $3 AND state = '{AttemptState.SUPERSEDED}'"
    f" THEN '{Verdict.LATE}' ELSE '{Verdict.FOREIGN}' END"
)
_FILE_REPORT = f"""
WITH last AS (
    SELECT id, http_status, body FROM reports
    WHERE $11::text IN ('{Verdict.NOTED}', '{Verdict.INCONCLUSIVE}') AND job_id = $1 AND attempt = $2 AND source = $6
    ORDER BY id DESC LIMIT 1
), again AS (
    UPDATE reports SET times = times + 1, last_received_at = clock_timestamp()
    FROM last
    WHERE reports.id = last.id AND last.http_status = $8 AND last.body = $10 AND reports.verdict = $11
    RETURNING reports.verdict
), filed AS (
    INSERT INTO reports (job_id, attempt, source, received_at, http_status, headers, body, verdict)
    SELECT $1, $2, $6, clock_timestamp() - make_interval(secs => $7), $8, $9::jsonb, $10,
           coalesce($11::text, {_VERDICT.format(or_else=_NOT_APPLIED)})
    WHERE NOT EXISTS (SELECT FROM again)
    RETURNING verdict
)
SELECT verdict FROM filed UNION ALL SELECT verdict FROM again
"""


async def file_report(
    db: Database, job_id: UUID, attempt: int, evidence: Evidence, ending: Ending | None, verdict: Verdict | None = None
) -> Verdict:
    """Keep evidence that ended nothing, with what it amounts to. Returns the verdict."""
    row = await db.fetchrow(
        _FILE_REPORT,
        job_id,
        attempt,
        evidence.request_id,
        ending.http_status if ending else None,
        ending.body if ending else None,
        evidence.source,
        evidence.age,
        evidence.http_status,
        evidence.headers,
        evidence.body,
        verdict,
    )
    assert row is not None
    return Verdict(row["verdict"])


_IF_LIVE = f"""CASE
    WHEN provider_request_id <> $3 THEN '{Verdict.FOREIGN}'
    WHEN provider_request_id IS NULL AND EXISTS (SELECT FROM attempts other WHERE other.provider_request_id = $3)
    THEN '{Verdict.FOREIGN}'
    ELSE '{Verdict.APPLIED}' END"""
_JUDGE = f"SELECT {_VERDICT.format(or_else=_IF_LIVE)} AS verdict"


async def judge(db: Database, job_id: UUID, attempt: int, request_id: str | None, ending: Ending) -> Verdict:
    """What `settle` and `file_report` would make of this news now. Changes nothing."""
    row = await db.fetchrow(_JUDGE, job_id, attempt, request_id, ending.http_status, ending.body)
    assert row is not None
    return Verdict(row["verdict"])
