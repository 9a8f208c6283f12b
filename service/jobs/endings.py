"""Statements that end a job.

`settle` ends one by what a provider said, `close` by our own decision, and `request_cancel` asks for an end; news that
ended nothing is kept by `filing.py`.
"""

from collections.abc import Sequence
from uuid import UUID

from service.artifacts.expiry import OWED_UNTIL, expiry_of
from service.catalog.base import Lifted
from service.catalog.text import storable
from service.db import Database, Row
from service.jobs.facts import Due, Ending, Evidence
from service.jobs.guards import CHANNEL, NAME_EXCERPT, TEXT_EXCERPT, guard, target
from service.jobs.lifecycle import MOVES, OPEN_ATTEMPTS, AttemptState, Duty, Event, Verdict
from service.jsontext import encode

# The source of an end that we ourselves decided.
OURS = "roundtrip"

_OPEN = ", ".join(repr(state.value) for state in OPEN_ATTEMPTS)

# How long a callback waits for the copies of a job's files, so that it can name them.
COPIES_WAIT_SECONDS = 30

# In the statement that ends the job: a client who wants to be told of the end is told, whatever dies next.
_CALLBACK = """, callback AS (
    INSERT INTO callbacks (job_id, tenant_id, receiver, due_at, files_owed)
    SELECT job_id, tenant_id, coalesce(lower(substring(webhook_url FROM '^[^:/?#]+://[^/?#]+')), ''),
           {due_at}, {files_owed}
    FROM timed WHERE webhook_url IS NOT NULL
    RETURNING files_owed
)"""
_CALLBACK_NOW = _CALLBACK.format(due_at="now()", files_owed="0")
_CALLBACK_AFTER_COPIES = _CALLBACK.format(
    due_at=f"now() + make_interval(secs => {COPIES_WAIT_SECONDS})", files_owed="(SELECT count(*) FROM file)"
)
_TO_CALL = "EXISTS (SELECT FROM callback WHERE files_owed = 0) AS to_call"


def between(start: str, end: str) -> str:
    """The seconds from one moment to a later one, never below zero, as SQL; null where one is not known."""
    return (
        f"CASE WHEN {end} >= {start} THEN extract(epoch FROM {end} - {start})::float8 WHEN {end} < {start} THEN 0 END"
    )


# The phases of a job, of its end as `timed` has it. A webhook may outrun the answer to its submission, and then the
# submission ends with it; an answer that never came leaves both sides of it unknown.
_ANSWERED = "least(answered_at, received_at)"
_PHASES = {
    "queued_seconds": between("created_at", "claimed_at"),
    "submit_seconds": between("claimed_at", _ANSWERED),
    "provider_queue_seconds": f"CASE WHEN answered_at IS NOT NULL THEN {between(_ANSWERED, 'started_at')} END",
    "run_seconds": between("started_at", "received_at"),
    "provider_seconds": f"CASE WHEN answered_at IS NOT NULL THEN {between(_ANSWERED, 'received_at')} END",
    "webhook_seconds": between("received_at", "completed_at"),
    "total_seconds": between("created_at", "completed_at"),
}

# What is asked and counted by, and beside it the bytes.
_KEPT = f""", outcome AS (
    INSERT INTO outcomes (job_id, tenant_id, model, provider, created_at, started_at, cancel_requested_at, received_at,
                          completed_at, status, attempt, source, http_status, error_type, error, seed, usage,
                          model_timings, billable_units, {", ".join(_PHASES)})
    SELECT job_id, tenant_id, model, provider, created_at, started_at, cancel_requested_at, received_at,
           completed_at, {{status}}, {{attempt}}, {{source}}, {{http_status}}, {{error_type}}, {{error}}, {{seed}},
           {{usage}}, {{timings}}, {{units}}, {", ".join(_PHASES.values())}
    FROM timed
), result AS (
    INSERT INTO results (job_id, body, text) SELECT job_id, {{body}}, {{text}} FROM timed
), to_count AS (
    INSERT INTO uncounted (job_id, part) SELECT job_id, 'end' FROM timed
)"""

