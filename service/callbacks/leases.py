"""What a worker has in hand stays its own as long as it says so, in one statement for all of it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

import structlog

from service.db import DatabaseAway

log = structlog.get_logger()

Held = tuple[UUID, int]

# A callback whose worker died is somebody else's after this long; whoever has it says so more often.
LEASE_SECONDS = 4.0
RENEWED_EVERY_SECONDS = 1.0


class Leases:
    """Renews what is held, while anything is. A lease is a job and the number under which it was taken."""

    def __init__(self, renew: Callable[[Sequence[Held]], Awaitable[None]]) -> None:
        self._renew = renew
        self._held: set[Held] = set()
        self._renewing: asyncio.Task[None] | None = None

    @contextmanager
    def held(self, job_id: UUID, taken: int) -> Iterator[None]:
        lease = (job_id, taken)
        self._held.add(lease)
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._held.discard(lease)

    async def _run(self) -> None:
        try:
            while self._held:
                await asyncio.sleep(RENEWED_EVERY_SECONDS)
                if self._held:
                    await self._renew_all()
        finally:
            self._renewing = None

    async def _renew_all(self) -> None:
        """What fails here may be in time at the next turn; if it is not, somebody else tries that callback again."""
        try:
            await self._renew(list(self._held))
        except DatabaseAway as error:
            log.warning("callbacks in hand were not renewed", error=repr(error.__cause__))
        except Exception:  # The leases of the others in hand must not end with the task that renews them.
            log.exception("callbacks in hand were not renewed")
