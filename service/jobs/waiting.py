"""Waiting for a job to change, on one LISTEN connection a process.

A waiter leaves a row in `waiters`; the statement that ends a job notifies only jobs that have one, so
that nobody pays for a notification that nobody hears. It is a hint: whoever waits looks again each second.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from service.db import AWAY, Database
from service.jobs.guards import CHANNEL

log = structlog.get_logger()

LOOK_AGAIN_SECONDS = 1.0

_WAIT = """
INSERT INTO waiters (job_id, until) VALUES ($1, now() + make_interval(secs => $2))
ON CONFLICT (job_id) DO UPDATE SET until = greatest(waiters.until, excluded.until)
"""


class Waiting:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._events: dict[UUID, set[asyncio.Event]] = {}
        self.stopped = False

    def stop(self) -> None:
        """The process ends: let everybody who waits go on with what there is."""
        self.stopped = True
        for changed in set().union(*self._events.values()):
            changed.set()

    @asynccontextmanager
    async def on(self, job_id: UUID, seconds: float) -> AsyncGenerator[asyncio.Event]:
        """An event that is set when the job has changed, for at most `seconds`."""
        changed = asyncio.Event()
        self._events.setdefault(job_id, set()).add(changed)
        try:
            await self._db.execute(_WAIT, job_id, seconds)
            yield changed
        finally:
            others = self._events[job_id]
            others.discard(changed)
            if not others:
                del self._events[job_id]

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        for changed in self._events.get(UUID(str(payload)), ()):
            changed.set()

    async def listen(self, database_url: str) -> None:
        """Runs until it is cancelled; a connection that is lost is made again."""
        while True:
            try:
                connection = await asyncpg.connect(database_url, timeout=5)
                gone = asyncio.Event()
                connection.add_termination_listener(lambda _, gone=gone: gone.set())
                await connection.add_listener(CHANNEL, self._heard)
                try:
                    await gone.wait()
                finally:
                    await connection.close(timeout=2)
            except AWAY as error:
                log.warning("not listening: the database is away", error=repr(error))
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


async def wait_for(changed: asyncio.Event, seconds: float) -> None:
    """Until the event is set, and no longer than the next look is due."""
    try:
        await asyncio.wait_for(changed.wait(), min(seconds, LOOK_AGAIN_SECONDS))
    except TimeoutError:
        return
    changed.clear()
