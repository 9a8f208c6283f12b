"""Many small writes made into few large ones, without a timer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Batcher(Generic[Item]):
    """Writes what came while the last write was under way. Alone, an item is written at once."""

    def __init__(
        self, write: Callable[[Sequence[Item]], Awaitable[None]], *, whole: tuple[type[Exception], ...] = ()
    ) -> None:
        self._write = write
        # Errors that say nothing of any one item.
        self._whole = whole
        self._waiting: list[tuple[Item, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def put(self, item: Item) -> None:
        """Returns when the item is written; raises what its write raised."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, written))
        if self._writer is None:
            self._writer = asyncio.create_task(self._run())
        await written

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            if not await self._written(batch, last_word=len(batch) == 1):
                # One item may have spoiled it for all, so each is written for itself.
                for entry in batch:
                    await self._written([entry], last_word=True)
        self._writer = None

    async def _written(self, batch: Sequence[tuple[Item, asyncio.Future[None]]], *, last_word: bool) -> bool:
        try:
            await self._write([item for item, _ in batch])
        except Exception as error:
            final = last_word or isinstance(error, self._whole)
            if final:
                self._tell(batch, error)
            return final
        self._tell(batch, None)
        return True

    @staticmethod
    def _tell(batch: Sequence[tuple[Item, asyncio.Future[None]]], error: Exception | None) -> None:
        for _, written in batch:
            if written.cancelled():
                continue
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)
