"""Statements about live jobs whose time has come: a worker died, a webhook is late, a deadline passed."""

from dataclasses import dataclass
from uuid import UUID

from service.bulk.lifecycle import UNDER_WAY
from service.callbacks.lifecycle import CallbackState
from service.db import Database, Row
from service.jobs.facts import Due
from service.jobs.guards import CHANNEL, guard, target
from service.jobs.lifecycle import AttemptState, Duty, Event, OnDoubt, Status

_TAKE_DUE = f"""
WITH picked AS (
    SELECT job_id FROM live_jobs
    WHERE due_at <= now() AND duty <> '{Duty.SUBMIT}'
    ORDER BY due_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE live_jobs
    SET due_at = least(now() + make_interval(secs => $2), CASE WHEN deadline_at > now() THEN deadline_at END)
    FROM picked WHERE live_jobs.job_id = picked.job_id
    RETURNING live_jobs.*
)
SELECT moved.job_id, moved.attempt, jobs.model, moved.duty, moved.status,
       coalesce(moved.deadline_at <= now(), false) AS past_deadline,
       coalesce(moved.start_by <= now(), false) AS past_start,
       moved.cancel_requested_at IS NOT NULL AS cancel_requested,
       attempts.provider_request_id, attempts.response_url, attempts.status_url, attempts.cancel_url,
       coalesce(extract(epoch FROM now() - attempts.claimed_at), 0)::float8 AS since_claim,
       (SELECT count(resubmitted_at) FROM attempts earlier WHERE earlier.job_id = moved.job_id)::int4 AS resubmissions,
       tenants.on_doubt, coalesce(attempts.provider, moved.provider) AS provider, moved.fallback, moved.spill_seconds
FROM moved
JOIN jobs ON jobs.id = moved.job_id
JOIN tenants ON tenants.id = moved.tenant_id
LEFT JOIN attempts ON attempts.job_id = moved.job_id AND attempts.number = moved.attempt
"""

_EXPIRE = f"""
UPDATE live_jobs SET duty = '{Duty.CLOSE}', due_at = now()
WHERE duty = '{Duty.SUBMIT}' AND (deadline_at <= now() OR start_by <= now())
"""


async def expire(db: Database) -> None:
    """Let jobs whose deadline, or time to start, passed before they were submitted be closed."""
    await db.execute(_EXPIRE)


async def take_due(db: Database, limit: int, next_look_seconds: float) -> list[Due]:
    """Take live jobs whose worker died, whose webhook is late, or whose deadline passed."""
    rows = await db.fetch(_TAKE_DUE, limit, next_look_seconds)
    words = {"duty": Duty, "status": Status, "on_doubt": OnDoubt}
    return [Due(**{**row, **{name: word(row[name]) for name, word in words.items()}}) for row in rows]


_MOVE_DUTY = f"""
WITH moved AS (
    UPDATE live_jobs
    SET duty = CASE WHEN $3::text = '{Duty.SUBMIT}' AND cancel_requested_at IS NOT NULL
                    THEN '{Duty.CLOSE}' ELSE $3::text END,
        due_at = least(now() + make_interval(secs => $4), deadline_at)
    WHERE job_id = $1 AND attempt = $2 AND duty = $5
    RETURNING job_id, status, attempt
), tried AS (
    UPDATE attempts
    SET state = $6::text, error = coalesce(error, $7)
    FROM moved WHERE attempts.job_id = moved.job_id AND attempts.number = moved.attempt
), noted AS (
    INSERT INTO job_events (job_id, event, status, attempt, note)
    SELECT job_id, $6::text, status, attempt, $7 FROM moved
)
SELECT job_id FROM moved
"""


