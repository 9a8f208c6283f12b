"""Callbacks of many jobs, newest first, and the receivers that fail: bounded, however many there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from service.callbacks.lifecycle import CallbackState
from service.db import Database, Row

LONGEST_WALK = 1_000
MOST_RECEIVERS = 100
MOST_COUNTED = 1_000

Place = tuple[datetime, UUID]
NEWEST: Place = (datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))

_COLUMNS = "job_id, tenant_id, receiver, state, due_at, leased, tries, created_at, ended_at"
_LAST_TRY = """
LEFT JOIN LATERAL (
    SELECT http_status, error FROM callback_tries WHERE callback_tries.job_id = shown.job_id ORDER BY id DESC LIMIT 1
) AS last ON true
"""
_LIST = f"""
WITH walk AS MATERIALIZED (
    SELECT each.* FROM unnest($1::uuid[]) AS owner (id) CROSS JOIN LATERAL (
        SELECT {_COLUMNS} FROM callbacks WHERE callbacks.tenant_id = owner.id AND (created_at, job_id) < ($2, $3)
        ORDER BY created_at DESC, job_id DESC LIMIT {LONGEST_WALK}
    ) AS each ORDER BY created_at DESC, job_id DESC LIMIT {LONGEST_WALK}
), shown AS (
    SELECT * FROM walk WHERE $4::text IS NULL OR state = $4 ORDER BY created_at DESC, job_id DESC LIMIT $5
)
SELECT shown.*, last.http_status, last.error, false AS is_end FROM shown {_LAST_TRY}
UNION ALL
SELECT (SELECT job_id FROM walk ORDER BY created_at, job_id LIMIT 1), NULL, NULL, NULL, NULL, NULL,
       (SELECT count(*) FROM walk)::int2, (SELECT min(created_at) FROM walk), NULL, NULL, NULL, true
"""
# Those that were not delivered yet may be old; they are few, and have an index of their own.
_PENDING = f"""
WITH walk AS MATERIALIZED (
    SELECT {_COLUMNS} FROM callbacks WHERE state = '{CallbackState.PENDING}' ORDER BY due_at LIMIT 2000
), shown AS (
    SELECT * FROM walk WHERE tenant_id = ANY ($1::uuid[]) ORDER BY due_at LIMIT $2
)
SELECT shown.*, last.http_status, last.error FROM shown {_LAST_TRY} ORDER BY due_at
"""
_RECEIVERS = f"""
SELECT receivers.*, open_until > now() AS is_held,
       (SELECT count(*) FROM (
           SELECT FROM callbacks WHERE callbacks.tenant_id = receivers.tenant_id
             AND callbacks.receiver = receivers.receiver AND state = '{CallbackState.PENDING}'
           LIMIT {MOST_COUNTED + 1}
       ) AS counted) AS waiting
FROM receivers WHERE $1::uuid IS NULL OR tenant_id = $1
ORDER BY open_until DESC NULLS LAST, failures DESC LIMIT {MOST_RECEIVERS}
"""


@dataclass(frozen=True, slots=True)
class Told:
    """`older` is where the next page begins; `searched_to` how far a page came that was not filled."""

    rows: Sequence[Row]
    older: Place | None
    searched_to: datetime | None


async def told(db: Database, owners: Sequence[UUID], state: CallbackState | None, before: Place, limit: int) -> Told:
    """Of these tenants, with what came of each one's last try; those that are pending in the order of their time."""
    if state is CallbackState.PENDING:
        return Told(await db.fetch(_PENDING, list(owners), limit), None, None)
    found = await db.fetch(_LIST, list(owners), *before, state.value if state else None, limit + 1)
    end = next(row for row in found if row["is_end"])
    rows = sorted(
        (row for row in found if not row["is_end"]), key=lambda row: (row["created_at"], row["job_id"]), reverse=True
    )
    if len(rows) > limit:
        last = rows[limit - 1]
        return Told(rows[:limit], (last["created_at"], last["job_id"]), None)
    if end["tries"] < LONGEST_WALK:
        return Told(rows, None, None)
    return Told(rows, (end["created_at"], end["job_id"]), end["created_at"])


async def failing(db: Database, tenant_id: UUID | None) -> list[Row]:
    """Receivers that fail or are slow, those that are held first, with the callbacks that wait, up to a bound."""
    return await db.fetch(_RECEIVERS, tenant_id)
