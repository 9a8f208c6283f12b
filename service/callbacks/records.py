"""Statements about callbacks: which are due, what is told, what came of a try, and what is told once more."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from service.callbacks.lifecycle import CallbackState
from service.db import Database, Row

# Tries under way at one receiver of a tenant, over all workers.
AT_ONE_RECEIVER = 8

# After so many failures in a row nothing is sent to a receiver for a while, and then one callback tries for all.
FAILURES = 5
SHORTEST_BREAK_SECONDS = 30.0
LONGEST_BREAK_SECONDS = 900.0

# Takes of all workers come one after the other, so that none exceeds what a receiver is to bear.
TURN = 0x63616C6C

LOST = "The worker ended before it knew what came of it."


@dataclass(frozen=True, slots=True)
class DueCallback:
    """A callback to be tried now, for the `tries + 1`th time. `format` and `body` are None before the first."""

    job_id: UUID
    tenant_id: UUID
    receiver: str
    url: str
    tries: int
    format: str | None
    body: bytes | None
    callback_format: str
    callback_secret: int
    was_rotated: bool


# Receivers are listed by hopping from one to the next along the index, so that ten thousand callbacks to a dead one
# cost as much as one. The first callback of each receiver comes before the second of any.
_TAKE = f"""
WITH RECURSIVE known AS (
    (SELECT tenant_id, receiver FROM callbacks WHERE state = '{CallbackState.PENDING}'
     ORDER BY tenant_id, receiver LIMIT 1)
    UNION ALL
    SELECT next.tenant_id, next.receiver FROM known CROSS JOIN LATERAL (
        SELECT tenant_id, receiver FROM callbacks
        WHERE state = '{CallbackState.PENDING}' AND (tenant_id, receiver) > (known.tenant_id, known.receiver)
        ORDER BY tenant_id, receiver LIMIT 1
    ) AS next
), flying AS (
    SELECT tenant_id, receiver, count(*) AS callbacks FROM callbacks WHERE leased AND due_at > now()
    GROUP BY tenant_id, receiver
), room AS (
    SELECT known.tenant_id, known.receiver,
           CASE WHEN receivers.open_until > now() THEN 0 WHEN receivers.open_until IS NOT NULL THEN 1
                ELSE {AT_ONE_RECEIVER} END - coalesce(flying.callbacks, 0) AS left_over
    FROM known
    LEFT JOIN receivers USING (tenant_id, receiver)
    LEFT JOIN flying USING (tenant_id, receiver)
    WHERE coalesce(receivers.slow, false) = $3
), picked AS (
    SELECT due.job_id, due.due_at, due.leased
    FROM room CROSS JOIN LATERAL (
        SELECT job_id, due_at, leased, row_number() OVER (ORDER BY due_at) AS place FROM callbacks
        WHERE state = '{CallbackState.PENDING}' AND due_at <= now()
          AND tenant_id = room.tenant_id AND receiver = room.receiver
        ORDER BY due_at LIMIT greatest(room.left_over, 0)
    ) AS due
    ORDER BY due.place, due.due_at LIMIT $1
), taken AS (
    UPDATE callbacks SET leased = true, due_at = now() + make_interval(secs => $2)
    FROM picked
    WHERE callbacks.job_id = picked.job_id
      AND callbacks.state = '{CallbackState.PENDING}' AND callbacks.due_at <= now()
    RETURNING callbacks.*, picked.leased AS was_leased, picked.due_at AS was_due_at
), lost AS (
    INSERT INTO callback_tries (job_id, at, error)
    SELECT job_id, was_due_at - make_interval(secs => $2), '{LOST}' FROM taken WHERE was_leased
)
SELECT taken.job_id, taken.tenant_id, taken.receiver, jobs.webhook_url AS url, taken.tries, taken.format, taken.body,
       coalesce(jobs.callback_format, tenants.callback_format) AS callback_format, tenants.callback_secret,
       coalesce(tenants.callback_secret_rotated_at > now() - make_interval(secs => $4), false) AS was_rotated
