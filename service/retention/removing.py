"""Statements that remove parts of ended jobs, many at a time. Each does the same when it is repeated."""

from collections.abc import Sequence
from uuid import UUID

from service.callbacks.lifecycle import CallbackState
from service.db import Database
from service.jobs.lifecycle import AttemptState
from service.jobs.store import INPUT_FILE, MARKS
from service.retention.parts import Keep, Part
from service.stats.counting import TURN as COUNTING
from service.stats.counting import count_jobs

# So long whole jobs wait for those who count; `roundtrip stats count` takes longer with each of its batches.
TURN_SECONDS = 3.0

# $1 the jobs, $2 whether the hash stays
_DOOMED = """
INSERT INTO unreferenced_blobs (sha256) SELECT DISTINCT sha256 FROM {referred} WHERE sha256 IS NOT NULL
ORDER BY sha256
ON CONFLICT (sha256) DO UPDATE SET since = excluded.since
"""

_INPUT = f"""
WITH gone AS (
    DELETE FROM inputs WHERE job_id = ANY ($1::uuid[]) RETURNING *
), file AS (
    DELETE FROM input_files USING gone WHERE input_files.job_id = gone.job_id RETURNING input_files.sha256
), doomed AS ({_DOOMED.format(referred="file")})
INSERT INTO removals (job_id, part, sha256, size)
SELECT job_id, '{Part.INPUT}',
       -- Where files are kept apart and its hash is not known, there is none: what stands here was never sent.
       CASE WHEN $2 AND sha256 IS NULL AND body !~ {INPUT_FILE}
            THEN encode(sha256(convert_to(body, 'UTF8')), 'hex') WHEN $2 THEN sha256 END,
       coalesce(size, octet_length(body))
FROM gone ON CONFLICT DO NOTHING
"""

# The body of the callback that told of it goes with it.
_RESULT = f"""
WITH gone AS (
    DELETE FROM results WHERE job_id = ANY ($1::uuid[]) RETURNING job_id, body
), told AS (
    UPDATE callbacks SET body = NULL, format = NULL
    FROM gone WHERE callbacks.job_id = gone.job_id AND state <> '{CallbackState.PENDING}'
)
INSERT INTO removals (job_id, part, sha256, size)
SELECT job_id, '{Part.RESULT}', CASE WHEN $2 THEN encode(sha256(body), 'hex') END, octet_length(body) FROM gone
ON CONFLICT DO NOTHING
"""

# What was measured in a file stays: label, area and box are data, not the file.
_FILES = f"""
WITH wanted AS MATERIALIZED (
    SELECT job_id, kind, index, sha256 FROM artifacts
    WHERE job_id = ANY ($1::uuid[]) AND removed_at IS NULL FOR UPDATE
), owed AS (
    DELETE FROM copies WHERE job_id = ANY ($1::uuid[])
), doomed AS ({_DOOMED.format(referred="wanted")}), noted AS (
    INSERT INTO removals (job_id, part) SELECT DISTINCT job_id, '{Part.FILES}' FROM wanted ON CONFLICT DO NOTHING
)
UPDATE artifacts
SET sha256 = NULL, removed_sha256 = CASE WHEN $2 THEN artifacts.sha256 END, removed_at = now(),
    -- Whoever has the provider's link has the file, as long as that keeps it.
    source_url = '', file_name = NULL
FROM wanted
WHERE artifacts.job_id = wanted.job_id AND artifacts.kind = wanted.kind AND artifacts.index = wanted.index
"""

# Of jobs without evidence it is noted, too: what comes late is not kept (see jobs/filing.py).
_EVIDENCE_TO_HASHES = f"""
WITH noted AS (
    INSERT INTO removals (job_id, part) SELECT unnest($1::uuid[]), '{Part.EVIDENCE}' ON CONFLICT DO NOTHING
), said AS (
    DELETE FROM run_logs WHERE job_id = ANY ($1::uuid[])
)
UPDATE reports
SET removed_sha256 = encode(sha256(body), 'hex'), removed_size = octet_length(body), body = '', headers = '{{}}'
WHERE job_id = ANY ($1::uuid[]) AND removed_size IS NULL
"""

_EVIDENCE = f"""
WITH gone AS (
    DELETE FROM reports WHERE job_id = ANY ($1::uuid[])
), said AS (
    DELETE FROM run_logs WHERE job_id = ANY ($1::uuid[])
)
INSERT INTO removals (job_id, part) SELECT unnest($1::uuid[]), '{Part.EVIDENCE}' ON CONFLICT DO NOTHING
"""

