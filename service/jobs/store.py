"""Statements that bring a job on its way, each of them one round trip.

`register` writes a job, `claim` takes many for submission, `record_answers` keeps what the provider said
to many submissions; `endings.py` ends one, `due.py` looks after those that are late, and `runs.py` has what GPU workers
do. A status is moved only in these four, by guards made from `lifecycle.MOVES`; no row coming back is an ordinary
answer: the news was late.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from service.db import Database, Row
from service.jobs.facts import Answer, Claim, NewJob
from service.jobs.guards import guard, target
from service.jobs.hints import START_TIMEOUT
from service.jobs.lifecycle import AttemptState, Duty, Event
from service.jobs.pauses import PROBE_SECONDS
from service.models import LABEL_EXCERPT
from service.retention.parts import HOLD

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

# Jobs of a lower rank are claimed first; fal knows the same two priorities.
RANK = {"normal": 0, "low": 1}

# How an input names a file that came in it (see artifacts/inputs.py).
INPUT_FILE = r"""'"\\u0000([0-9a-f]{64}) '"""

# What of a job is found by its tags and its metadata. A number is written as it compares: 5.0 as 5.
MARKS = f"""
    SELECT 'tag' AS name, left(tag, {LABEL_EXCERPT}) AS value FROM unnest(job.tags) AS tag
    UNION
    SELECT left('metadata.' || key, {LABEL_EXCERPT}),
           left(CASE jsonb_typeof(value) WHEN 'number' THEN trim_scale(value::numeric)::text
                                         WHEN 'null' THEN 'null' ELSE value #>> '{{}}' END, {LABEL_EXCERPT})
    FROM jsonb_each(job.metadata) WHERE jsonb_typeof(value) NOT IN ('object', 'array')
"""

# What most jobs have none of: marks, a hold, files that came in the input.
_EXTRAS = f""", mark AS (
    INSERT INTO job_marks (tenant_id, name, value, job_id)
    SELECT job.tenant_id, mark.name, mark.value, job.id FROM job CROSS JOIN LATERAL ({MARKS}) AS mark
), hold AS (
    INSERT INTO holds (job_id) SELECT id FROM job WHERE '{HOLD}' = ANY (tags)
), input_file AS (
    INSERT INTO input_files (job_id, sha256)
    SELECT DISTINCT job_id, found[1] FROM asked, regexp_matches(body, {INPUT_FILE}, 'g') AS found
    WHERE strpos(body, '\\u0000') > 0
)
"""

_INSERT_JOB = f"""
job AS (
    INSERT INTO jobs (id, tenant_id, model, provider, priority, webhook_url, deadline_at, metadata, tags,
                      retry_of, callback_format, hints, asked_provider)
    {{rows}}
    RETURNING id, tenant_id, model, provider, asked_provider, deadline_at, created_at, tags, metadata, hints, priority,
              retry_of
), asked AS (
    INSERT INTO inputs ({{columns}}) SELECT job.id, {{input}} RETURNING job_id, body
), live AS (
    INSERT INTO live_jobs (job_id, tenant_id, status, duty, rank, deadline_at, start_by, provider, fallback,
                           spill_seconds, reason)
    SELECT id, tenant_id, {target(Event.REGISTERED)}, '{Duty.SUBMIT}', {{rank}}, deadline_at,
           created_at + make_interval(secs => (hints ->> '{START_TIMEOUT}')::float8),
           provider, {{route}}
), event AS (
    INSERT INTO job_events (job_id, event, status, attempt)
    SELECT id, '{Event.REGISTERED}', {target(Event.REGISTERED)}, 0 FROM job
){{extras}}
SELECT id, created_at FROM job
"""

_GIVEN = """SELECT $1::uuid, $2::uuid, $3::text, $5::text, $6::text, $7::text,
           now() + make_interval(secs => $8::float8), $9::jsonb, $10::text[], $11::uuid, $13::text, $14::jsonb,
           $15::text
    """
_GIVEN_ROUTE = "$16::text, $17::float8, $18::text FROM job"

_INPUT = "job_id, body, sha256, size"
_GIVEN_INPUT = "$4::text, $19::text, $20::int8 FROM job"


def _insert_one(only_if: str = "", extras: str = _EXTRAS, columns: str = _INPUT, given: str = _GIVEN_INPUT) -> str:
    return _INSERT_JOB.format(
        rows=_GIVEN + only_if, columns=columns, input=given, rank="$12::smallint", route=_GIVEN_ROUTE, extras=extras
    )


# PostgreSQL prepares each part of a statement, be there a row for it or not, so jobs without extras have their own.
_REGISTER = "WITH " + _insert_one()
_REGISTER_PLAIN = "WITH " + _insert_one(extras="", columns="job_id, body", given="$4::text FROM job")

# A key that lasts only some seconds is used anew after them, and before them if the job that it made has failed.
_OVER = f"""{{lasts}} IS NOT NULL AND (
        idempotency_keys.created_at < now() - make_interval(secs => {{lasts}})
        OR EXISTS (SELECT FROM outcomes WHERE outcomes.job_id = idempotency_keys.job_id
                   AND outcomes.status <> {target(Event.COMPLETED)})
    )"""
_REGISTER_ONCE = f"""
WITH first_use AS (
    INSERT INTO idempotency_keys (tenant_id, key, fingerprint, job_id)
    VALUES ($2::uuid, $21::text, $22::bytea, $1::uuid)
    ON CONFLICT (tenant_id, key) DO UPDATE SET job_id = excluded.job_id, created_at = excluded.created_at
    WHERE {_OVER.format(lasts="$23::float8")}
    RETURNING job_id
), """ + _insert_one("FROM first_use")

_IF_NOT_RETRIED = "ON CONFLICT (retry_of) WHERE retry_of IS NOT NULL DO NOTHING"
_OF_THE_OLD = "$4::text, old.sha256, old.size FROM job LEFT JOIN inputs AS old ON old.job_id = job.retry_of"
_RETRY_ONCE = "WITH " + _insert_one(_IF_NOT_RETRIED, given=_OF_THE_OLD)

# As `routing.choose` has it, but that nobody's pauses and waits are looked at: the sweep does that.
_RULE = """LEFT JOIN LATERAL (
        SELECT prefer, alone, routes.spill_seconds FROM routes
        WHERE routes.tenant_id = {job}.tenant_id AND routes.model IN ({job}.model, '*')
        ORDER BY routes.model = '*' LIMIT 1
    ) AS rule ON true"""

# $1 the jobs, $2 the IDs of the new ones
_RETRY_MANY = "WITH " + _INSERT_JOB.format(
    extras=_EXTRAS,
    rank=f"CASE priority WHEN 'low' THEN {RANK['low']} ELSE {RANK['normal']} END",
    route=f"""CASE WHEN asked_provider IS NOT NULL OR rule.alone THEN NULL
                WHEN rule.prefer = 'gpu' THEN 'fal' WHEN rule.prefer = 'fal' THEN 'gpu' END,
           CASE WHEN asked_provider IS NULL THEN rule.spill_seconds END,
           CASE WHEN asked_provider IS NOT NULL THEN 'its client asked for it'
                ELSE 'a rule prefers ' || rule.prefer END
    FROM job {_RULE.format(job="job")}""",
    columns=_INPUT,
    input="old.body, old.sha256, old.size FROM job JOIN inputs AS old ON old.job_id = job.retry_of",
    rows=f"""SELECT asked.new_id, old.tenant_id, old.model,
           CASE WHEN rule.alone THEN rule.prefer ELSE coalesce(old.asked_provider, rule.prefer, 'fal') END,
           old.priority, old.webhook_url,
           now() + (old.deadline_at - old.created_at), old.metadata, old.tags, old.id, old.callback_format, old.hints,
           old.asked_provider
    FROM unnest($1::uuid[], $2::uuid[]) AS asked (old_id, new_id)
    JOIN jobs AS old ON old.id = asked.old_id JOIN outcomes ON outcomes.job_id = old.id
    {_RULE.format(job="old")}
    WHERE outcomes.status IN ({target(Event.FAILED)}, {target(Event.CANCELLED)})
      AND EXISTS (SELECT FROM inputs WHERE inputs.job_id = old.id)
    ORDER BY asked.old_id
    {_IF_NOT_RETRIED}""",
)


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
        job.asked_provider,
        job.fallback,
        job.spill_seconds,
        job.reason,
    )


async def register(db: Database, job: NewJob) -> datetime:
    """Durable when it returns. Returns when the job was created."""
    if job.tags or job.metadata != "{}" or "\\u0000" in job.input:
        row = await db.fetchrow_together(_REGISTER, *_job_values(job), job.input_sha256, job.input_size)
    else:
        row = await db.fetchrow_together(_REGISTER_PLAIN, *_job_values(job))
    assert row is not None
    return row["created_at"]  # type: ignore[no-any-return]


async def register_once(
    db: Database, job: NewJob, key: str, fingerprint: bytes, lasts_seconds: float | None = None
) -> datetime | None:
    """As `register`, under an idempotency key. None: the key was used before."""
    values = (*_job_values(job), job.input_sha256, job.input_size, key, fingerprint, lasts_seconds)
    row = await db.fetchrow_together(_REGISTER_ONCE, *values, lock=(job.tenant_id, key))
    return row["created_at"] if row else None


async def register_retry(db: Database, job: NewJob) -> datetime | None:
    """As `register`, for a job that repeats `retry_of`. None: that was repeated before."""
    row = await db.fetchrow(_RETRY_ONCE, *_job_values(job))
    return row["created_at"] if row else None


async def register_retries(connection: "PoolConnectionProxy[Row]", asked: Sequence[tuple[UUID, UUID]]) -> None:
    """Repeat many jobs, each as the job of the ID beside it, if it failed or was cancelled and was not repeated yet."""
    await connection.execute(_RETRY_MANY, [old for old, _ in asked], [new for _, new in asked])


async def find_retry(db: Database, job: NewJob) -> UUID | None:
    """The job that repeats `retry_of`."""
    row = await db.fetchrow("SELECT id FROM jobs WHERE retry_of = $1", job.retry_of)
    return row["id"] if row else None


_FIND_KEY = f"""
SELECT job_id, fingerprint FROM idempotency_keys
WHERE tenant_id = $1 AND key = $2 AND NOT ({_OVER.format(lasts="$3::float8")})
"""


async def find_idempotency_key(
    db: Database, tenant_id: UUID, key: str, lasts_seconds: float | None = None
) -> tuple[UUID, bytes] | None:
    row = await db.fetchrow(_FIND_KEY, tenant_id, key, lasts_seconds)
    return (row["job_id"], row["fingerprint"]) if row else None


_DUE = (
    f"duty = '{Duty.SUBMIT}' AND provider = $3 AND due_at <= now()"
    " AND (deadline_at IS NULL OR deadline_at > now()) AND (start_by IS NULL OR start_by > now())"
)

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
    RETURNING live_jobs.job_id, live_jobs.attempt, live_jobs.status, live_jobs.refused_seconds, live_jobs.fallback,
              live_jobs.spill_seconds, live_jobs.reason
), tried AS (
    INSERT INTO attempts (job_id, number, provider, state, reason)
    SELECT job_id, attempt, $3, '{AttemptState.SUBMITTING}', reason FROM moved
), repeated AS (
    UPDATE attempts SET resubmitted_at = clock_timestamp()
    FROM moved
    WHERE moved.attempt > 1 AND attempts.job_id = moved.job_id AND attempts.number = moved.attempt - 1
      -- Were the state compared outside a CASE, a plan that was made before there were attempts would walk them all.
      AND CASE WHEN attempts.state = '{AttemptState.ABANDONED}' THEN true ELSE false END
), noted AS (
    INSERT INTO job_events (job_id, event, status, attempt)
    SELECT job_id, '{AttemptState.SUBMITTING}', status, attempt FROM moved
)
SELECT moved.job_id, moved.attempt, jobs.model, jobs.priority, moved.refused_seconds,
       (SELECT body FROM inputs WHERE inputs.job_id = moved.job_id) AS input,
       EXISTS (SELECT FROM probe) AS probe,
       jobs.hints, extract(epoch FROM now() - jobs.created_at)::float8 AS waited, moved.fallback, moved.spill_seconds
FROM moved JOIN jobs ON jobs.id = moved.job_id
"""


async def claim(db: Database, limit: int, lease_seconds: float, provider: str) -> list[Claim]:
    """Take up to `limit` jobs for submission. The attempts are committed before anybody is called."""
    rows = await db.fetch(_CLAIM, limit, lease_seconds, provider)
    return [Claim(**dict(row)) for row in rows]


# The live rows are locked before the attempts, and in their order, as `settle` locks them: the empty conditions on
# `live` and on `moved` make that so, and two of these transactions cannot wait for each other.
_RECORD_ANSWERS = f"""
WITH said AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::int4[], $3::text[], $4::text[], $5::float8[], $6::text[], $7::text[],
        $8::text[], $9::text[], $10::text[], $11::int4[], $12::int2[], $13::text[], $14::text[]
    ) AS said (job_id, attempt, state, duty, delay, request_id, gateway_id,
               response_url, status_url, cancel_url, queue_position, http_status, error, turn)
    -- This limits nothing; the planner takes it for a tenth of the rows. With more of them, a plan that was made before
    -- there were attempts walks all attempts.
    LIMIT cardinality($1::uuid[])
), live AS (
    SELECT job_id FROM live_jobs WHERE job_id = ANY ($1::uuid[]) ORDER BY job_id FOR UPDATE
), moved AS (
    UPDATE live_jobs
    SET status = CASE WHEN said.state = '{AttemptState.SUBMITTED}' AND {guard(Event.ACCEPTED, "live_jobs.status")}
                      THEN {target(Event.ACCEPTED)} ELSE live_jobs.status END,
        duty = CASE WHEN said.duty = '{Duty.SUBMIT}' AND live_jobs.cancel_requested_at IS NOT NULL
                    THEN '{Duty.CLOSE}' ELSE said.duty END,
        queue_position = CASE WHEN live_jobs.run IS NULL THEN said.queue_position END,
        provider = CASE WHEN said.turn IS NULL THEN live_jobs.provider
                        ELSE coalesce(live_jobs.fallback, live_jobs.provider) END,
        fallback = CASE WHEN said.turn IS NULL OR live_jobs.fallback IS NULL THEN live_jobs.fallback
                        ELSE live_jobs.provider END,
        reason = coalesce(said.turn, live_jobs.reason),
        refused_seconds = live_jobs.refused_seconds
                          + CASE WHEN said.state = '{AttemptState.REFUSED}' THEN said.delay ELSE 0 END,
        due_at = CASE WHEN live_jobs.cancel_requested_at IS NOT NULL AND said.duty <> '{Duty.SETTLE}' THEN now()
                      ELSE least(now() + make_interval(secs => said.delay), live_jobs.deadline_at) END
    FROM said
    WHERE live_jobs.job_id = said.job_id AND live_jobs.attempt = said.attempt
      AND (live_jobs.duty IN ('{Duty.ANSWER}', '{Duty.SETTLE}')
           -- It was given up, and is not submitted again yet: the provider has it after all.
           OR said.state = '{AttemptState.SUBMITTED}' AND live_jobs.duty IN ('{Duty.SUBMIT}', '{Duty.CLOSE}'))
      AND (SELECT count(*) FROM live) >= 0
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
                answer.turn,
            )
            for answer in answers
        ),
        strict=True,
    )
    rows = await db.fetch(_RECORD_ANSWERS, *(list(column) for column in columns))
    return [(row["job_id"], row["attempt"]) for row in rows]
