"""Statements about callbacks: which are due, what is told, and what came of a try."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from service.artifacts.results import SMALL_BODY
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
    """A callback to be tried now, for the `tries + 1`th time.

    `taken` names this lease. `format` is None before the first try, and `body` then too; a body of more than
    `SMALL_BODY` bytes is left in its row. `size` is that of the body, or of the output that it is to be made of.
    """

    job_id: UUID
    tenant_id: UUID
    receiver: str
    url: str
    tries: int
    taken: int
    format: str | None
    body: bytes | None
    size: int
    callback_format: str
    callback_secret: int
    was_rotated: bool

    @property
    def taken_as(self) -> tuple[UUID, int]:
        return self.job_id, self.taken


# So many callbacks that are due are looked through by their time. When there are more, receivers are listed by hopping
# from one to the next along the index, so that ten thousand callbacks to a dead one cost as much as one.
LOOKED_THROUGH = 1_000

# In this shape no index but the receivers' can serve: the planner has taken that of the times when its statistics were
# from before an hour in which everything came due. So when it is due is asked outside of it, and no equality is said of
# the receiver, which would leave `due_at` alone to be sorted by.
_EARLIEST = """SELECT {columns} FROM callbacks
        WHERE state = '{state}' AND tenant_id = {tenant} AND receiver >= {receiver} AND receiver <= {receiver}{more}
        ORDER BY tenant_id, receiver, due_at LIMIT {limit}"""

# The first callback of each tenant comes before the second of any, and so with each receiver of a tenant. `$6` has the
# tenants of what this process has in hand, once for each; none has more than $7 there. Of large bodies so many are
# taken as have room in $8 bytes, and one that is larger than that when there is no other.
_TAKE = f"""
WITH RECURSIVE earliest AS MATERIALIZED (
    SELECT tenant_id, receiver FROM callbacks WHERE state = '{CallbackState.PENDING}' AND due_at <= now()
    ORDER BY due_at LIMIT {LOOKED_THROUGH}
), few AS MATERIALIZED (
    SELECT count(*) < {LOOKED_THROUGH} AS enough FROM earliest
), known AS (
    (SELECT tenant_id, receiver, due_at FROM callbacks
     WHERE state = '{CallbackState.PENDING}' AND NOT (SELECT enough FROM few)
     ORDER BY tenant_id, receiver, due_at LIMIT 1)
    UNION ALL
    SELECT next.* FROM known CROSS JOIN LATERAL (
        SELECT tenant_id, receiver, due_at FROM callbacks
        WHERE state = '{CallbackState.PENDING}' AND (tenant_id, receiver) > (known.tenant_id, known.receiver)
        ORDER BY tenant_id, receiver, due_at LIMIT 1
    ) AS next
), waiting AS (
    SELECT DISTINCT tenant_id, receiver FROM earliest WHERE (SELECT enough FROM few)
    UNION ALL
    SELECT tenant_id, receiver FROM known WHERE due_at <= now()
), flying AS (
    SELECT tenant_id, receiver, count(*) AS callbacks FROM callbacks WHERE leased AND due_at > now()
    GROUP BY tenant_id, receiver
), room AS (
    SELECT waiting.tenant_id, waiting.receiver,
           CASE WHEN receivers.open_until > now() THEN 0 WHEN receivers.open_until IS NOT NULL THEN 1
                ELSE {AT_ONE_RECEIVER} END - coalesce(flying.callbacks, 0) AS left_over
    FROM waiting
    LEFT JOIN receivers USING (tenant_id, receiver)
    LEFT JOIN flying USING (tenant_id, receiver)
    WHERE coalesce(receivers.slow, false) = $3
), in_turn AS (
    SELECT room.tenant_id, due.*,
           row_number() OVER (PARTITION BY room.tenant_id ORDER BY due.place, due.due_at) AS turn
    FROM room CROSS JOIN LATERAL (
        {
    _EARLIEST.format(
        columns="job_id, due_at, row_number() OVER (ORDER BY tenant_id, receiver, due_at) AS place",
        state=CallbackState.PENDING,
        tenant="room.tenant_id",
        receiver="room.receiver",
        more="",
        limit="greatest(room.left_over, 0)",
    )
}
    ) AS due
    WHERE room.left_over > 0 AND due.due_at <= now()
), fair AS (
    SELECT in_turn.* FROM in_turn
    LEFT JOIN (SELECT tenant_id, count(*) AS callbacks FROM unnest($6::uuid[]) AS held (tenant_id) GROUP BY tenant_id)
        AS hand USING (tenant_id)
    WHERE turn + coalesce(hand.callbacks, 0) <= $7::bigint
    ORDER BY turn, due_at LIMIT $1
), sized AS (
    SELECT fair.job_id, fair.turn, fair.due_at,
           coalesce(octet_length(callbacks.body), octet_length(results.body), 0) AS size
    FROM fair JOIN callbacks ON callbacks.job_id = fair.job_id LEFT JOIN results ON results.job_id = fair.job_id
), weighed AS (
    SELECT job_id, size,
           sum(CASE WHEN size > {SMALL_BODY} THEN size ELSE 0 END) OVER (ORDER BY turn, due_at, job_id) AS bytes
    FROM sized
), picked AS (
    SELECT callbacks.job_id, callbacks.due_at, callbacks.leased, weighed.size,
           callbacks.leased AND callbacks.tries >= $5 AS spent
    FROM callbacks JOIN weighed ON weighed.job_id = callbacks.job_id
    WHERE (weighed.size <= {SMALL_BODY} OR weighed.bytes <= $8::bigint OR weighed.bytes = weighed.size AND $9::bool)
      AND callbacks.state = '{CallbackState.PENDING}' AND callbacks.due_at - now() <= interval '0'
    FOR UPDATE OF callbacks SKIP LOCKED
), taken AS (
    UPDATE callbacks
    SET state = CASE WHEN picked.spent THEN '{CallbackState.GIVEN_UP}' ELSE state END,
        ended_at = CASE WHEN picked.spent THEN clock_timestamp() END,
        leased = NOT picked.spent,
        tries = CASE WHEN picked.spent THEN tries ELSE tries + 1 END,
        taken = taken + 1,
        due_at = now() + make_interval(secs => $2)
    FROM picked WHERE callbacks.job_id = picked.job_id
    RETURNING callbacks.*, picked.leased AS was_leased, picked.due_at AS was_due_at, picked.size
), lost AS (
    INSERT INTO callback_tries (job_id, at, error)
    SELECT job_id, was_due_at - make_interval(secs => $2), '{LOST}' FROM taken WHERE was_leased
)
SELECT taken.job_id, taken.tenant_id, taken.receiver, jobs.webhook_url AS url, (taken.tries - 1)::int4 AS tries,
       taken.taken, taken.format, CASE WHEN taken.size <= {SMALL_BODY} THEN taken.body END AS body,
       taken.size::int8 AS size, coalesce(jobs.callback_format, tenants.callback_format) AS callback_format,
       tenants.callback_secret,
       coalesce(tenants.callback_secret_rotated_at > now() - make_interval(secs => $4), false) AS was_rotated
