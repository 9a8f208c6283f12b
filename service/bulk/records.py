"""Statements about bulk actions: each may be repeated, and whoever repeats it finds what was done."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

from service.bulk.lifecycle import UNDER_WAY, BulkOutcome, BulkState, BulkVerb
from service.db import Database, Row
from service.errors import IdempotencyMismatch
from service.jsontext import encode

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

_UNDER_WAY = f"state IN ({', '.join(repr(state.value) for state in UNDER_WAY)})"

Conditions = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class NewAction:
    """`of_tenant` is None for the jobs of all tenants. `expected` jobs were counted, or more if that is not exact."""

    id: UUID
    tenant_id: UUID
    key_id: str
    idempotency_key: str
    fingerprint: bytes
    verb: BulkVerb
    of_tenant: UUID | None
    conditions: Conditions
    expected: int
    expected_is_exact: bool
    expected_cost: Decimal | None


@dataclass(frozen=True, slots=True)
class Action:
    """A bulk action as a worker has it: how far it is."""

    id: UUID
    verb: BulkVerb
    state: BulkState
    of_tenant: UUID | None
    conditions: Conditions
    created_at: datetime
    walked_tenant: UUID | None
    walked_to: UUID | None
    walk_ended: bool


@dataclass(frozen=True, slots=True)
class Planned:
    """A job that an action has taken, and the ID that its retry has or will have."""

    job_id: UUID
    tenant_id: UUID
    new_job_id: UUID | None


@dataclass(frozen=True, slots=True)
class Came:
    """What came of one job."""

    job_id: UUID
    outcome: BulkOutcome
    reason: str | None = None
    new_job_id: UUID | None = None


_CREATE = """
INSERT INTO bulk_actions (id, tenant_id, key_id, idempotency_key, fingerprint, action, of_tenant, conditions, expected,
                          expected_is_exact, expected_cost)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9, $10, $11)
ON CONFLICT (tenant_id, idempotency_key) DO NOTHING
RETURNING id
"""
_KNOWN = "SELECT id, fingerprint FROM bulk_actions WHERE tenant_id = $1 AND idempotency_key = $2"


async def find_known(db: Database, tenant_id: UUID, key: str, fingerprint: bytes) -> UUID | None:
    """The action that this key made before. Raises IdempotencyMismatch."""
    row = await db.fetchrow(_KNOWN, tenant_id, key)
    if row is not None and bytes(row["fingerprint"]) != fingerprint:
        raise IdempotencyMismatch
    return row["id"] if row else None


async def create(db: Database, action: NewAction) -> tuple[UUID, bool]:
    """The action's ID, and whether this made it. Raises IdempotencyMismatch."""
    made = await db.fetchrow(
        _CREATE,
        action.id,
        action.tenant_id,
        action.key_id,
        action.idempotency_key,
        action.fingerprint,
        action.verb.value,
        action.of_tenant,
        encode([list(pair) for pair in action.conditions]).decode(),
        action.expected,
        action.expected_is_exact,
        action.expected_cost,
    )
    if made is not None:
        return action.id, True
    known = await find_known(db, action.tenant_id, action.idempotency_key, action.fingerprint)
    assert known is not None  # Actions are never deleted while their key may come again.
    return known, False


_TAKE = f"""
UPDATE bulk_actions SET leased_until = now() + make_interval(secs => $1)
WHERE id = (
    SELECT id FROM bulk_actions WHERE {_UNDER_WAY} AND leased_until <= now()
    ORDER BY leased_until LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, action, state, of_tenant, conditions, created_at, walked_tenant, walked_to, walk_ended
"""


async def take(db: Database, lease_seconds: float) -> Action | None:
    """The action that nobody has worked at for the longest time."""
    row = await db.fetchrow(_TAKE, lease_seconds)
    if row is None:
        return None
    return Action(
        row["id"],
        BulkVerb(row["action"]),
        BulkState(row["state"]),
        row["of_tenant"],
        conditions_of(row),
        row["created_at"],
        row["walked_tenant"],
        row["walked_to"],
        row["walk_ended"],
    )


def conditions_of(row: Row) -> Conditions:
    return [(name, value) for name, value in json.loads(row["conditions"])]


