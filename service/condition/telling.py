"""What an API process writes of itself beside its requests: that it works, and which webhooks it refused."""

import asyncio

import structlog

from service.condition.processes import Stamper
from service.condition.refusals import FLUSH_SECONDS, Refusals
from service.db import Database, DatabaseAway

log = structlog.get_logger()

# Nobody waits long for the last words of a process.
LAST_SECONDS = 2.0


async def tell(db: Database, stamper: Stamper, refusals: Refusals) -> None:
    """Runs until it is cancelled, and says then that it ended."""
    try:
        while True:
            await _once(db, stamper, refusals)
            await asyncio.sleep(FLUSH_SECONDS)
    finally:
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await refusals.flush(db)
                await stamper.end()
        except (DatabaseAway, TimeoutError):
            log.info("the last words were not written down")


async def _once(db: Database, stamper: Stamper, refusals: Refusals) -> None:
    try:
        await refusals.flush(db)
        if stamper.is_due:
            await stamper.stamp()
    except DatabaseAway:
        return  # Whoever needs it says so; here it is tried again soon.
    except Exception:  # That it cannot be told is no reason for the process not to work.
        log.exception("a process could not write down how it is")
