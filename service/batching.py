"""Many small writes made into few large ones, without a timer."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Writes what came while the last write was under way. Alone, an item is written at once.

    `write` returns what became of each item, in their order. Up to `writers` writes are under way at a time, of `most`
    items each. Items that `name` calls alike are never in one of them.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        whole: tuple[type[Exception], ...] = (),
        writers: int = 1,
        most: int = sys.maxsize,
        name: Callable[[Item], Hashable] = id,
    ) -> None:
        self._write = write
        # Errors that say nothing of any one item.
        self._whole = whole
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._free = writers
        self._most = most
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()

    async def put(self, item: Item) -> Result:
        """Returns when the item is written; raises what its write raised."""
        written: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, written))
        if self._free:
            self._free -= 1
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await written

    async def _run(self) -> None:
        while self._waiting:
            batch = self._take()
            if not await self._written(batch, last_word=len(batch) == 1):
                # One item may have spoiled it for all, so each is written for itself, and none waits for another.
                await asyncio.gather(*(self._written([entry], last_word=True) for entry in batch))
        self._free += 1

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """What is written next; the others keep their order."""
        taken: dict[Hashable, tuple[Item, asyncio.Future[Result]]] = {}
        left = []
        for entry in self._waiting:
            name = self._name(entry[0])
            if len(taken) < self._most and name not in taken:
                taken[name] = entry
            else:
                left.append(entry)
        self._waiting = left
        return list(taken.values())

    async def _written(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]], *, last_word: bool) -> bool:
        try:
            results = await self._write([item for item, _ in batch])
        except Exception as error:
            final = last_word or isinstance(error, self._whole)
            if final:
                for _, written in batch:
                    if not written.cancelled():
                        written.set_exception(error)
            return final
        for (_, written), result in zip(batch, results, strict=True):
            if not written.cancelled():
                written.set_result(result)
        return True