FROM taken JOIN jobs ON jobs.id = taken.job_id JOIN tenants ON tenants.id = taken.tenant_id
"""


async def take(
    db: Database, limit: int, lease_seconds: float, *, slow: bool, overlap_seconds: float
) -> list[DueCallback]:
    """Take callbacks to receivers that are slow, or to those that are not; what is not recorded in time is due again.

    Secrets from before a rotation hold for `overlap_seconds`.
    """
    rows = await db.fetch_in_turn(TURN, _TAKE, limit, lease_seconds, slow, overlap_seconds)
    return [DueCallback(**dict(row)) for row in rows]


_RENEW = "UPDATE callbacks SET due_at = now() + make_interval(secs => $2) WHERE job_id = ANY ($1::uuid[]) AND leased"


async def renew(db: Database, job_ids: Sequence[UUID], seconds: float) -> None:
    """Let these stay taken for so long."""
    await db.execute(_RENEW, job_ids, seconds)


_ENDED = """
SELECT jobs.id AS job_id, jobs.model, outcomes.status, outcomes.http_status, outcomes.body, outcomes.error,
       outcomes.error_type, jobs.metadata, jobs.tags, jobs.created_at, outcomes.completed_at,
       (SELECT jsonb_agg(to_jsonb(artifacts)) FROM artifacts
        WHERE artifacts.job_id = jobs.id AND outcomes.status = 'completed') AS files
FROM jobs JOIN outcomes ON outcomes.job_id = jobs.id WHERE jobs.id = ANY ($1::uuid[])
"""


async def ended_jobs(db: Database, job_ids: Sequence[UUID]) -> list[Row]:
    """What callbacks are made of; `files` is a JSON list."""
    return await db.fetch(_ENDED, job_ids)


# What was kept before is what stays.
_KEEP = """
UPDATE callbacks SET body = coalesce(callbacks.body, told.body), format = coalesce(callbacks.format, told.format)
FROM unnest($1::uuid[], $2::bytea[], $3::text[]) AS told (job_id, body, format)
WHERE callbacks.job_id = told.job_id
RETURNING callbacks.job_id, callbacks.body, callbacks.format
"""


async def keep_bodies(db: Database, told: Sequence[tuple[UUID, bytes, str]]) -> dict[UUID, tuple[bytes, str]]:
    """Write down what will be sent in every try. Returns what is kept: the body and its format."""
    rows = await db.fetch(_KEEP, *(list(column) for column in zip(*told, strict=True)))
    return {row["job_id"]: (row["body"], row["format"]) for row in rows}


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a try. `blames` says that it speaks against the receiver as a whole; `again_in` is in seconds."""

    state: CallbackState
    seconds: float
    http_status: int | None = None
    error: str | None = None
    again_in: float = 0.0
    blames: bool = False
    slow: bool = False


# Tries that were under way when the breaker opened do not lengthen its time.
_RECORD = f"""
WITH logged AS (
    INSERT INTO callback_tries (job_id, at, http_status, seconds, error)
    VALUES ($1, clock_timestamp() - make_interval(secs => $5), $6, $5, $7)
), tried AS (
    UPDATE callbacks
    SET state = $4, leased = false, tries = tries + 1, due_at = now() + make_interval(secs => $8),
        ended_at = CASE WHEN $4 <> '{CallbackState.PENDING}' THEN clock_timestamp() END
    WHERE job_id = $1 AND state = '{CallbackState.PENDING}'
), marked AS (
    INSERT INTO receivers AS known (tenant_id, receiver, failures, slow)
    SELECT $2, $3, $9::bool::int, $10::bool WHERE $9 OR $10
    ON CONFLICT (tenant_id, receiver) DO UPDATE
    SET slow = excluded.slow,
        failures = CASE WHEN excluded.failures = 0 THEN 0 WHEN known.open_until > now() THEN known.failures
                        ELSE known.failures + 1 END,
        open_until = CASE WHEN excluded.failures = 0 THEN NULL WHEN known.open_until > now() THEN known.open_until
                          WHEN known.failures + 1 >= {FAILURES} THEN now() + make_interval(secs => least(
                              {LONGEST_BREAK_SECONDS},
                              {SHORTEST_BREAK_SECONDS} * 2 ^ least(known.failures + 1 - {FAILURES}, 10))) END
), cleared AS (
    DELETE FROM receivers WHERE tenant_id = $2 AND receiver = $3 AND NOT ($9 OR $10)
)
SELECT EXISTS (
    SELECT FROM callbacks WHERE tenant_id = $2 AND receiver = $3 AND job_id <> $1
      AND state = '{CallbackState.PENDING}' AND due_at <= now()
) AS more
"""


