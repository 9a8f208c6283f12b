"""Jobs that ended and owe a callback, and what became of it."""

import json
from typing import Any
from uuid import UUID

from service.callbacks import reads, records
from service.callbacks.delivering import LARGEST_BYTES, Deliverer
from service.callbacks.leases import LEASE_SECONDS
from service.callbacks.schedule import MOST_TRIES
from service.catalog.base import Lifted, LiftedFile
from service.db import Database, Row
from service.jobs import endings
from service.jobs.facts import Ending
from tests import making


async def ended(db: Database, tenant: UUID, url: str, ending: Ending | None = None, **changes: Any) -> UUID:
    """A job that its provider ended, and that named this address."""
    claim = await making.ended(db, tenant, ending, webhook_url=url, **changes)
    return claim.job_id


async def ended_with_files(db: Database, tenant: UUID, url: str, *files: str) -> UUID:
    claim = await making.submitted(db, tenant, webhook_url=url)
    lifted = Lifted(files=tuple(LiftedFile("mask", index, file) for index, file in enumerate(files)))
    output = making.completed(json.dumps({"masks": [{"url": file} for file in files]}).encode())
    assert await endings.settle(db, claim.job_id, 1, output, making.heard(output.body), "webhook", lifted)
    return claim.job_id


async def ended_many(db: Database, tenant: UUID, url: str, number: int) -> list[UUID]:
    """Many of one kind, in two statements."""
    first = await ended(db, tenant, url)
    ids = [row["id"] for row in await db.fetch(_COPY_JOBS, first, number - 1)]
    await db.execute(_COPY_OUTCOMES, first, ids)
    await db.execute(_COPY_CALLBACKS, first, ids)
    return [first, *ids]


_COPY_JOBS = """
INSERT INTO jobs (id, tenant_id, model, provider, priority, metadata, tags, webhook_url)
SELECT gen_random_uuid(), tenant_id, model, provider, priority, metadata, tags, webhook_url
FROM jobs, generate_series(1, $2) WHERE id = $1 RETURNING id
"""
_COPY_OUTCOMES = """
WITH outcome AS (
    INSERT INTO outcomes (job_id, tenant_id, model, provider, created_at, status, attempt, source, http_status, usage,
                          model_timings, received_at, completed_at, total_seconds)
    SELECT each, tenant_id, model, provider, created_at, status, attempt, source, http_status, usage, model_timings,
           received_at, completed_at, total_seconds
    FROM outcomes, unnest($2::uuid[]) AS each WHERE job_id = $1
)
INSERT INTO results (job_id, body) SELECT each, body FROM results, unnest($2::uuid[]) AS each WHERE job_id = $1
"""
_COPY_CALLBACKS = """
INSERT INTO callbacks (job_id, tenant_id, receiver) SELECT each, tenant_id, receiver
FROM callbacks, unnest($2::uuid[]) AS each WHERE job_id = $1
"""


async def take(
    db: Database, limit: int = 10, lease_seconds: float = LEASE_SECONDS, **changes: Any
) -> list[records.DueCallback]:
    """As a worker does that has nothing in hand."""
    wanted = {
        "slow": False,
        "overlap_seconds": 0.0,
        "most_tries": MOST_TRIES,
        "share": limit,
        "largest_bytes": LARGEST_BYTES,
    }
    return await records.take(db, limit, lease_seconds, **{**wanted, **changes})


async def callback(db: Database, job_id: UUID) -> Row:
    row = await reads.callback_of(db, job_id)
    assert row is not None
    return row


async def state(db: Database, job_id: UUID) -> str:
    return str((await callback(db, job_id))["state"])


async def tries(db: Database, job_id: UUID) -> list[tuple[int | None, str | None]]:
    return [(row["http_status"], row["error"]) for row in await reads.tries_of(db, job_id)]


async def make_due(db: Database, *job_ids: UUID) -> None:
    await db.execute("UPDATE callbacks SET due_at = now() - interval '1 ms' WHERE job_id = ANY ($1)", job_ids)


async def try_now(deliverer: Deliverer, db: Database, job_id: UUID) -> None:
    """The next try, whatever the schedule says."""
    await make_due(db, job_id)
    await drain(deliverer)


async def end_the_breaks(db: Database) -> None:
    await db.execute("UPDATE receivers SET open_until = now() - interval '1 ms' WHERE open_until IS NOT NULL")


async def drain(deliverer: Deliverer) -> None:
    """Until nothing is due to anybody who may be called: what is found slow, or not, moves from one to the other."""
    for pump in (deliverer.pump, deliverer.slow) * 2:
        await pump.drain()


async def due_in(db: Database, job_id: UUID) -> float:
    row = await db.fetchrow(
        "SELECT extract(epoch FROM due_at - now())::float8 AS seconds FROM callbacks WHERE job_id = $1", job_id
    )
    assert row is not None
    return float(row["seconds"])
