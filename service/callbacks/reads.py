"""What is shown of callbacks."""

from uuid import UUID

from service.callbacks.lifecycle import CallbackState
from service.db import Database, Row

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
