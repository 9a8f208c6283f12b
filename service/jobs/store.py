"""Every statement that changes a job, each of them one round trip.

`register` writes a job, `claim` takes many for submission, `record_answers` keeps what the provider said
to many submissions, `settle` ends one. A status is moved only here, by a guard made from `lifecycle.MOVES`;
no row coming back is an ordinary answer: the news was late.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from service.catalog.base import Lifted
from service.db import Database, Row
from service.jobs.facts import Answer, Claim, Ending, Evidence, NewJob
from service.jobs.lifecycle import MOVES, OPEN_ATTEMPTS, AttemptState, Duty, Event
from service.jsontext import encode

# Jobs of a lower rank are claimed first; fal knows the same two priorities.
RANK = {"normal": 0, "low": 1}

CHANNEL = "job_changed"

# A searchable excerpt; the whole text is in the outcome's body.
TEXT_EXCERPT = 8_000
NAME_EXCERPT = 200


def guard(event: Event, column: str = "status") -> str:
    return f"{column} IN ({', '.join(repr(source.value) for source in MOVES[event].sources)})"


def target(event: Event) -> str:
    return repr(MOVES[event].target.value)


_INSERT_JOB = f"""
job AS (
    INSERT INTO jobs (id, tenant_id, model, input, provider, priority, webhook_url, deadline_at, metadata, tags,
                      retry_of)
    SELECT $1::uuid, $2::uuid, $3::text, $4::text, $5::text, $6::text, $7::text,
           now() + make_interval(secs => $8::float8), $9::jsonb, $10::text[], $11::uuid
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

_REGISTER_ONCE = """
WITH first_use AS (
    INSERT INTO idempotency_keys (tenant_id, key, fingerprint, job_id)
    VALUES ($2::uuid, $13::text, $14::bytea, $1::uuid)
    ON CONFLICT DO NOTHING
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
    )


async def register(db: Database, job: NewJob) -> datetime:
    """Durable when it returns. Returns when the job was created."""
    row = await db.fetchrow(_REGISTER, *_job_values(job))
    assert row is not None
    return row["created_at"]  # type: ignore[no-any-return]


async def register_once(db: Database, job: NewJob, key: str, fingerprint: bytes) -> datetime | None:
    """As `register`, under an idempotency key. None: the key was used before."""
    row = await db.fetchrow(_REGISTER_ONCE, *_job_values(job), key, fingerprint)
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


_CLAIM = f"""
WITH picked AS (
    SELECT job_id FROM live_jobs
    WHERE duty = '{Duty.SUBMIT}' AND due_at <= now() AND (deadline_at IS NULL OR deadline_at > now())
    ORDER BY rank, due_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE live_jobs
    SET duty = '{Duty.ANSWER}', attempt = live_jobs.attempt + 1, due_at = now() + make_interval(secs => $2)
    FROM picked WHERE live_jobs.job_id = picked.job_id
    RETURNING live_jobs.job_id, live_jobs.attempt
), tried AS (
    INSERT INTO attempts (job_id, number, provider, state)
    SELECT job_id, attempt, $3, '{AttemptState.SUBMITTING}' FROM moved
)
SELECT moved.job_id, moved.attempt, jobs.model, jobs.input, jobs.priority,
       coalesce((SELECT extract(epoch FROM now() - first.claimed_at) FROM attempts first
                 WHERE first.job_id = moved.job_id AND first.number = 1), 0)::float8 AS age
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
        due_at = CASE WHEN live_jobs.cancel_requested_at IS NOT NULL AND said.duty <> '{Duty.SETTLE}' THEN now()
                      ELSE least(now() + make_interval(secs => said.delay), live_jobs.deadline_at) END
    FROM said
    WHERE live_jobs.job_id = said.job_id AND live_jobs.attempt = said.attempt
      AND live_jobs.duty IN ('{Duty.ANSWER}', '{Duty.SETTLE}')
    RETURNING live_jobs.job_id, live_jobs.attempt, live_jobs.status, said.state, said.error,
              live_jobs.cancel_requested_at
), tried AS (
    UPDATE attempts
    SET state = CASE WHEN attempts.state IN ('{AttemptState.SUBMITTING}', '{AttemptState.AMBIGUOUS}')
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


_OPEN = ", ".join(repr(state.value) for state in OPEN_ATTEMPTS)

# $1 job, $2 attempt, $3 source, $4 ended status, $5 http status, $6 body, $7 error type, $8 error,
# $9 text, $10 seed, $11 usage, $12 timings, $13 age, $14 request ID, $15 gateway ID,
# $16 evidence headers, $17 evidence body, $18 evidence http status
#
# First the live row is locked and then the attempt, so that the request ID is compared with what a submit
# answer that was being written at the same time has put there.
_SETTLE = f"""
WITH owner AS (
    SELECT job_id FROM live_jobs WHERE job_id = $1 AND {{guard}} FOR UPDATE
), tried AS (
    SELECT attempts.job_id FROM attempts JOIN owner ON owner.job_id = attempts.job_id
    WHERE attempts.number = $2
      AND ($14::text IS NULL OR attempts.provider_request_id IS NULL OR attempts.provider_request_id = $14)
    FOR UPDATE OF attempts
), ended AS (
    DELETE FROM live_jobs USING tried WHERE live_jobs.job_id = tried.job_id RETURNING live_jobs.*
), outcome AS (
    INSERT INTO outcomes (job_id, tenant_id, status, attempt, source, http_status, body, error_type, error, text,
                          seed, usage, model_timings, started_at, cancel_requested_at, received_at, completed_at)
    SELECT job_id, tenant_id, $4::text, $2::int4, $3::text, $5::int2, $6::bytea, $7::text, $8::text, $9::text,
           $10::numeric, $11::jsonb, $12::jsonb, started_at, cancel_requested_at,
           clock_timestamp() - make_interval(secs => $13::float8), clock_timestamp()
    FROM ended
), attempt AS (
    UPDATE attempts
    SET state = $4::text, ended_at = clock_timestamp(), http_status = $5::int2, error = $8::text,
        provider_request_id = coalesce(provider_request_id, $14::text),
        gateway_request_id = coalesce(nullif($15::text, coalesce(provider_request_id, $14::text)), gateway_request_id)
    FROM ended WHERE attempts.job_id = ended.job_id AND attempts.number = $2
), others AS (
    UPDATE attempts
    SET state = '{AttemptState.SUPERSEDED}',
        ended_at = CASE WHEN provider_request_id IS NULL THEN clock_timestamp() END
    FROM ended
    WHERE ended.attempt > 1 AND attempts.job_id = ended.job_id AND attempts.number <> $2
      AND attempts.ended_at IS NULL AND attempts.state IN ({_OPEN})
    RETURNING attempts.ended_at
), event AS (
    INSERT INTO job_events (job_id, event, status, attempt, note)
    SELECT job_id, $4::text, $4::text, $2::int4, coalesce($8::text, $3::text) FROM ended
), report AS (
    INSERT INTO reports (job_id, attempt, source, received_at, http_status, headers, body, verdict)
    SELECT job_id, $2::int4, $3::text, clock_timestamp() - make_interval(secs => $13::float8), $18::int2,
           $16::jsonb, $17::bytea, 'applied'
    FROM ended WHERE $17::bytea IS NOT NULL
){{files}}
SELECT EXISTS (SELECT FROM others WHERE ended_at IS NULL) AS to_stop,
       (SELECT pg_notify('{{channel}}', waiters.job_id::text) FROM waiters WHERE waiters.job_id = ended.job_id) AS told
FROM ended
"""

_FILES = """, file AS (
    INSERT INTO artifacts (job_id, kind, index, label, source_url, content_type, file_name, file_size, width, height)
    SELECT ended.job_id, f.* FROM ended, unnest(
        $19::text[], $20::int2[], $21::text[], $22::text[], $23::text[], $24::text[], $25::int8[], $26::int4[],
        $27::int4[]
    ) AS f
    RETURNING job_id, kind, index
), copy AS (
    INSERT INTO copies (job_id, kind, index) SELECT job_id, kind, index FROM file
)"""


def _settle_statement(event: Event, *, files: bool) -> str:
    return _SETTLE.format(guard=guard(event, "live_jobs.status"), files=_FILES if files else "", channel=CHANNEL)


_SETTLE_STATEMENTS = {
    (event, files): _settle_statement(event, files=files)
    for event in (Event.COMPLETED, Event.FAILED, Event.CANCELLED)
    for files in (False, True)
}


def storable(value: str | None, limit: int | None = None) -> str | None:
    """What a text column can hold: NUL and lone surrogates become U+FFFD. The body keeps them."""
    if value is None:
        return None
    value = value[:limit] if limit else value
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


async def settle(
    db: Database, job_id: UUID, attempt: int, ending: Ending, evidence: Evidence | None, source: str, lifted: Lifted
) -> Row | None:
    """End a job in one statement, with its files and evidence. None: it had ended, or this is not its news."""
    values: list[object] = [
        job_id,
        attempt,
        source,
        MOVES[ending.event].target.value,
        ending.http_status,
        ending.body,
        storable(ending.error_type, NAME_EXCERPT),
        storable(ending.error, TEXT_EXCERPT),
        storable(lifted.text, TEXT_EXCERPT),
        lifted.seed,
        encode(lifted.usage).decode(),
        encode(lifted.timings).decode(),
        evidence.age if evidence else 0.0,
        evidence.request_id if evidence else None,
        storable(evidence.gateway_request_id, NAME_EXCERPT) if evidence else None,
        evidence.headers if evidence else "{}",
        evidence.body if evidence else None,
        evidence.http_status if evidence else None,
    ]
    if lifted.files:
        rows = [
            (
                f.kind,
                f.index,
                storable(f.label),
                storable(f.url),
                storable(f.content_type),
                storable(f.file_name),
                f.file_size,
                f.width,
                f.height,
            )
            for f in lifted.files
        ]
        values.extend(list(column) for column in zip(*rows, strict=True))
    return await db.fetchrow(_SETTLE_STATEMENTS[ending.event, bool(lifted.files)], *values)


# $1 job, $2 ended status, $3 http status, $4 body, $5 error type, $6 error, $7 whether the provider stopped it,
# $8 whether the provider was asked to
_CLOSE = f"""
WITH ended AS (
    DELETE FROM live_jobs WHERE job_id = $1 AND {{guard}} {{condition}} RETURNING *
), outcome AS (
    INSERT INTO outcomes (job_id, tenant_id, status, attempt, source, http_status, body, error_type, error,
                          usage, model_timings, started_at, cancel_requested_at, received_at, completed_at)
    SELECT job_id, tenant_id, $2::text, attempt, 'roundtrip', $3::int2, $4::bytea, $5::text, $6::text,
           '{{{{}}}}', '{{{{}}}}', started_at, cancel_requested_at, clock_timestamp(), clock_timestamp()
    FROM ended
), tried AS (
    UPDATE attempts
    SET state = CASE WHEN $7::bool AND attempts.number = ended.attempt THEN $2::text
                     ELSE '{AttemptState.SUPERSEDED}' END,
        ended_at = CASE WHEN ($7::bool OR $8::bool) AND attempts.number = ended.attempt OR provider_request_id IS NULL
                        THEN clock_timestamp() END
    FROM ended
    WHERE attempts.job_id = ended.job_id AND attempts.ended_at IS NULL AND attempts.state IN ({_OPEN})
), event AS (
    INSERT INTO job_events (job_id, event, status, attempt, note)
    SELECT job_id, $2::text, $2::text, attempt, $6::text FROM ended
)
SELECT (SELECT pg_notify('{CHANNEL}', waiters.job_id::text) FROM waiters WHERE waiters.job_id = ended.job_id)
FROM ended
"""

# Not while a submission is on its way: what comes back from it must find the job.
# A cancel that was asked for is what ends the job then, whatever else could.
_UNSUBMITTED = f"AND duty IN ('{Duty.SUBMIT}', '{Duty.CLOSE}')"
_CLOSE_UNSUBMITTED = {
    Event.FAILED: _CLOSE.format(guard=guard(Event.FAILED), condition=f"{_UNSUBMITTED} AND cancel_requested_at IS NULL"),
    Event.CANCELLED: _CLOSE.format(guard=guard(Event.CANCELLED), condition=_UNSUBMITTED),
}
_CLOSE_ANYWAY = {event: _CLOSE.format(guard=guard(event), condition="") for event in (Event.FAILED, Event.CANCELLED)}


async def close(
    db: Database,
    job_id: UUID,
    ending: Ending,
    *,
    even_if_submitted: bool = False,
    stopped: bool = False,
    asked: bool = False,
) -> bool:
    """End a job by our own decision: a cancel, a deadline, a give-up. False: it had moved on.

    Unless the provider has `stopped` it, or was `asked` to, an attempt that it may have is left to be stopped.
    """
    statements = _CLOSE_ANYWAY if even_if_submitted else _CLOSE_UNSUBMITTED
    row = await db.fetchrow(
        statements[ending.event],
        job_id,
        MOVES[ending.event].target.value,
        ending.http_status,
        ending.body,
        ending.error_type,
        ending.error,
        stopped,
        asked,
    )
    return row is not None


_CANCEL = f"""
WITH asked AS (
    UPDATE live_jobs
    SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()),
        duty = CASE WHEN duty = '{Duty.SUBMIT}' THEN '{Duty.CLOSE}' ELSE duty END,
        due_at = CASE WHEN duty IN ('{Duty.SUBMIT}', '{Duty.REPORT}') THEN now() ELSE due_at END
    WHERE job_id = $1
    RETURNING job_id, status, attempt, duty
), event AS (
    INSERT INTO job_events (job_id, event, status, attempt)
    SELECT job_id, 'cancel_requested', status, attempt FROM asked
)
SELECT duty FROM asked
"""


async def request_cancel(db: Database, job_id: UUID) -> Duty | None:
    """Note that somebody wants the job stopped. Returns what is owed to it now; None: it has ended."""
    row = await db.fetchrow(_CANCEL, job_id)
    return Duty(row["duty"]) if row else None


_FILE_REPORT = """
WITH known AS (
    SELECT $11::text AS verdict WHERE $11::text IS NOT NULL
), judged AS (
    SELECT coalesce(
        (SELECT verdict FROM known),
        (SELECT CASE
            WHEN attempts.provider_request_id <> $8 THEN 'foreign'
            WHEN outcomes.source = 'roundtrip' THEN 'late'
            WHEN outcomes.attempt <> $2 THEN 'late'
            WHEN outcomes.http_status = $9 AND outcomes.body = $10 THEN 'duplicate'
            ELSE 'conflict' END
         FROM attempts JOIN outcomes ON outcomes.job_id = attempts.job_id
         WHERE attempts.job_id = $1 AND attempts.number = $2),
        (SELECT 'foreign' FROM attempts WHERE job_id = $1 AND number = $2),
        'unknown') AS verdict
)
INSERT INTO reports (job_id, attempt, source, received_at, http_status, headers, body, verdict)
SELECT $1, $2, $3, clock_timestamp() - make_interval(secs => $4), $5, $6::jsonb, $7, verdict FROM judged
RETURNING verdict
"""


async def file_report(
    db: Database, job_id: UUID, attempt: int, evidence: Evidence, ending: Ending | None, verdict: str | None = None
) -> str:
    """Keep evidence that ended nothing, with what it amounts to. Returns the verdict."""
    row = await db.fetchrow(
        _FILE_REPORT,
        job_id,
        attempt,
        evidence.source,
        evidence.age,
        evidence.http_status,
        evidence.headers,
        evidence.body,
        evidence.request_id,
        ending.http_status if ending else None,
        ending.body if ending else None,
        verdict,
    )
    assert row is not None
    return str(row["verdict"])