async def doubt(db: Database, due: Due, wait_seconds: float) -> bool:
    """The worker of a submission is gone: nobody knows whether the provider took it. Wait for its webhook."""
    row = await db.fetchrow(
        _MOVE_DUTY,
        due.job_id,
        due.attempt,
        Duty.SETTLE.value,
        wait_seconds,
        Duty.ANSWER.value,
        AttemptState.AMBIGUOUS.value,
        "The submission's answer was never recorded.",
    )
    return row is not None


async def submit_again(db: Database, due: Due) -> bool:
    """An ambiguous submission was waited for long enough: give it up and let the job be submitted again."""
    row = await db.fetchrow(
        _MOVE_DUTY,
        due.job_id,
        due.attempt,
        Duty.SUBMIT.value,
        0.0,
        Duty.SETTLE.value,
        AttemptState.ABANDONED.value,
        "No webhook came for it in time.",
    )
    return row is not None


# The row is locked before it is read, so that of several witnesses one tells the start.
_PROGRESS = f"""
WITH was AS (
    SELECT job_id, status FROM live_jobs WHERE job_id = $1 AND attempt = $2 FOR UPDATE
), moved AS (
    UPDATE live_jobs
    SET status = CASE WHEN $3 AND {guard(Event.STARTED, "was.status")} THEN {target(Event.STARTED)} ELSE was.status END,
        started_at = CASE WHEN $3 THEN coalesce(started_at, clock_timestamp()) ELSE started_at END,
        queue_position = $4, missing_since = NULL, missing_times = 0
    FROM was WHERE live_jobs.job_id = was.job_id
    RETURNING live_jobs.job_id, live_jobs.status, live_jobs.attempt,
              $3 AND {guard(Event.STARTED, "was.status")} AS started
), noted AS (
    INSERT INTO job_events (job_id, event, status, attempt)
    SELECT job_id, '{Event.STARTED}', status, attempt FROM moved WHERE started
)
SELECT (SELECT pg_notify('{CHANNEL}', waiters.job_id::text) FROM waiters WHERE waiters.job_id = moved.job_id)
FROM moved WHERE started
"""


async def record_progress(db: Database, due: Due, *, running: bool, queue_position: int | None) -> None:
    """Keep what a status poll said of a job that has not ended."""
    await db.fetchrow(_PROGRESS, due.job_id, due.attempt, running, queue_position)


_MISSING = """
UPDATE live_jobs
SET missing_since = coalesce(missing_since, now()), missing_times = least(missing_times + 1, 32767)
WHERE job_id = $1 AND attempt = $2
RETURNING now() - missing_since >= make_interval(secs => $3) AND missing_times >= $4 AS lost
"""

# A gateway may look in the wrong place now and then.
FEWEST_DENIALS = 3


async def record_missing(db: Database, due: Due, grace_seconds: float) -> bool:
    """The provider says that it does not know the request. Returns whether it has said so for long, and often."""
    row = await db.fetchrow(_MISSING, due.job_id, due.attempt, grace_seconds, FEWEST_DENIALS)
    return row is not None and bool(row["lost"])


_NAMED = f"""
WITH owner AS (
    SELECT job_id, status FROM live_jobs WHERE job_id = $1 AND attempt = $2 FOR UPDATE
), tried AS (
    UPDATE attempts
    SET provider_request_id = $3,
        gateway_request_id = nullif($4::text, $3),
        state = CASE WHEN state IN ('{AttemptState.AMBIGUOUS}', '{AttemptState.ABANDONED}')
                     THEN '{AttemptState.SUBMITTED}' ELSE state END
    FROM owner
    WHERE attempts.job_id = owner.job_id AND attempts.number = $2 AND attempts.provider_request_id IS NULL
      AND NOT EXISTS (SELECT FROM attempts other WHERE other.provider_request_id = $3)
    RETURNING attempts.job_id, attempts.number, attempts.state
), moved AS (
    UPDATE live_jobs
    SET duty = '{Duty.REPORT}', due_at = now(),
        status = CASE WHEN {guard(Event.ACCEPTED, "live_jobs.status")}
                      THEN {target(Event.ACCEPTED)} ELSE live_jobs.status END
    FROM tried WHERE live_jobs.job_id = tried.job_id AND tried.state = '{AttemptState.SUBMITTED}'
    RETURNING live_jobs.job_id, live_jobs.status, live_jobs.attempt
), noted AS (
    INSERT INTO job_events (job_id, event, status, attempt)
    SELECT job_id, '{Event.ACCEPTED}', status, attempt FROM moved
)
SELECT job_id FROM tried
"""