# $1 job, $2 attempt, $3 source, $4 ended status, $5 http status, $6 body, $7 error type, $8 error,
# $9 text, $10 seed, $11 usage, $12 timings, $13 age, $14 request ID, $15 gateway ID,
# $16 evidence headers, $17 evidence body, $18 evidence http status
#
# First the live row is locked and then the attempt, so that the request ID is compared with what a submit
# answer that was being written at the same time has put there. An attempt that has none yet takes the webhook's,
# unless that is known as another attempt's.
#
# Nobody is waited for: a statement that had to wait would look at each row again, and set up its whole plan for each.
# Nor has it a part for other attempts that are open, which few jobs have. Where there are some, or where somebody has
# the live row in hand, the statement says `again`, and is carried out in its thorough form once that row is ours.
_SETTLE = f"""
WITH owner AS (
    SELECT job_id, attempt, duty FROM live_jobs WHERE job_id = $1 AND {{guard}} FOR UPDATE SKIP LOCKED
), unseen AS (
    -- Somebody has the live row in hand.
    SELECT job_id FROM live_jobs WHERE job_id = $1 AND {{guard}} AND NOT EXISTS (SELECT FROM owner)
    -- A claim was committed after this statement began: its attempt could not be taken along.
    UNION ALL SELECT job_id FROM owner
    WHERE attempt > 0 AND NOT EXISTS (SELECT FROM attempts WHERE job_id = $1 AND number = owner.attempt)
          {{or_others}}
), tried AS (
    UPDATE attempts
    SET state = $4::text, ended_at = clock_timestamp(), http_status = $5::int2, error = $8::text,
        provider_request_id = coalesce(provider_request_id, $14::text),
        gateway_request_id = coalesce(nullif($15::text, coalesce(provider_request_id, $14::text)), gateway_request_id)
    FROM owner
    WHERE attempts.job_id = $1 AND attempts.number = $2 AND NOT EXISTS (SELECT FROM unseen)
      -- Its job was given to another provider: a result is welcome, but that it failed here says nothing any more.
      AND (attempts.state <> '{AttemptState.SUPERSEDED}' OR $4::text = {target(Event.COMPLETED)})
      AND ($14::text IS NULL OR attempts.provider_request_id = $14 OR attempts.provider_request_id IS NULL
           AND NOT EXISTS (SELECT FROM attempts other WHERE other.provider_request_id = $14))
    RETURNING attempts.provider, attempts.claimed_at, attempts.answered_at,
              owner.attempt = $2 AND owner.duty = '{Duty.ANSWER}' AS unanswered
), ended AS (
    DELETE FROM live_jobs USING tried, jobs
    WHERE live_jobs.job_id = $1 AND jobs.id = $1
    RETURNING live_jobs.*, jobs.model, jobs.created_at, jobs.hints, jobs.webhook_url, tried.provider AS ran_by,
              tried.claimed_at, tried.answered_at, tried.unanswered, clock_timestamp() AS completed_at
), timed AS (
    SELECT job_id, tenant_id, model, ran_by AS provider, webhook_url, created_at, claimed_at, started_at,
           cancel_requested_at, completed_at, completed_at - make_interval(secs => $13::float8) AS received_at,
           CASE WHEN unanswered THEN completed_at ELSE answered_at END AS answered_at
    FROM ended
){{kept}}{{others}}, event AS (
    INSERT INTO job_events (job_id, event, status, attempt, note)
    SELECT job_id, $4::text, $4::text, $2::int4, coalesce($8::text, $3::text) FROM ended
), report AS (
    INSERT INTO reports (job_id, attempt, source, received_at, http_status, headers, body, verdict)
    SELECT job_id, $2::int4, $3::text, clock_timestamp() - make_interval(secs => $13::float8), $18::int2,
           $16::jsonb, $17::bytea, '{Verdict.APPLIED}'
    FROM ended WHERE $17::bytea IS NOT NULL
){{files}}{{callback}}
SELECT ended.job_id, {{to_stop}} AS to_stop, {_TO_CALL}, false AS again,
       (SELECT pg_notify('{{channel}}', waiters.job_id::text) FROM waiters WHERE waiters.job_id = ended.job_id) AS told
FROM ended
UNION ALL SELECT job_id, false, false, true, NULL FROM unseen
"""

_OPEN_OTHERS = (
    f"attempts.job_id = $1 AND attempts.number <> $2 AND attempts.ended_at IS NULL AND attempts.state IN ({_OPEN})"
)
_OR_OTHERS = f"OR attempt > 1 AND EXISTS (SELECT FROM attempts WHERE {_OPEN_OTHERS})"

