"""Statements that bring a job on its way, each of them one round trip.

`register` writes a job, `claim` takes many for submission, `record_answers` keeps what the provider said
to many submissions; `endings.py` ends one and `due.py` looks after those that are late. A status is moved only in
these three, by guards made from `lifecycle.MOVES`; no row coming back is an ordinary answer: the news was late.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from service.db import Database
from service.jobs.facts import Answer, Claim, NewJob
from service.jobs.guards import guard, target
from service.jobs.lifecycle import AttemptState, Duty, Event
from service.jobs.pauses import PROBE_SECONDS

# Jobs of a lower rank are claimed first; fal knows the same two priorities.
RANK = {"normal": 0, "low": 1}

_INSERT_JOB = f"""
job AS (
    INSERT INTO jobs (id, tenant_id, model, input, provider, priority, webhook_url, deadline_at, metadata, tags,
                      retry_of, callback_format, hints)
    SELECT $1::uuid, $2::uuid, $3::text, $4::text, $5::text, $6::text, $7::text,
           now() + make_interval(secs => $8::float8), $9::jsonb, $10::text[], $11::uuid, $13::text, $14::jsonb
    {{only_if}}
    RETURNING id, tenant_id, deadline_at, created_at
), live AS (
    INSERT INTO live_jobs (job_id, tenant_id, status, duty, rank, deadline_at)
    SELECT id, tenant_id, {target(Event.REGISTERED)}, '{Duty.SUBMIT}', $12::smallint, deadline_at FROM job
), event AS (
    INSERT INTO job_events (job_id, event, status, attempt)
    SELECT id, '{Event.REGISTERED}', {target(Event.REGISTERED)}, 0 FROM job
)
SELECT created_at FROM job
"""

_REGISTER = "WITH " + _INSERT_JOB.format(only_if="")

# A key that lasts only $17 seconds is used anew after them, and before them if the job that it made has failed.
_REGISTER_ONCE = f"""
WITH first_use AS (
    INSERT INTO idempotency_keys (tenant_id, key, fingerprint, job_id)
    VALUES ($2::uuid, $15::text, $16::bytea, $1::uuid)
    ON CONFLICT (tenant_id, key) DO UPDATE SET job_id = excluded.job_id, created_at = excluded.created_at
    WHERE $17::float8 IS NOT NULL AND (
        idempotency_keys.created_at < now() - make_interval(secs => $17::float8)
        OR EXISTS (SELECT FROM outcomes WHERE outcomes.job_id = idempotency_keys.job_id
                   AND outcomes.status <> {target(Event.COMPLETED)})
    )
    RETURNING job_id
), """ + _INSERT_JOB.format(only_if="FROM first_use")

_RETRY_ONCE = "WITH " + _INSERT_JOB.format(only_if="ON CONFLICT (retry_of) WHERE retry_of IS NOT NULL DO NOTHING")


def _job_values(job: NewJob) -> tuple[object, ...]:
    return (
        job.id,
        job.tenant_id,
        job.model,
        job.input,
        job.provider,
        job.priority,
        job.webhook_url,
        job.deadline_seconds,
        job.metadata,
        list(job.tags),
        job.retry_of,
        RANK[job.priority],
        job.callback_format,
        job.hints,
    )


async def register(db: Database, job: NewJob) -> datetime:
    """Durable when it returns. Returns when the job was created."""
    row = await db.fetchrow(_REGISTER, *_job_values(job))
    assert row is not None
    return row["created_at"]  # type: ignore[no-any-return]


async def register_once(
    db: Database, job: NewJob, key: str, fingerprint: bytes, lasts_seconds: float | None = None
) -> datetime | None:
    """As `register`, under an idempotency key. None: the key was used before."""
    row = await db.fetchrow(_REGISTER_ONCE, *_job_values(job), key, fingerprint, lasts_seconds)
    return row["created_at"] if row else None


async def register_retry(db: Database, job: NewJob) -> datetime | None:
    """As `register`, for a job that repeats `retry_of`. None: that was repeated before."""
    row = await db.fetchrow(_RETRY_ONCE, *_job_values(job))
    return row["created_at"] if row else None


async def find_retry(db: Database, job: NewJob) -> UUID | None:
    """The job that repeats `retry_of`."""
    row = await db.fetchrow("SELECT id FROM jobs WHERE retry_of = $1", job.retry_of)
    return row["id"] if row else None


async def find_idempotency_key(db: Database, tenant_id: UUID, key: str) -> tuple[UUID, bytes] | None:
    row = await db.fetchrow(
        "SELECT job_id, fingerprint FROM idempotency_keys WHERE tenant_id = $1 AND key = $2", tenant_id, key
    )
    return (row["job_id"], row["fingerprint"]) if row else None


_DUE = f"duty = '{Duty.SUBMIT}' AND due_at <= now() AND (deadline_at IS NULL OR deadline_at > now())"

# Of a paused provider one job at a time is taken, the probe: updating the pause's row decides who takes it.
_CLAIM = f"""
WITH probe AS (
    UPDATE provider_pauses SET probe_at = now() + make_interval(secs => {PROBE_SECONDS})
    WHERE provider = $3 AND probe_at <= now() AND EXISTS (SELECT FROM live_jobs WHERE {_DUE})
    RETURNING provider
), paused AS (
    SELECT provider FROM provider_pauses WHERE provider = $3
), picked AS (
    SELECT job_id FROM live_jobs WHERE {_DUE}
    ORDER BY rank, due_at
    LIMIT CASE WHEN EXISTS (SELECT FROM paused) THEN (SELECT count(*) FROM probe) ELSE $1 END
    FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE live_jobs
    SET duty = '{Duty.ANSWER}', attempt = live_jobs.attempt + 1, due_at = now() + make_interval(secs => $2)
    FROM picked WHERE live_jobs.job_id = picked.job_id
    RETURNING live_jobs.job_id, live_jobs.attempt, live_jobs.status, live_jobs.refused_seconds
), tried AS (
    INSERT INTO attempts (job_id, number, provider, state)
    SELECT job_id, attempt, $3, '{AttemptState.SUBMITTING}' FROM moved
), repeated AS (
    UPDATE attempts SET resubmitted_at = clock_timestamp()
    FROM moved
    WHERE moved.attempt > 1 AND attempts.job_id = moved.job_id AND attempts.number = moved.attempt - 1
      AND attempts.state = '{AttemptState.ABANDONED}'
), noted AS (
    INSERT INTO job_events (job_id, event, status, attempt)
    SELECT job_id, '{AttemptState.SUBMITTING}', status, attempt FROM moved
)
SELECT moved.job_id, moved.attempt, jobs.model, jobs.input, jobs.priority, moved.refused_seconds,
       EXISTS (SELECT FROM probe) AS probe,
       jobs.hints, extract(epoch FROM now() - jobs.created_at)::float8 AS waited