async def record_name(db: Database, job_id: UUID, attempt: int, request_id: str, gateway_id: str | None) -> bool:
    """A signed webhook without an end says by what name the provider has an attempt whose answer was lost.

    It is in doubt no more: the provider can be asked. False: it has a name, or that one is another attempt's.
    """
    return await db.fetchrow(_NAMED, job_id, attempt, request_id, gateway_id) is not None


_FOUND = f"""
WITH moved AS (
    UPDATE live_jobs
    SET duty = '{Duty.REPORT}', due_at = now(),
        status = CASE WHEN {guard(Event.ACCEPTED)} THEN {target(Event.ACCEPTED)} ELSE status END
    WHERE job_id = $1 AND attempt = $2 AND duty = $3
    RETURNING job_id, status, attempt
), tried AS (
    UPDATE attempts
    SET state = '{AttemptState.SUBMITTED}', provider_request_id = coalesce(provider_request_id, $4)
    FROM moved WHERE attempts.job_id = moved.job_id AND attempts.number = moved.attempt
)
INSERT INTO job_events (job_id, event, status, attempt) SELECT job_id, '{Event.ACCEPTED}', status, attempt FROM moved
"""


async def ask_instead(db: Database, due: Due, request_id: str) -> None:
    """The answer to a submission was lost, but its name is known: let the provider be asked."""
    await db.execute(_FOUND, due.job_id, due.attempt, due.duty.value, request_id)


async def look_now(db: Database, job_id: UUID, attempt: int) -> bool:
    """Let the provider be asked at once: its webhook said that there is an end, but not which."""
    row = await db.fetchrow(
        f"UPDATE live_jobs SET due_at = now() WHERE job_id = $1 AND attempt = $2 AND duty = '{Duty.REPORT}'"
        " RETURNING job_id",
        job_id,
        attempt,
    )
    return row is not None


@dataclass(frozen=True, slots=True)
class ToStop:
    """An attempt that the provider still has although its job has ended."""

    job_id: UUID
    attempt: int
    model: str
    provider_request_id: str
    response_url: str | None
    status_url: str | None
    cancel_url: str | None
    provider: str


_TAKE_TO_STOP = f"""
WITH picked AS (
    SELECT job_id, number FROM attempts
    WHERE state = '{AttemptState.SUPERSEDED}' AND ended_at IS NULL AND (stop_due_at IS NULL OR stop_due_at <= now())
    ORDER BY stop_due_at NULLS FIRST
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
UPDATE attempts SET stop_due_at = now() + make_interval(secs => $2), stop_tries = least(stop_tries + 1, 32767)
FROM picked, jobs
WHERE attempts.job_id = picked.job_id AND attempts.number = picked.number AND jobs.id = picked.job_id
RETURNING attempts.job_id, attempts.number AS attempt, jobs.model, attempts.provider, attempts.provider_request_id,
          attempts.response_url, attempts.status_url, attempts.cancel_url
"""

# A provider that does not answer is asked again and again, but not for ever.
MOST_STOPS = 60
_STOPPED = """
UPDATE attempts SET ended_at = clock_timestamp()
WHERE job_id = $1 AND number = $2 AND ended_at IS NULL AND ($3 OR stop_tries >= $4)
"""


async def take_to_stop(db: Database, limit: int, lease_seconds: float) -> list[ToStop]:
    """Take attempts whose provider has to be asked to stop them."""
    return [ToStop(**dict(row)) for row in await db.fetch(_TAKE_TO_STOP, limit, lease_seconds)]