_OTHERS = f""", others AS (
    UPDATE attempts
    SET state = '{AttemptState.SUPERSEDED}',
        ended_at = CASE WHEN provider_request_id IS NULL THEN clock_timestamp() END
    FROM ended
    WHERE ended.attempt > 1 AND {_OPEN_OTHERS}
    RETURNING attempts.ended_at
)"""

# For how long fal was asked to keep them, in seconds, as the header of the submission has it.
_ASKED_FOR = r"""make_interval(secs => substring(
    ended.hints ->> 'x-fal-object-lifecycle-preference'
    FROM '"expiration_duration_seconds"\s*:\s*([0-9]{1,9})\s*[,}]'
)::float8)"""

_FILES = f""", file AS (
    INSERT INTO artifacts (job_id, tenant_id, kind, index, label, source_url, content_type, file_name, file_size, width,
                           height, source_expires_at)
    SELECT ended.job_id, ended.tenant_id, f.kind, f.index, f.label, f.url, f.content_type, f.file_name, f.file_size,
           f.width, f.height,
           least(f.expires_at, CASE WHEN f.url ~* '^https?:' THEN ended.completed_at + {_ASKED_FOR} END)
    FROM ended, unnest(
        $19::text[], $20::int2[], $21::text[], $22::text[], $23::text[], $24::text[], $25::int8[], $26::int4[],
        $27::int4[], $28::timestamptz[]
    ) AS f (kind, index, label, url, content_type, file_name, file_size, width, height, expires_at)
    RETURNING job_id, kind, index, source_expires_at
), copy AS (
    INSERT INTO copies (job_id, kind, index, expires_at)
    SELECT job_id, kind, index, {OWED_UNTIL} FROM file
)"""


def units_of(headers: str) -> str:
    """What fal charges for, as SQL; it stands in a header of the answer, if in any."""
    said = f"{headers} ->> 'x-fal-billable-units'"
    return f"CASE WHEN {said} ~ '^[0-9]{{1,15}}([.][0-9]{{1,15}})?$' THEN ({said})::numeric END"


_KEPT_AS_SAID = _KEPT.format(
    status="$4::text",
    attempt="$2::int4",
    source="$3::text",
    http_status="$5::int2",
    error_type="$7::text",
    error="$8::text",
    seed="$10::numeric",
    usage="$11::jsonb",
    timings="$12::jsonb",
    units=units_of("$16::jsonb"),
    body="$6::bytea",
    text="$9::text",
)


def _settle_statement(event: Event, *, files: bool, thorough: bool) -> str:
    return _SETTLE.format(
        kept=_KEPT_AS_SAID,
        guard=guard(event, "live_jobs.status"),
        or_others="" if thorough else _OR_OTHERS,
        others=_OTHERS if thorough else "",
        to_stop="EXISTS (SELECT FROM others WHERE ended_at IS NULL)" if thorough else "false",
        files=_FILES if files else "",
        callback=_CALLBACK_AFTER_COPIES if files else _CALLBACK_NOW,
        channel=CHANNEL,
    )


def _settle_statements(*, thorough: bool) -> dict[tuple[Event, bool], str]:
    """By the event, and by whether there are files."""
    return {
        (event, files): _settle_statement(event, files=files, thorough=thorough)
        for event in (Event.COMPLETED, Event.FAILED, Event.CANCELLED)
        for files in (False, True)
    }


_SETTLE_STATEMENTS = _settle_statements(thorough=False)
_THOROUGH_STATEMENTS = _settle_statements(thorough=True)

# What was written by whoever had the row is seen by the next statement, and nobody else writes to it before that.
_HOLD = "SELECT FROM live_jobs WHERE job_id = $1 FOR UPDATE"


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
                expiry_of(f.url),
            )
            for f in lifted.files
        ]
        values.extend(list(column) for column in zip(*rows, strict=True))
    form = ending.event, bool(lifted.files)
    row = await db.fetchrow_together(_SETTLE_STATEMENTS[form], *values)
    while row is not None and row["again"]:
        row = await db.fetchrow_holding(_HOLD, _THOROUGH_STATEMENTS[form], *values)
    return row


_KEPT_AS_DECIDED = _KEPT.format(
    status="$2::text",
    attempt="attempt",
    source=f"'{OURS}'",
    http_status="$3::int2",
    error_type="$5::text",
    error="$6::text",
    seed="NULL",
    usage="'{{}}'",
    timings="'{{}}'",
    units="NULL",
    body="$4::bytea",
    text="NULL",
)

