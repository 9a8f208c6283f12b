"""Providers to which nothing is submitted for now: their jobs stay queued, and none is burned.

A provider that takes nothing from this account (a bad key, a used-up balance) is paused by the first worker that hears
so. One job at a time then tries again, `store.claim` sees to that, and the first that gets through ends the pause.
"""

from service.catalog.text import storable
from service.db import Database, Row
from service.jobs.guards import TEXT_EXCERPT

# How long after one job was turned away the next one tries.
PROBE_SECONDS = 30.0

# A pause by an operator, which no probe ends, is not overwritten.
_PAUSE = """
INSERT INTO provider_pauses (provider, reason, http_status, probe_at)
VALUES ($1, $2, $3, now() + make_interval(secs => $4))
ON CONFLICT (provider) DO UPDATE
SET reason = excluded.reason, http_status = excluded.http_status, probe_at = excluded.probe_at
WHERE provider_pauses.probe_at IS NOT NULL
RETURNING paused_at = now() AS begun
"""


async def pause(db: Database, provider: str, reason: str, http_status: int | None) -> bool:
    """Submit nothing until a probe gets through. Returns whether the pause began with this."""
    row = await db.fetchrow(_PAUSE, provider, storable(reason, TEXT_EXCERPT), http_status, PROBE_SECONDS)
    return row is not None and bool(row["begun"])


async def pause_by_hand(db: Database, provider: str, reason: str) -> None:
    """Submit nothing until `resume`."""
    await db.execute(
        "INSERT INTO provider_pauses (provider, reason) VALUES ($1, $2) ON CONFLICT (provider)"
        " DO UPDATE SET reason = excluded.reason, http_status = NULL, probe_at = NULL",
        provider,
        reason,
    )


async def resume(db: Database, provider: str, *, by_probe: bool = False) -> bool:
    """Submit again. False: it was not paused, or not so that a probe may end it."""
    row = await db.fetchrow(
        "DELETE FROM provider_pauses WHERE provider = $1 AND (probe_at IS NOT NULL OR NOT $2) RETURNING provider",
        provider,
        by_probe,
    )
    return row is not None


async def pauses(db: Database) -> list[Row]:
    return await db.fetch("SELECT * FROM provider_pauses ORDER BY provider")
