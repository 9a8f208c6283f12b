"""Statements that take a job to the other provider, when it may go there: its turn."""

from uuid import UUID

from service.db import Database, Row
from service.jobs.facts import Due
from service.jobs.lifecycle import AttemptState, Duty

_TO_THE_OTHER = f"""
WITH moved AS (
    UPDATE live_jobs
    SET duty = '{Duty.SUBMIT}', provider = fallback, fallback = {{then}}, spill_seconds = NULL, reason = $4,
        queue_position = NULL, run = NULL, due_at = now()
    WHERE job_id = $1 AND attempt = $2 AND duty = $3 AND fallback IS NOT NULL AND cancel_requested_at IS NULL
      AND {{only_if}}
    RETURNING job_id, status, attempt
), tried AS (
    UPDATE attempts SET state = '{AttemptState.SUPERSEDED}', ended_at = clock_timestamp(), error = coalesce(error, $4)
    FROM moved WHERE attempts.job_id = moved.job_id AND attempts.number = moved.attempt
), noted AS (
    INSERT INTO job_events (job_id, event, status, attempt, note)
    SELECT job_id, 'rerouted', status, attempt, $4 FROM moved
)
SELECT job_id FROM moved
"""
_REROUTE = _TO_THE_OTHER.format(then="provider", only_if="run IS NULL")
_PASS_ON = _TO_THE_OTHER.format(then="NULL", only_if="true")


async def reroute(db: Database, due: Due, reason: str) -> bool:
    """Take a job from GPU workers, none of which has it in hand, to the other provider that may have it.

    What one of them says of it nevertheless counts only if it is a result.
    """
    row = await db.fetchrow(_REROUTE, due.job_id, due.attempt, due.duty.value, reason)
    return row is not None


async def pass_on(db: Database, job_id: UUID, attempt: int, reason: str) -> bool:
    """A GPU worker had the job in hand and could not run it: to the other provider with it, and not back again."""
    return await db.fetchrow(_PASS_ON, job_id, attempt, Duty.REPORT.value, reason) is not None


async def fallback_of(db: Database, job_id: UUID, attempt: int) -> str | None:
    """To which provider a live job may go from this attempt of it."""
    row = await db.fetchrow("SELECT fallback FROM live_jobs WHERE job_id = $1 AND attempt = $2", job_id, attempt)
    return row["fallback"] if row else None


# A worker that was not heard of for so long is gone.
GONE_SECONDS = 30

_SERVED = f"""(live_jobs.fallback <> 'gpu' OR EXISTS (
        SELECT FROM gpu_workers JOIN jobs ON jobs.model = gpu_workers.model
        WHERE jobs.id = live_jobs.job_id AND seen_at > now() - interval '{GONE_SECONDS} s'))"""

_MOVE_QUEUED = """
WITH moved AS (
    UPDATE live_jobs
    SET provider = {target}, fallback = CASE WHEN fallback IS NULL THEN NULL ELSE live_jobs.provider END,
        spill_seconds = NULL, reason = {reason}, due_at = least(due_at, now())
    {condition}
    RETURNING job_id, status, attempt, live_jobs.reason
)
INSERT INTO job_events (job_id, event, status, attempt, note)
SELECT job_id, 'rerouted', status, attempt, reason FROM moved
"""

_LEAVE = _MOVE_QUEUED.format(
    target="fallback",
    reason="live_jobs.provider || ' is paused'",
    condition=f"""FROM provider_pauses
    WHERE duty = '{Duty.SUBMIT}' AND provider_pauses.provider = live_jobs.provider AND fallback IS NOT NULL
      AND NOT EXISTS (SELECT FROM provider_pauses other WHERE other.provider = fallback) AND {_SERVED}""",
)


async def leave_paused(db: Database) -> int:
    """Take what waits for a paused provider, and may go to the other, there. Returns how many jobs that were."""
    return int((await db.execute(_LEAVE)).rpartition(" ")[2])


# What its client asked for, and what a rule keeps where it is, does not move; nor does a job that came to GPU workers
# without a way out, as under a rule that kept it there, whatever became of that rule.
_MOVABLE = f"""duty = '{Duty.SUBMIT}' AND provider = $1 AND (provider <> 'gpu' OR fallback IS NOT NULL) AND NOT EXISTS (
        SELECT FROM jobs LEFT JOIN routes ON routes.tenant_id = jobs.tenant_id AND routes.model = (
            SELECT rule.model FROM routes rule WHERE rule.tenant_id = jobs.tenant_id AND rule.model IN (jobs.model, '*')
            ORDER BY rule.model = '*' LIMIT 1)
        WHERE jobs.id = live_jobs.job_id
          AND (jobs.asked_provider IS NOT NULL OR routes.alone AND routes.prefer = $1))"""
_MOVABLE_NOW = f"""SELECT jobs.model, count(*) AS jobs FROM live_jobs JOIN jobs ON jobs.id = live_jobs.job_id
WHERE live_jobs.provider = $1 AND job_id IN (SELECT job_id FROM live_jobs WHERE {_MOVABLE}) GROUP BY 1 ORDER BY 1"""
_DRAIN = _MOVE_QUEUED.format(
    target="$2::text", reason="'an operator drained ' || $1::text", condition=f"WHERE {_MOVABLE}"
)


async def movable(db: Database, provider: str) -> list[Row]:
    """How many jobs of which model wait for this provider and may go to another."""
    return await db.fetch(_MOVABLE_NOW, provider)


async def drain(db: Database, provider: str, to: str) -> int:
    """Take them there. Returns how many that were."""
    return int((await db.execute(_DRAIN, provider, to)).rpartition(" ")[2])
