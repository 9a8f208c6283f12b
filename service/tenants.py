"""Tenants and what each of them wants done otherwise."""

from service.db import Database, Row
from service.jobs.lifecycle import OnDoubt


async def tenants(db: Database) -> list[Row]:
    return await db.fetch("SELECT name, on_doubt, created_at FROM tenants ORDER BY name")


async def set_on_doubt(db: Database, name: str, on_doubt: OnDoubt) -> bool:
    """False: there is no such tenant."""
    row = await db.fetchrow("UPDATE tenants SET on_doubt = $2 WHERE name = $1 RETURNING id", name, on_doubt.value)
    return row is not None
