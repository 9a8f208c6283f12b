"""Telling the end of a job once more: one callback, or all since some time."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from service.callbacks.lifecycle import CallbackState
from service.db import Database, Row

# What is on its way is left to arrive, and the new series begins when it does not; what waits for its files is left to
# wait.
_AGAIN = f"""
WITH asked AS (
    {{asked}}
), again AS (
    UPDATE callbacks
    SET state = '{CallbackState.PENDING}', tries = 0, begun_at = now(), ended_at = NULL,
        due_at = CASE WHEN leased OR state = '{CallbackState.PENDING}' AND files_owed > 0 AND body IS NULL THEN due_at
                      ELSE now() END
    FROM asked WHERE callbacks.job_id = asked.job_id
    RETURNING callbacks.tenant_id, callbacks.receiver, callbacks.created_at, callbacks.job_id
)
SELECT tenant_id, receiver, created_at, job_id FROM again ORDER BY created_at, job_id
"""
_ONE_AGAIN = _AGAIN.format(asked="SELECT job_id FROM callbacks WHERE job_id = $1 FOR UPDATE")
_MANY_AGAIN = _AGAIN.format(
    asked="""SELECT job_id FROM callbacks
    WHERE tenant_id = $1 AND (created_at, job_id) > ($2, $3) AND created_at < $4 AND state = coalesce($5::text, state)
      -- Not what was removed.
      AND (body IS NOT NULL OR EXISTS (SELECT FROM results WHERE results.job_id = callbacks.job_id))
    ORDER BY created_at, job_id LIMIT $6 FOR UPDATE"""
)
AGAIN_AT_A_TIME = 500

# Whoever asks believes that the receiver is back, so one callback may try for all at once.
_LET_ONE_TRY = """
UPDATE receivers SET open_until = least(open_until, now())
FROM unnest($1::uuid[], $2::text[]) AS asked (tenant_id, receiver)
WHERE receivers.tenant_id = asked.tenant_id AND receivers.receiver = asked.receiver
"""


async def redeliver(db: Database, job_id: UUID) -> None:
    """Begin a new series of tries, with the same ID and the same bytes."""
    await _let_one_try(db, await db.fetch(_ONE_AGAIN, job_id))


async def redeliver_many(
    db: Database, tenant_id: UUID | None, since: datetime, until: datetime | None, state: CallbackState | None
) -> int:
    """As `redeliver`, for all jobs that ended in that time, of one tenant or of all. Returns how many.

    A few at a time, so that nobody waits long for the rows of others.
    """
    asked = await db.fetch(
        "SELECT id, coalesce($2, now()) AS until FROM tenants WHERE id = coalesce($1, id) ORDER BY id", tenant_id, until
    )
    wanted, number = state.value if state else None, 0
    for tenant in asked:
        last = since, UUID(int=0)
        while rows := await db.fetch(_MANY_AGAIN, tenant["id"], *last, tenant["until"], wanted, AGAIN_AT_A_TIME):
            await _let_one_try(db, rows)
            number += len(rows)
            last = rows[-1]["created_at"], rows[-1]["job_id"]
    return number


async def _let_one_try(db: Database, asked: Sequence[Row]) -> None:
    receivers = sorted({(row["tenant_id"], row["receiver"]) for row in asked})
    await db.execute(_LET_ONE_TRY, [tenant for tenant, _ in receivers], [receiver for _, receiver in receivers])
