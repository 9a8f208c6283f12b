"""What a worker has in hand stays its own as long as it says so, in one statement for all of it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import UUID

from service.db import DatabaseAway

# A callback whose worker died is somebody else's after this long; whoever has it says so more often.
LEASE_SECONDS = 8.0
RENEWED_EVERY_SECONDS = 2.0


class Leases:
    """Renews what is held, while anything is."""

    def __init__(self, renew: Callable[[Sequence[UUID]], Awaitable[None]]) -> None:
        self._renew = renew
        self._held: set[UUID] = set()
        self._renewing: asyncio.Task[None] | None = None

    @contextmanager
    def held(self, job_id: UUID) -> Iterator[None]:
        self._held.add(job_id)
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._held.discard(job_id)

    async def _run(self) -> None:
        try:
            while self._held:
                await asyncio.sleep(RENEWED_EVERY_SECONDS)
                if self._held:
                    with suppress(DatabaseAway):  # The next renewal may be in time.
                        await self._renew(list(self._held))
        finally:
            self._renewing = None