# Only whoever stands where the walk stands goes on from there.
_PLAN = """
WITH moved AS (
    UPDATE bulk_actions SET walked_tenant = $4, walked_to = $5, walk_ended = $6
    WHERE id = $1 AND state = 'running' AND walked_tenant IS NOT DISTINCT FROM $2 AND walked_to IS NOT DISTINCT FROM $3
    RETURNING id
)
INSERT INTO bulk_results (bulk_id, job_id, tenant_id, new_job_id)
SELECT moved.id, planned.job_id, planned.tenant_id, planned.new_job_id
FROM moved, unnest($7::uuid[], $8::uuid[], $9::uuid[]) AS planned (job_id, tenant_id, new_job_id)
ON CONFLICT DO NOTHING
"""


async def plan(
    db: Database,
    action: Action,
    planned: Sequence[Planned],
    walked_tenant: UUID | None,
    walked_to: UUID | None,
    *,
    ended: bool,
) -> None:
    """Write down which jobs are next, before anything is done to them, and how far the walk is."""
    await db.execute(
        _PLAN,
        action.id,
        action.walked_tenant,
        action.walked_to,
        walked_tenant,
        walked_to,
        ended,
        [each.job_id for each in planned],
        [each.tenant_id for each in planned],
        [each.new_job_id for each in planned],
    )


async def planned(db: Database, action_id: UUID, limit: int) -> list[Planned]:
    """Jobs that were taken, and of which nothing is known yet."""
    rows = await db.fetch(
        "SELECT job_id, tenant_id, new_job_id FROM bulk_results WHERE bulk_id = $1 AND outcome = 'planned'"
        " ORDER BY job_id LIMIT $2",
        action_id,
        limit,
    )
    return [Planned(**dict(row)) for row in rows]


_HOLD = """
SELECT job_id, new_job_id FROM bulk_results
WHERE bulk_id = $1 AND job_id = ANY ($2::uuid[]) AND outcome = 'planned' ORDER BY job_id FOR UPDATE
"""

# The ID of a retry that is there tells who made it.
_RENEW = """
UPDATE bulk_results SET new_job_id = fresh.id
FROM unnest($2::uuid[], $3::uuid[]) AS fresh (job_id, id)
WHERE bulk_results.bulk_id = $1 AND bulk_results.job_id = fresh.job_id
  AND NOT EXISTS (SELECT FROM jobs WHERE jobs.id = bulk_results.new_job_id)
RETURNING bulk_results.job_id, bulk_results.new_job_id
"""


async def hold_planned(
    connection: "PoolConnectionProxy[Row]",
    action_id: UUID,
    job_ids: Sequence[UUID],
    is_old: Callable[[UUID], bool],
    new_id: Callable[[], UUID],
) -> list[tuple[UUID, UUID]]:
    """Those of these jobs that nothing is known of yet, each with the ID of its retry, until the transaction ends.

    An ID that is too old for a job that is registered now is made anew.
    """
    asked = {row["job_id"]: row["new_job_id"] for row in await connection.fetch(_HOLD, action_id, job_ids)}
    if old := [job_id for job_id, new_job_id in asked.items() if is_old(new_job_id)]:
        rows = await connection.fetch(_RENEW, action_id, old, [new_id() for _ in old])
        asked |= {row["job_id"]: row["new_job_id"] for row in rows}
    return list(asked.items())


# All are locked in the order of their IDs first, as in `_HOLD`, so that no two that go on at once wait for each other.
_RECORD = """
WITH came AS (
    SELECT * FROM unnest($2::uuid[], $3::text[], $4::text[], $5::uuid[]) AS came (job_id, outcome, reason, new_job_id)
), held AS (
    SELECT FROM bulk_results WHERE bulk_id = $1 AND job_id = ANY ($2::uuid[]) ORDER BY job_id FOR UPDATE
), marked AS (
    UPDATE bulk_results
    SET outcome = came.outcome, reason = came.reason, new_job_id = came.new_job_id
    FROM came
    WHERE bulk_results.bulk_id = $1 AND bulk_results.job_id = came.job_id AND bulk_results.outcome = 'planned'
      AND (SELECT count(*) FROM held) >= 0
    RETURNING bulk_results.outcome
)
UPDATE bulk_actions
SET done = done + (SELECT count(*) FROM marked WHERE outcome = 'done'),
    skipped = skipped + (SELECT count(*) FROM marked WHERE outcome = 'skipped'),
    failed = failed + (SELECT count(*) FROM marked WHERE outcome = 'failed'),
    error = NULL
WHERE id = $1
"""


async def record(db: Database, action_id: UUID, came: Sequence[Came]) -> None:
    """Keep what came of these, once."""
    await db.execute(
        _RECORD,
        action_id,
        [each.job_id for each in came],
        [each.outcome.value for each in came],
        [each.reason for each in came],
        [each.new_job_id for each in came],
    )