async def record_stop(db: Database, attempt: ToStop, *, answered: bool) -> None:
    await db.execute(_STOPPED, attempt.job_id, attempt.attempt, answered, MOST_STOPS)


_UNDER_WAY = ", ".join(repr(state.value) for state in UNDER_WAY)
_ANYTHING_DUE = f"""
SELECT
    EXISTS (SELECT FROM live_jobs WHERE duty = '{Duty.SUBMIT}' AND provider = 'fal' AND due_at <= now()) AS submit,
    EXISTS (SELECT FROM live_jobs WHERE duty = '{Duty.SUBMIT}' AND provider = 'gpu' AND due_at <= now()) AS submit_gpu,
    EXISTS (SELECT FROM provider_pauses JOIN live_jobs USING (provider)
            WHERE duty = '{Duty.SUBMIT}' AND fallback IS NOT NULL) AS leave,
    EXISTS (SELECT FROM live_jobs WHERE duty <> '{Duty.SUBMIT}' AND due_at <= now())
        OR EXISTS (SELECT FROM live_jobs WHERE duty = '{Duty.SUBMIT}' AND deadline_at <= now())
        OR EXISTS (SELECT FROM live_jobs WHERE duty = '{Duty.SUBMIT}' AND start_by <= now())
        OR EXISTS (SELECT FROM attempts WHERE state = '{AttemptState.SUPERSEDED}' AND ended_at IS NULL
                   AND (stop_due_at IS NULL OR stop_due_at <= now())) AS watch,
    EXISTS (SELECT FROM copies WHERE due_at <= now()) AS copy,
    EXISTS (SELECT FROM callbacks WHERE state = '{CallbackState.PENDING}' AND due_at <= now()) AS deliver,
    EXISTS (SELECT FROM uncounted) AS count,
    EXISTS (SELECT FROM bulk_actions WHERE state IN ({_UNDER_WAY}) AND leased_until <= now()) AS bulk
"""


async def anything_due(db: Database) -> Row:
    """One cheap look at all that may be owed.

    `submit`, `submit_gpu`, `leave`, `watch`, `copy`, `deliver`, `count`, `bulk`.
    """
    row = await db.fetchrow(_ANYTHING_DUE)
    assert row is not None
    return row


_FORGET = """
DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM idempotency_keys WHERE created_at < now() - make_interval(secs => $1) LIMIT $2
    FOR UPDATE SKIP LOCKED
))
"""
FORGET_AT_A_TIME = 10_000


_SET_DEADLINE = f"""
WITH moved AS (
    UPDATE live_jobs
    SET deadline_at = now(), due_at = CASE WHEN duty IN ('{Duty.REPORT}', '{Duty.SETTLE}') THEN now() ELSE due_at END
    FROM jobs
    WHERE jobs.id = live_jobs.job_id AND jobs.created_at < now() - make_interval(secs => $1)
      AND live_jobs.deadline_at IS NULL
    RETURNING live_jobs.job_id, live_jobs.status, live_jobs.attempt
)
INSERT INTO job_events (job_id, event, status, attempt) SELECT job_id, 'deadline_set', status, attempt FROM moved
"""


async def end_the_oldest(db: Database, longest_seconds: float) -> None:
    """Let the deadline come of jobs that have none and were registered longer ago than this: none stays for ever."""
    await db.execute(_SET_DEADLINE, longest_seconds)


async def tidy(db: Database, idempotency_days: float) -> None:
    """Forget idempotency keys whose time is over, and waiters whose process is gone."""
    while await db.execute(_FORGET, idempotency_days * 86_400, FORGET_AT_A_TIME) == f"DELETE {FORGET_AT_A_TIME}":
        continue
    await db.execute("DELETE FROM waiters WHERE until < now()")