# $1 job, $2 ended status, $3 http status, $4 body, $5 error type, $6 error, $7 whether the provider stopped it,
# $8 the attempt and $9 the duty that this was decided on
_CLOSE = f"""
WITH ended AS (
    -- Not when a claim was committed after this statement began: its attempt could not be taken along.
    DELETE FROM live_jobs WHERE job_id = $1 AND {{guard}} {{condition}}
        AND ($8::int4 IS NULL OR attempt = $8 AND duty = $9::text)
        AND (attempt = 0 OR EXISTS (SELECT FROM attempts WHERE job_id = $1 AND number = live_jobs.attempt))
    RETURNING live_jobs.*, clock_timestamp() AS completed_at
), timed AS (
    SELECT ended.job_id, ended.tenant_id, jobs.model, coalesce(attempts.provider, ended.provider) AS provider,
           jobs.webhook_url, jobs.created_at, attempts.claimed_at, attempts.answered_at, ended.attempt,
           ended.started_at, ended.cancel_requested_at, ended.completed_at, ended.completed_at AS received_at
    FROM ended JOIN jobs ON jobs.id = ended.job_id
    LEFT JOIN attempts ON attempts.job_id = ended.job_id AND attempts.number = ended.attempt
){_KEPT_AS_DECIDED}, tried AS (
    UPDATE attempts
    SET state = CASE WHEN $7::bool AND attempts.number = ended.attempt THEN $2::text
                     ELSE '{AttemptState.SUPERSEDED}' END,
        ended_at = CASE WHEN $7::bool AND attempts.number = ended.attempt OR provider_request_id IS NULL
                        THEN clock_timestamp() END
    FROM ended
    WHERE attempts.job_id = ended.job_id AND attempts.ended_at IS NULL AND attempts.state IN ({_OPEN})
), event AS (
    INSERT INTO job_events (job_id, event, status, attempt, note)
    -- Attempt 0: none of them ended it.
    SELECT job_id, $2::text, $2::text, CASE WHEN $7::bool THEN attempt ELSE 0 END, $6::text FROM ended
){_CALLBACK_NOW}
SELECT {_TO_CALL},
       (SELECT pg_notify('{CHANNEL}', waiters.job_id::text) FROM waiters WHERE waiters.job_id = ended.job_id) AS told
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
    as_of: Due | None = None,
) -> Row | None:
    """End a job by our own decision: a cancel, a deadline, a give-up. None: it had moved on, perhaps since `as_of`.

    Unless the provider has `stopped` it, an attempt that it may have is left to be stopped.
    """
    statements = _CLOSE_ANYWAY if even_if_submitted else _CLOSE_UNSUBMITTED
    return await db.fetchrow(
        statements[ending.event],
        job_id,
        MOVES[ending.event].target.value,
        ending.http_status,
        ending.body,
        storable(ending.error_type, NAME_EXCERPT),
        storable(ending.error, TEXT_EXCERPT),
        stopped,
        as_of.attempt if as_of else None,
        as_of.duty.value if as_of else None,
    )


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


_CANCEL_MANY = f"""
WITH locked AS (
    SELECT job_id FROM live_jobs WHERE job_id = ANY ($1::uuid[]) AND cancel_requested_at IS NULL
    ORDER BY job_id FOR UPDATE
), asked AS (
    UPDATE live_jobs
    SET cancel_requested_at = clock_timestamp(),
        duty = CASE WHEN duty = '{Duty.SUBMIT}' THEN '{Duty.CLOSE}' ELSE duty END,
        due_at = CASE WHEN duty IN ('{Duty.SUBMIT}', '{Duty.REPORT}') THEN now() ELSE due_at END
    FROM locked WHERE live_jobs.job_id = locked.job_id
    RETURNING live_jobs.job_id, live_jobs.status, live_jobs.attempt
)
INSERT INTO job_events (job_id, event, status, attempt)
SELECT job_id, 'cancel_requested', status, attempt FROM asked
"""


async def request_cancels(db: Database, job_ids: Sequence[UUID]) -> None:
    """As `request_cancel`, of many; one whose end was asked for before stays as it is."""
    await db.execute(_CANCEL_MANY, job_ids)