# It is over when the walk is and nothing is left of it. If not, it may be taken again after so many seconds.
_RELEASE = f"""
UPDATE bulk_actions
SET leased_until = now() + make_interval(secs => $2), error = $3,
    state = CASE WHEN is_over.so THEN CASE state WHEN 'running' THEN 'done' ELSE 'aborted' END ELSE state END,
    ended_at = CASE WHEN is_over.so THEN now() END
FROM (
    SELECT (walk_ended OR state = 'aborting')
           AND NOT EXISTS (SELECT FROM bulk_results WHERE bulk_id = $1 AND outcome = 'planned') AS so
    FROM bulk_actions WHERE id = $1
) AS is_over
WHERE id = $1 AND {_UNDER_WAY}
"""


async def release(db: Database, action_id: UUID, again_in: float = 0.0, error: str | None = None) -> None:
    await db.execute(_RELEASE, action_id, again_in, error)


async def abort(db: Database, action_id: UUID) -> None:
    """Let nothing more be begun. What is being done at this moment is finished, and then it is aborted."""
    await db.execute(
        "UPDATE bulk_actions SET state = 'aborting' WHERE id = $1 AND state = 'running'",
        action_id,
    )


_SHOWN = """
SELECT bulk_actions.*, asked.name AS tenant, meant.name AS of_tenant_name
FROM bulk_actions JOIN tenants AS asked ON asked.id = bulk_actions.tenant_id
LEFT JOIN tenants AS meant ON meant.id = bulk_actions.of_tenant
"""


async def get(db: Database, tenant_id: UUID | None, action_id: UUID) -> Row | None:
    """One that this tenant asked for of its own jobs, or any (None)."""
    return await db.fetchrow(
        f"{_SHOWN} WHERE bulk_actions.id = $1 AND ($2::uuid IS NULL OR bulk_actions.tenant_id = $2 AND of_tenant = $2)",
        action_id,
        tenant_id,
    )


async def newest(db: Database, tenant_id: UUID | None, before: UUID | None, limit: int) -> list[Row]:
    """Those that this tenant asked for of its own jobs, or all (None), newest first."""
    mine = "" if tenant_id is None else "bulk_actions.tenant_id = $3 AND of_tenant = $3 AND"
    sql = f"{_SHOWN} WHERE {mine} bulk_actions.id < $1 ORDER BY bulk_actions.id DESC LIMIT $2"
    last = before or UUID(int=2**128 - 1)
    return await db.fetch(sql, last, limit, *(() if tenant_id is None else (tenant_id,)))


async def results(
    db: Database, action_id: UUID, outcome: BulkOutcome | None, before: UUID | None, limit: int
) -> list[Row]:
    """What came of its jobs, newest jobs first."""
    last = before or UUID(int=2**128 - 1)
    if outcome is None:
        return await db.fetch(
            "SELECT job_id, outcome, reason, new_job_id FROM bulk_results WHERE bulk_id = $1 AND job_id < $2"
            " ORDER BY job_id DESC LIMIT $3",
            action_id,
            last,
            limit,
        )
    return await db.fetch(
        "SELECT job_id, outcome, reason, new_job_id FROM bulk_results"
        " WHERE bulk_id = $1 AND outcome = $4 AND job_id < $2 ORDER BY job_id DESC LIMIT $3",
        action_id,
        last,
        limit,
        outcome.value,
    )


async def next_tenant(db: Database, after: UUID | None) -> UUID | None:
    row = await db.fetchrow("SELECT id FROM tenants WHERE id > $1 ORDER BY id LIMIT 1", after or UUID(int=0))
    return row["id"] if row else None


# What came of single jobs is kept for a while, the action itself for good.
RESULTS_DAYS = 90.0
_FORGET = """
DELETE FROM bulk_results WHERE ctid = ANY (ARRAY(
    SELECT bulk_results.ctid FROM bulk_results JOIN bulk_actions ON bulk_actions.id = bulk_id
    WHERE ended_at < now() - make_interval(secs => $1) LIMIT $2
))
"""
FORGET_AT_A_TIME = 10_000


async def tidy(db: Database, days: float = RESULTS_DAYS) -> None:
    while await db.execute(_FORGET, days * 86_400, FORGET_AT_A_TIME) == f"DELETE {FORGET_AT_A_TIME}":
        continue
