"""Tenants and what each of them wants done otherwise."""

from service.db import Database, Row
from service.jobs.lifecycle import OnDoubt


async def tenants(db: Database) -> list[Row]:
    return await db.fetch("SELECT name, on_doubt, join_seconds, created_at FROM tenants ORDER BY name")


async def set_on_doubt(db: Database, name: str, on_doubt: OnDoubt) -> bool:
    """False: there is no such tenant."""
    row = await db.fetchrow("UPDATE tenants SET on_doubt = $2 WHERE name = $1 RETURNING id", name, on_doubt.value)
    return row is not None


async def set_join_seconds(db: Database, name: str, seconds: float) -> bool:
    """For how long a submission is taken for one that was the same to the byte; 0: never. False: no such tenant."""
    row = await db.fetchrow(
        "UPDATE tenants SET join_seconds = nullif($2, 0) WHERE name = $1 RETURNING id", name, seconds
    )
    return row is not None