FROM moved JOIN jobs ON jobs.id = moved.job_id
"""


async def claim(db: Database, limit: int, lease_seconds: float, provider: str) -> list[Claim]:
    """Take up to `limit` jobs for submission. The attempts are committed before anybody is called."""
    rows = await db.fetch(_CLAIM, limit, lease_seconds, provider)
    return [Claim(**dict(row)) for row in rows]


# The live row is locked before the attempt, in the order in which `settle` locks them: the empty
# condition on `moved` makes that so, and two of these statements cannot wait for each other.
_RECORD_ANSWERS = f"""
WITH said AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::int4[], $3::text[], $4::text[], $5::float8[], $6::text[], $7::text[],
        $8::text[], $9::text[], $10::text[], $11::int4[], $12::int2[], $13::text[]
    ) AS said (job_id, attempt, state, duty, delay, request_id, gateway_id,
               response_url, status_url, cancel_url, queue_position, http_status, error)
), moved AS (
    UPDATE live_jobs
    SET status = CASE WHEN said.state = '{AttemptState.SUBMITTED}' AND {guard(Event.ACCEPTED, "live_jobs.status")}
                      THEN {target(Event.ACCEPTED)} ELSE live_jobs.status END,
        duty = CASE WHEN said.duty = '{Duty.SUBMIT}' AND live_jobs.cancel_requested_at IS NOT NULL
                    THEN '{Duty.CLOSE}' ELSE said.duty END,
        queue_position = said.queue_position,
        refused_seconds = live_jobs.refused_seconds
                          + CASE WHEN said.state = '{AttemptState.REFUSED}' THEN said.delay ELSE 0 END,
        due_at = CASE WHEN live_jobs.cancel_requested_at IS NOT NULL AND said.duty <> '{Duty.SETTLE}' THEN now()
                      ELSE least(now() + make_interval(secs => said.delay), live_jobs.deadline_at) END
    FROM said
    WHERE live_jobs.job_id = said.job_id AND live_jobs.attempt = said.attempt
      AND (live_jobs.duty IN ('{Duty.ANSWER}', '{Duty.SETTLE}')
           -- It was given up, and is not submitted again yet: the provider has it after all.
           OR said.state = '{AttemptState.SUBMITTED}' AND live_jobs.duty IN ('{Duty.SUBMIT}', '{Duty.CLOSE}'))
    RETURNING live_jobs.job_id, live_jobs.attempt, live_jobs.status, said.state, said.error,
              live_jobs.cancel_requested_at
), tried AS (
    UPDATE attempts
    SET state = CASE WHEN attempts.state IN ('{AttemptState.SUBMITTING}', '{AttemptState.AMBIGUOUS}')
                          OR EXISTS (SELECT FROM moved WHERE moved.job_id = said.job_id AND moved.attempt = said.attempt
                                     AND attempts.state = '{AttemptState.ABANDONED}')
                     THEN said.state ELSE attempts.state END,
        provider_request_id = coalesce(attempts.provider_request_id, said.request_id),
        gateway_request_id = coalesce(attempts.gateway_request_id, nullif(said.gateway_id, said.request_id)),
        response_url = said.response_url,
        status_url = said.status_url,
        cancel_url = said.cancel_url,
        http_status = coalesce(attempts.http_status, said.http_status),
        error = coalesce(attempts.error, said.error),
        answered_at = clock_timestamp(),
        -- The job ended without this attempt, and only now is it known by what name to stop it.
        ended_at = CASE WHEN attempts.state = '{AttemptState.SUPERSEDED}' AND attempts.provider_request_id IS NULL
                             AND said.request_id IS NOT NULL THEN NULL ELSE attempts.ended_at END
    FROM said
    WHERE attempts.job_id = said.job_id AND attempts.number = said.attempt
      AND (SELECT count(*) FROM moved) >= 0
), noted AS (
    INSERT INTO job_events (job_id, event, status, attempt, note)
    SELECT job_id, CASE WHEN state = '{AttemptState.SUBMITTED}' THEN '{Event.ACCEPTED}' ELSE state END,
           status, attempt, error
    FROM moved
)
SELECT job_id, attempt FROM moved WHERE cancel_requested_at IS NOT NULL
"""


async def record_answers(db: Database, answers: Sequence[Answer]) -> list[tuple[UUID, int]]:
    """Keep what came of many submissions. Returns those that somebody asked to cancel meanwhile."""
    columns = zip(
        *(
            (
                answer.job_id,
                answer.attempt,
                answer.state.value,
                answer.duty.value,
                answer.delay,
                answer.provider_request_id,
                answer.gateway_request_id,
                answer.response_url,
                answer.status_url,
                answer.cancel_url,
                answer.queue_position,
                answer.http_status,
                answer.error,
            )
            for answer in answers
        ),
        strict=True,
    )
    rows = await db.fetch(_RECORD_ANSWERS, *(list(column) for column in columns))
    return [(row["job_id"], row["attempt"]) for row in rows]