FROM taken JOIN jobs ON jobs.id = taken.job_id JOIN tenants ON tenants.id = taken.tenant_id
WHERE taken.leased
"""


@dataclass(frozen=True, slots=True)
class Hand:
    """What a process has in hand already: the tenant of each callback, and the bytes of the large ones."""

    tenants: Sequence[UUID] = ()
    large_bytes: int = 0


async def take(
    db: Database,
    limit: int,
    lease_seconds: float,
    *,
    slow: bool,
    overlap_seconds: float,
    most_tries: int,
    share: int,
    largest_bytes: int,
    hand: Hand = Hand(),
) -> list[DueCallback]:
    """Take callbacks to receivers that are slow, or to those that are not; what is not recorded in time is due again.

    A try counts from here on: one that was lost as often as `most_tries` is given up. Secrets from before a rotation
    hold for `overlap_seconds`. With what is in `hand`, no tenant gets more than its `share`, nor all of them together
    more than `largest_bytes` of large bodies, unless it is a single one.
    """
    rows = await db.fetch_in_turn(
        TURN,
        _TAKE,
        limit,
        lease_seconds,
        slow,
        overlap_seconds,
        most_tries,
        list(hand.tenants),
        share,
        largest_bytes - hand.large_bytes,
        hand.large_bytes == 0,
    )
    return [DueCallback(**dict(row)) for row in rows]


_RENEW = """
UPDATE callbacks SET due_at = now() + make_interval(secs => $3)
FROM unnest($1::uuid[], $2::int4[]) AS held (job_id, taken)
WHERE callbacks.job_id = held.job_id AND callbacks.taken = held.taken AND leased
"""


async def renew(db: Database, held: Sequence[tuple[UUID, int]], seconds: float) -> None:
    """Let these stay taken for so long; each is a job and the `taken` of its lease."""
    await db.execute(_RENEW, [job_id for job_id, _ in held], [taken for _, taken in held], seconds)


_ENDED = """
SELECT jobs.id AS job_id, jobs.model, outcomes.status, outcomes.http_status, results.body, outcomes.error,
       outcomes.error_type, jobs.metadata, jobs.tags, jobs.created_at, outcomes.completed_at,
       (SELECT jsonb_agg(to_jsonb(artifacts)) FROM artifacts
        WHERE artifacts.job_id = jobs.id AND outcomes.status = 'completed') AS files
FROM jobs JOIN outcomes ON outcomes.job_id = jobs.id JOIN results ON results.job_id = jobs.id
WHERE jobs.id = ANY ($1::uuid[])
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
    if not told:
        return {}
    rows = await db.fetch(_KEEP, *(list(column) for column in zip(*told, strict=True)))
    return {row["job_id"]: (row["body"], row["format"]) for row in rows}