async def record(db: Database, due: DueCallback, tried: Tried) -> bool:
    """Log a try and say what follows from it. Returns whether more is due to the same receiver."""
    row = await db.fetchrow(
        _RECORD,
        due.job_id,
        due.tenant_id,
        due.receiver,
        tried.state.value,
        tried.seconds,
        tried.http_status,
        tried.error,
        tried.again_in,
        tried.blames,
        tried.slow,
    )
    return row is not None and bool(row["more"])


_END_THE_OLD = f"""
UPDATE callbacks SET state = '{CallbackState.GIVEN_UP}', ended_at = clock_timestamp()
WHERE state = '{CallbackState.PENDING}' AND NOT leased AND begun_at < now() - make_interval(secs => $1)
"""


async def tidy(db: Database, longest_seconds: float) -> None:
    """Give up what never had its turn, and forget receivers that nobody calls any more."""
    await db.execute(_END_THE_OLD, longest_seconds)
    await db.execute(
        "DELETE FROM receivers WHERE NOT EXISTS (SELECT FROM callbacks WHERE callbacks.tenant_id = receivers.tenant_id"
        f" AND callbacks.receiver = receivers.receiver AND state = '{CallbackState.PENDING}')"
        " AND (open_until IS NULL OR open_until < now())"
    )


# What is on its way is left to arrive, and what waits for its files is left to wait. Whoever asks believes that the
# receiver is back, so one callback may try for all at once.
_AGAIN = f"""
WITH again AS (
    UPDATE callbacks
    SET state = '{CallbackState.PENDING}', tries = 0, begun_at = now(), ended_at = NULL,
        due_at = CASE WHEN state = '{CallbackState.PENDING}' AND files_owed > 0 AND body IS NULL THEN due_at
                      ELSE now() END
    WHERE NOT leased AND {{which}}
    RETURNING tenant_id, receiver
), probed AS (
    UPDATE receivers SET open_until = least(open_until, now())
    FROM (SELECT DISTINCT tenant_id, receiver FROM again) AS asked
    WHERE receivers.tenant_id = asked.tenant_id AND receivers.receiver = asked.receiver
)
SELECT count(*) AS callbacks FROM again
"""
_ONE_AGAIN = _AGAIN.format(which="job_id = $1")
_MANY_AGAIN = _AGAIN.format(
    which="""created_at >= $2::timestamptz AND created_at < coalesce($3::timestamptz, 'infinity')
      AND state = coalesce($4::text, state) AND ($1::uuid IS NULL OR tenant_id = $1)"""
)


async def redeliver(db: Database, job_id: UUID) -> None:
    """Begin a new series of tries, with the same ID and the same bytes."""
    await db.execute(_ONE_AGAIN, job_id)


async def redeliver_many(
    db: Database, tenant_id: UUID | None, since: datetime, until: datetime | None, state: CallbackState | None
) -> int:
    """As `redeliver`, for all jobs that ended in that time, of one tenant or of all. Returns how many."""
    row = await db.fetchrow(_MANY_AGAIN, tenant_id, since, until, state.value if state else None)
    assert row is not None
    return int(row["callbacks"])


_CALLBACK = """
SELECT callbacks.*, receivers.open_until FROM callbacks LEFT JOIN receivers USING (tenant_id, receiver)
WHERE callbacks.job_id = $1
"""


async def callback_of(db: Database, job_id: UUID) -> Row | None:
    """None: the job has not ended, or names no address."""
    return await db.fetchrow(_CALLBACK, job_id)


async def tries_of(db: Database, job_id: UUID) -> list[Row]:
    return await db.fetch("SELECT * FROM callback_tries WHERE job_id = $1 ORDER BY id", job_id)


_LIST = """
SELECT callbacks.job_id, tenants.name AS tenant, callbacks.state, callbacks.receiver, callbacks.tries,
       callbacks.created_at, callbacks.due_at, last.http_status, last.error
FROM callbacks JOIN tenants ON tenants.id = callbacks.tenant_id
LEFT JOIN LATERAL (
    SELECT http_status, error FROM callback_tries WHERE job_id = callbacks.job_id ORDER BY id DESC LIMIT 1
) AS last ON true
WHERE $1::text IS NULL OR callbacks.state = $1
ORDER BY callbacks.created_at DESC LIMIT $2
"""


async def newest(db: Database, state: CallbackState | None, limit: int) -> list[Row]:
    """For operators: callbacks of all tenants, each with what came of its last try."""
    return await db.fetch(_LIST, state.value if state else None, limit)
