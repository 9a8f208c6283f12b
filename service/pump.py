"""Work that is taken when there is room for it and done all at once: one pump of a kind in a process."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from time import monotonic
from typing import Any, Generic, TypeVar

import structlog

log = structlog.get_logger()

Item = TypeVar("Item")


class Pump(Generic[Item]):
    """Takes items while there are any, never more than `slots` in hand.

    A slow item holds its own slot and nothing else; an item that fails is logged and costs no other one
    anything. Whoever wakes the pump does not wait for it.
    """

    def __init__(
        self,
        name: str,
        take: Callable[[int], Awaitable[Sequence[Item]]],
        handle: Callable[[Item], Coroutine[Any, Any, None]],
        *,
        slots: int,
    ) -> None:
        self._name = name
        self._take = take
        self._handle = handle
        self._slots = slots
        # Taking costs a statement, so a few slots are left to become free first.
        self._enough = max(1, slots // 4)
        self._in_hand: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()
        self._woken = False
        self._stopping = False
        self._pumping: asyncio.Task[None] | None = None

    def wake(self) -> asyncio.Task[None] | None:
        """Let it look for items, once more if it is looking now. Returns at once, with the task that takes."""
        self._woken = True
        if self._pumping is None and not self._stopping:
            self._pumping = asyncio.create_task(self._pump())
            self._pumping.add_done_callback(self._pumped)
        return self._pumping

    async def drain(self) -> None:
        """Wake it, and return when nothing is left in hand. Raises what taking raised."""
        while (pumping := self.wake()) is not None:
            await asyncio.shield(pumping)
            if not await self._finish():
                return
            self._woken = False

    async def stop(self, seconds: float) -> None:
        """Take nothing more, and give what is in hand this long to end."""
        self._stopping = True
        self._freed.set()
        last = monotonic() + seconds
        # What a take under way still brings was claimed, and so has to be carried out.
        while tasks := self._in_hand | ({self._pumping} if self._pumping else set()):
            if (left := last - monotonic()) <= 0:
                log.warning("ended with work in hand", kind=self._name, left=len(self._in_hand))
                return
            await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    async def _finish(self) -> bool:
        """Wait for all in hand, and for what these let it take. Returns whether it was woken meanwhile."""
        while tasks := self._in_hand | ({self._pumping} if self._pumping else set()):
            await asyncio.wait(tasks)
        return self._woken

    async def _pump(self) -> None:
        while self._woken and await self._room():
            self._woken = False
            asked = self._slots - len(self._in_hand)
            items = await self._take(asked)
            for item in items:
                task = asyncio.create_task(self._handle(item))
                self._in_hand.add(task)
                task.add_done_callback(self._done)
            if len(items) == asked:
                self._woken = True

    async def _room(self) -> bool:
        """Wait until there is room for more. False: nothing more is to be taken."""
        while self._slots - len(self._in_hand) < self._enough and not self._stopping:
            self._freed.clear()
            await self._freed.wait()
        return not self._stopping

    def _done(self, task: asyncio.Task[None]) -> None:
        self._in_hand.discard(task)
        self._freed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work failed", kind=self._name, exc_info=error)

    def _pumped(self, task: asyncio.Task[None]) -> None:
        self._pumping = None
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            # The rows are still there, and the next sweep wakes the pump again.
            log.warning("taking work failed", kind=self._name, error=repr(error))
        elif self._woken and not self._stopping:
            self.wake()