async def kept_bodies(db: Database, job_ids: Sequence[UUID]) -> dict[UUID, tuple[bytes, str]]:
    """What was written down before."""
    rows = await db.fetch(
        "SELECT job_id, body, format FROM callbacks WHERE job_id = ANY ($1::uuid[]) AND body IS NOT NULL", job_ids
    )
    return {row["job_id"]: (row["body"], row["format"]) for row in rows}


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a try. `blames` says that it speaks against the receiver as a whole; `again_in` is in seconds.

    `hold` is for how many seconds the receiver wants nothing at all. When `counts` is False, the receiver was never
    asked, and there was no try.
    """

    state: CallbackState
    seconds: float
    http_status: int | None = None
    error: str | None = None
    again_in: float = 0.0
    blames: bool = False
    slow: bool = False
    hold: float = 0.0
    counts: bool = True


# Only who holds the lease says what follows; whoever lost it only logs. When the tries are not as they were taken,
# somebody asked for a redelivery meanwhile, and only a delivery makes that needless. Tries that were under way when
# the breaker opened do not lengthen its time.
_RECORD = f"""
WITH logged AS (
    INSERT INTO callback_tries (job_id, at, http_status, seconds, error)
    SELECT $1, now() - make_interval(secs => $5), $6, $5, $7 WHERE $14::bool
), tried AS (
    UPDATE callbacks
    SET state = CASE WHEN asked_again.is_so THEN '{CallbackState.PENDING}' ELSE $4 END,
        leased = false,
        tries = CASE WHEN $14::bool OR asked_again.is_so THEN tries ELSE greatest(tries - 1, 0) END,
        due_at = now() + CASE WHEN asked_again.is_so THEN interval '0' ELSE make_interval(secs => $8) END,
        ended_at = CASE WHEN $4 <> '{CallbackState.PENDING}' AND NOT asked_again.is_so THEN now() END
    FROM (
        SELECT tries <> $12::int4 + 1 AND $4::text <> '{CallbackState.DELIVERED}' AS is_so
        FROM callbacks WHERE job_id = $1 FOR UPDATE
    ) AS asked_again
    WHERE job_id = $1 AND state = '{CallbackState.PENDING}' AND leased AND taken = $11
    RETURNING job_id, state
), to_count AS (
    INSERT INTO uncounted (job_id, part)
    SELECT job_id, 'callback' FROM tried WHERE state = '{CallbackState.DELIVERED}'
    ON CONFLICT DO NOTHING
), marked AS (
    INSERT INTO receivers AS known (tenant_id, receiver, failures, open_until, slow)
    SELECT $2, $3, $9::bool::int, CASE WHEN $13::float8 > 0 THEN now() + make_interval(secs => $13::float8) END,
           $10::bool
    WHERE ($9 OR $10) AND $14::bool
    ON CONFLICT (tenant_id, receiver) DO UPDATE
    SET slow = excluded.slow,
        failures = CASE WHEN excluded.failures = 0 THEN 0 WHEN known.open_until > now() THEN known.failures
                        ELSE known.failures + 1 END,
        open_until = greatest(
            excluded.open_until,
            CASE WHEN excluded.failures = 0 THEN NULL WHEN known.open_until > now() THEN known.open_until
                 WHEN known.failures + 1 >= {FAILURES} THEN now() + make_interval(secs => least(
                     {LONGEST_BREAK_SECONDS},
                     {SHORTEST_BREAK_SECONDS} * 2 ^ least(known.failures + 1 - {FAILURES}, 10))) END
        )
), cleared AS (
    DELETE FROM receivers WHERE tenant_id = $2 AND receiver = $3 AND NOT ($9 OR $10) AND $14::bool
)
SELECT EXISTS (
    SELECT FROM (
        {
    _EARLIEST.format(
        columns="due_at",
        state=CallbackState.PENDING,
        tenant="$2",
        receiver="$3",
        more=" AND job_id <> $1",
        limit="1",
    )
}
    ) AS next WHERE due_at <= now()
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
        due.taken,
        due.tries,
        min(tried.hold, LONGEST_BREAK_SECONDS),
        tried.counts,
    )
    return row is not None and bool(row["more"])


_END_THE_OLD = f"""
UPDATE callbacks SET state = '{CallbackState.GIVEN_UP}', leased = false, ended_at = clock_timestamp()
WHERE state = '{CallbackState.PENDING}' AND NOT (leased AND due_at > now())
  AND begun_at < now() - make_interval(secs => $1)
"""


async def tidy(db: Database, longest_seconds: float) -> None:
    """Give up what never had its turn, and forget receivers that nobody calls any more."""
    await db.execute(_END_THE_OLD, longest_seconds)
    await db.execute(
        "DELETE FROM receivers WHERE NOT EXISTS (SELECT FROM callbacks WHERE callbacks.tenant_id = receivers.tenant_id"
        f" AND callbacks.receiver = receivers.receiver AND state = '{CallbackState.PENDING}')"
        " AND (open_until IS NULL OR open_until < now())"
    )