# The other rows of a job go by their foreign keys; reports and what is postponed have none. Nor have marks, and no
# index on the job: each is looked up by its whole key, which OFFSET 0 keeps the planner from doing otherwise. Nobody
# changes a mark, so its place is its own.
_JOB = f"""
WITH evidence AS (
    DELETE FROM reports WHERE job_id = ANY ($1::uuid[])
), postponed AS (
    DELETE FROM postponed_removals WHERE job_id = ANY ($1::uuid[])
), file AS (
    SELECT sha256 FROM artifacts WHERE job_id = ANY ($1::uuid[])
    UNION SELECT sha256 FROM input_files WHERE job_id = ANY ($1::uuid[])
), doomed AS ({_DOOMED.format(referred="file")}), mark AS (
    DELETE FROM job_marks WHERE ctid = ANY (ARRAY(
        SELECT found.ctid FROM jobs AS job CROSS JOIN LATERAL ({MARKS}) AS mark
        CROSS JOIN LATERAL (
            SELECT job_marks.ctid FROM job_marks
            WHERE job_marks.tenant_id = job.tenant_id AND job_marks.name = mark.name
              AND job_marks.value = mark.value AND job_marks.job_id = job.id
            OFFSET 0
        ) AS found
        WHERE job.id = ANY ($1::uuid[])
    ))
)
DELETE FROM jobs WHERE id = ANY ($1::uuid[])
"""

_STATEMENTS = {
    (Part.INPUT, Keep.HASH): _INPUT,
    (Part.INPUT, Keep.NOTHING): _INPUT,
    (Part.RESULT, Keep.HASH): _RESULT,
    (Part.RESULT, Keep.NOTHING): _RESULT,
    (Part.FILES, Keep.HASH): _FILES,
    (Part.FILES, Keep.NOTHING): _FILES,
    (Part.EVIDENCE, Keep.HASH): _EVIDENCE_TO_HASHES,
    (Part.EVIDENCE, Keep.NOTHING): _EVIDENCE,
    (Part.JOB, Keep.NOTHING): _JOB,
}
_KNOW_THE_HASH = {_INPUT, _RESULT, _FILES}


# A hold that is being put on a job waits for this lock, or is seen after it.
_LOCK = "SELECT FROM jobs WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE"
_FREE = f"""
SELECT id FROM jobs
WHERE id = ANY ($1::uuid[]) AND NOT EXISTS (SELECT FROM holds WHERE holds.job_id = id)
  AND NOT EXISTS (SELECT FROM live_jobs WHERE live_jobs.job_id = id)
  -- What the provider still has to be asked to stop is known from the job alone.
  AND NOT ($2 AND EXISTS (SELECT FROM attempts WHERE attempts.job_id = id
                          AND state = '{AttemptState.SUPERSEDED}' AND ended_at IS NULL))
  AND NOT ($3 AND EXISTS (SELECT FROM callbacks WHERE callbacks.job_id = id AND state = '{CallbackState.PENDING}'))
"""


async def remove(
    db: Database, job_ids: Sequence[UUID], part: Part, keep: Keep, *, even_if_calling: bool = False
) -> list[UUID]:
    """Remove a part of those of these jobs that have ended and are not on hold. `keep` is HASH or NOTHING.

    Nothing goes that a callback on its way needs, unless `even_if_calling`. Returns the jobs that it was removed of.
    Raises Busy, if whole jobs are to go and somebody counts for long.
    """
    statement, whole = _STATEMENTS[part, keep], part is Part.JOB
    # What a job cost is to be in the figures before it is gone.
    async with db.in_turn(COUNTING, TURN_SECONDS) if whole else db.transaction() as connection:
        await connection.execute(_LOCK, job_ids)
        free = [row["id"] for row in await connection.fetch(_FREE, job_ids, whole, not even_if_calling)]
        if free and whole:
            await count_jobs(connection, free)
        if free and statement in _KNOW_THE_HASH:
            await connection.execute(statement, free, keep is Keep.HASH)
        elif free:
            await connection.execute(statement, free)
    return free


async def is_held(db: Database, job_id: UUID) -> bool:
    return await db.fetchrow("SELECT FROM holds WHERE job_id = $1", job_id) is not None


async def hold(db: Database, job_id: UUID) -> bool:
    """False: the job was deleted meanwhile."""
    row = await db.fetchrow(
        "WITH job AS MATERIALIZED (SELECT id FROM jobs WHERE id = $1 FOR KEY SHARE), held AS ("
        "    INSERT INTO holds (job_id) SELECT id FROM job ON CONFLICT DO NOTHING"
        ") SELECT id FROM job",
        job_id,
    )
    return row is not None


# The rules have passed the job; they go back to it. One that has not begun comes to it anyway.
_RELEASE = """
WITH released AS (
    DELETE FROM holds WHERE job_id = $1 RETURNING job_id
)
UPDATE retention_rules
SET done_through = CASE WHEN done_through IS NOT NULL THEN least(done_through, $2::uuid) END, version = version + 1
FROM released JOIN jobs ON jobs.id = released.job_id
WHERE retention_rules.tenant_id = jobs.tenant_id AND retention_rules.model IN ('*', jobs.model)
"""


async def release(db: Database, job_id: UUID) -> None:
    before = UUID(int=max(0, job_id.int - 1))
    await db.execute(_RELEASE, job_id, before)
