"""Statements that keep news of a job which ended nothing, as evidence, and judge it."""

from functools import partial
from uuid import UUID

from service.db import Database
from service.jobs.endings import OURS
from service.jobs.facts import Ending, Evidence
from service.jobs.lifecycle import AttemptState, Verdict
from service.retention.parts import Keep, Part

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

# What came after its job's evidence was removed, or the job itself, is not kept either; what is on hold is.
_FILE_REPORT = f"""
WITH job AS MATERIALIZED (
    SELECT tenant_id, model FROM jobs WHERE id = $1
), kept AS MATERIALIZED (
    SELECT CASE
        WHEN NOT EXISTS (SELECT FROM job) THEN '{Keep.HASH}'
        WHEN NOT EXISTS (SELECT FROM removals WHERE job_id = $1 AND part = '{Part.EVIDENCE}') THEN '{Keep.ALL}'
        WHEN EXISTS (SELECT FROM holds WHERE job_id = $1) THEN '{Keep.ALL}'
        WHEN '{Keep.NOTHING}' = (
            SELECT keep FROM retention_rules AS rule JOIN job USING (tenant_id)
            WHERE part = '{Part.EVIDENCE}' AND rule.model IN (job.model, '*') ORDER BY rule.model = '*' LIMIT 1
        ) THEN '{Keep.NOTHING}'
        ELSE '{Keep.HASH}' END AS keep
), last AS (
    SELECT id, http_status, body FROM reports
    WHERE $11::text IN ('{Verdict.NOTED}', '{Verdict.INCONCLUSIVE}') AND job_id = $1 AND attempt = $2 AND source = $6
    ORDER BY id DESC LIMIT 1
), again AS (
    UPDATE reports SET times = times + 1, last_received_at = clock_timestamp()
    FROM last
    WHERE reports.id = last.id AND last.http_status = $8 AND last.body = $10 AND reports.verdict = $11
    RETURNING reports.verdict
), filed AS (
    INSERT INTO reports (job_id, attempt, source, received_at, http_status, headers, body, verdict, removed_sha256,
                         removed_size)
    SELECT $1, $2, $6, clock_timestamp() - make_interval(secs => $7), $8,
           CASE keep WHEN '{Keep.ALL}' THEN $9::jsonb ELSE '{{}}' END,
           CASE keep WHEN '{Keep.ALL}' THEN $10::bytea ELSE '' END,
           CASE WHEN EXISTS (SELECT FROM job) THEN coalesce($11::text, {_VERDICT.format(or_else=_NOT_APPLIED)})
                ELSE '{Verdict.UNKNOWN}' END,
           CASE keep WHEN '{Keep.HASH}' THEN encode(sha256($10::bytea), 'hex') END,
           CASE WHEN keep <> '{Keep.ALL}' THEN octet_length($10::bytea) END
    FROM kept WHERE NOT EXISTS (SELECT FROM again)
    RETURNING verdict
)
SELECT verdict FROM filed UNION ALL SELECT verdict FROM again
"""

# Who removes something of the job waits for this lock, or has done so before the report is filed.
_HOLD = "SELECT FROM jobs WHERE id = $1 FOR KEY SHARE"


async def file_report(
    db: Database, job_id: UUID, attempt: int, evidence: Evidence, ending: Ending | None, verdict: Verdict | None = None
) -> Verdict:
    """Keep evidence that ended nothing, with what it amounts to. Returns the verdict."""
    # Only a poll's own job has not ended, so that nobody removes anything of it meanwhile.
    of_a_poll = verdict in {Verdict.NOTED, Verdict.INCONCLUSIVE}
    file = db.fetchrow if of_a_poll else partial(db.fetchrow_holding, _HOLD)
    row = await file(
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


# So long it is known that somebody spoke of a job which is not there any more.
UNKNOWN_DAYS = 30.0
_FORGET = f"""
DELETE FROM reports WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM reports
    WHERE verdict = '{Verdict.UNKNOWN}' AND received_at < now() - make_interval(secs => $1)
      AND NOT EXISTS (SELECT FROM jobs WHERE jobs.id = reports.job_id)
    LIMIT $2
))
"""
FORGET_AT_A_TIME = 10_000


async def tidy(db: Database, days: float = UNKNOWN_DAYS) -> None:
    """Forget what was said of jobs that are not there."""
    while await db.execute(_FORGET, days * 86_400, FORGET_AT_A_TIME) == f"DELETE {FORGET_AT_A_TIME}":
        continue


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
