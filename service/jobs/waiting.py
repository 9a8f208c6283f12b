"""Waiting for jobs to change, on one LISTEN connection and one statement a second for a whole process.

Who waits leaves a row in `waiters`; the statements that end or start a job notify only jobs that have one, so that
nobody pays for a notification that nobody hears. A notification is a hint and may be lost: once a second one
statement looks at all jobs that this process waits for, and wakes whoever waits for one that is not as it was.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from service.db import AWAY, Database, DatabaseAway, is_being_cancelled
from service.jobs.guards import CHANNEL
from service.jobs.lifecycle import Status

log = structlog.get_logger()

LOOK_AGAIN_SECONDS = 1.0

# A row among the waiters counts for so long, and is written anew in good time while somebody waits.
LEASE_SECONDS = 90.0
RENEW_SECONDS = 30.0

_WAIT = """
INSERT INTO waiters (job_id, until)
SELECT job_id, now() + make_interval(secs => $2) FROM unnest($1::uuid[]) AS asked (job_id) ORDER BY job_id
ON CONFLICT (job_id) DO UPDATE SET until = greatest(waiters.until, excluded.until)
"""

_LOOK = """
SELECT asked.job_id, live_jobs.status, live_jobs.queue_position,
       (SELECT max(id) FROM job_events WHERE job_events.job_id = asked.job_id) AS last_event
FROM unnest($1::uuid[]) AS asked (job_id) LEFT JOIN live_jobs ON live_jobs.job_id = asked.job_id
"""

# Whoever looks at all jobs of a tenant, or of all tenants, is told that something changed, not what.
LOOK_AT_ALL_SECONDS = 2.0
_COUNTED = 1_000
_counts = ", ".join(f"count(*) FILTER (WHERE status = '{status}')" for status in Status)
_LOOK_AT_ALL = f"""
SELECT asked.tenant_id,
       CASE WHEN asked.tenant_id IS NULL THEN (SELECT max(id) FROM job_events)::text ELSE (
           SELECT concat_ws(' ', {_counts}, max(job_id::text))
           FROM (SELECT job_id, status FROM live_jobs WHERE live_jobs.tenant_id = asked.tenant_id
                 ORDER BY job_id DESC LIMIT {_COUNTED}) AS newest
       ) END AS live,
       CASE WHEN asked.tenant_id IS NOT NULL THEN (
           SELECT job_id FROM outcomes WHERE outcomes.tenant_id = asked.tenant_id ORDER BY job_id DESC LIMIT 1
       ) END AS ended
FROM unnest($1::uuid[]) AS asked (tenant_id)
"""


class Waiting:
    def __init__(self, db: Database) -> None:
        self._db = db
        self._viewers: dict[UUID | None, set[asyncio.Event]] = {}
        self._viewed: dict[UUID | None, tuple[object, ...]] = {}
        self._viewed_at = monotonic()
        self._events: dict[UUID, set[asyncio.Event]] = {}
        self._seen: dict[UUID, tuple[object, ...]] = {}
        self._renewed = monotonic()
        self.stopped = False

    def stop(self) -> None:
        """The process ends: let everybody who waits go on with what there is."""
        self.stopped = True
        for changed in set().union(*self._events.values(), *self._viewers.values()):
            changed.set()

    @asynccontextmanager
    async def on(self, job_id: UUID) -> AsyncGenerator[asyncio.Event]:
        """An event that is set when the job has changed. Look at the job after this began, then wait."""
        changed = asyncio.Event()
        self._events.setdefault(job_id, set()).add(changed)
        try:
            with suppress(DatabaseAway):  # Then nobody tells, and the look of every second has to do.
                await self._db.execute(_WAIT, [job_id], LEASE_SECONDS)
            yield changed
        finally:
            others = self._events[job_id]
            others.discard(changed)
            if not others:
                del self._events[job_id]

    @asynccontextmanager
    async def on_all(self, tenant_id: UUID | None) -> AsyncGenerator[asyncio.Event]:
        """An event that is set when any job of the tenant, or of any tenant (None), has changed; within seconds."""
        changed = asyncio.Event()
        self._viewers.setdefault(tenant_id, set()).add(changed)
        try:
            yield changed
        finally:
            others = self._viewers[tenant_id]
            others.discard(changed)
            if not others:
                del self._viewers[tenant_id]
                self._viewed.pop(tenant_id, None)

    def _wake(self, job_id: UUID) -> None:
        for changed in self._events.get(job_id, ()):
            changed.set()

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self._wake(UUID(str(payload)))

    async def listen(self, database_url: str) -> None:
        """Runs until it is cancelled; a connection that is lost is made again."""
        # To close one may say that it is lost, in place of the cancellation.
        while not is_being_cancelled():
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
            except Exception:
                log.exception("not listening")  # Whoever waits is woken by the look of every second meanwhile.
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def look(self) -> None:
        """Runs until it is cancelled: what no notification told is seen within a second or so."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            try:
                if self._events:
                    await self._look()
                if self._viewers and monotonic() - self._viewed_at >= LOOK_AT_ALL_SECONDS:
                    await self._look_at_all()
            except DatabaseAway as error:
                log.warning("not looking: the database is away", error=repr(error.__cause__))
            except Exception:  # The next look is a second later.
                log.exception("a look at the jobs that are waited for failed")

    async def _look(self) -> None:
        waited_for = list(self._events)
        if monotonic() - self._renewed > RENEW_SECONDS:
            await self._db.execute(_WAIT, waited_for, LEASE_SECONDS)
            self._renewed = monotonic()
        before, self._seen = self._seen, {}
        for job_id, *facts in await self._db.fetch(_LOOK, waited_for):
            self._seen[job_id] = tuple(facts)
            if before.get(job_id) != tuple(facts):
                self._wake(job_id)

    async def _look_at_all(self) -> None:
        self._viewed_at = monotonic()
        for tenant_id, *facts in await self._db.fetch(_LOOK_AT_ALL, list(self._viewers)):
            seen = tuple(facts)
            before = self._viewed.get(tenant_id)
            if tenant_id in self._viewers:
                self._viewed[tenant_id] = seen
            # Who began to look just now has seen what there is.
            if before is not None and before != seen:
                for changed in self._viewers.get(tenant_id, ()):
                    changed.set()


async def wait_for(changed: asyncio.Event, seconds: float) -> bool:
    """Until the event is set, or the time is over (False)."""
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return False
    changed.clear()
    return True
