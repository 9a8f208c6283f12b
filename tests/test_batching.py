"""Many small writes made into few large ones."""

import asyncio
from collections.abc import Sequence

import pytest

from service.batching import Batcher


class Writer:
    """Remembers each batch, and lets none end before it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = asyncio.Event()
        self.began = asyncio.Event()
        self.error: Exception | None = None

    async def write(self, items: Sequence[int]) -> None:
        self.batches.append(list(items))
        self.began.set()
        await self.free.wait()
        if self.error:
            raise self.error


async def test_alone_an_item_is_written_at_once() -> None:
    writer = Writer()
    writer.free.set()
    batcher = Batcher(writer.write)
    for item in range(3):
        await batcher.put(item)
    assert writer.batches == [[0], [1], [2]]


async def test_what_comes_during_a_write_is_written_together() -> None:
    writer = Writer()
    batcher = Batcher(writer.write)
    first = asyncio.create_task(batcher.put(0))
    await writer.began.wait()
    others = [asyncio.create_task(batcher.put(item)) for item in range(1, 50)]
    await asyncio.sleep(0)
    writer.free.set()
    await asyncio.gather(first, *others)
    assert writer.batches == [[0], list(range(1, 50))]


async def test_nobody_is_told_before_the_write_is_done() -> None:
    writer = Writer()
    putting = asyncio.create_task(Batcher(writer.write).put(1))
    await writer.began.wait()
    assert not putting.done()
    writer.free.set()
    await putting


async def test_all_of_a_batch_are_told_that_it_failed() -> None:
    writer = Writer()
    writer.error = ValueError("no")
    batcher = Batcher(writer.write)
    puts = [asyncio.create_task(batcher.put(item)) for item in range(3)]
    await writer.began.wait()
    writer.free.set()
    results = await asyncio.gather(*puts, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError] * 3


async def test_a_batch_that_failed_does_not_stop_the_next() -> None:
    writer = Writer()
    writer.free.set()
    writer.error = ValueError("no")
    batcher = Batcher(writer.write)
    with pytest.raises(ValueError, match="no"):
        await batcher.put(1)
    writer.error = None
    await batcher.put(2)
    assert writer.batches == [[1], [2]]


async def test_who_gives_up_waiting_spoils_nothing() -> None:
    writer = Writer()
    batcher = Batcher(writer.write)
    impatient = asyncio.create_task(batcher.put(1))
    patient = asyncio.create_task(batcher.put(2))
    await writer.began.wait()
    impatient.cancel()
    await asyncio.wait([impatient])
    writer.free.set()
    await patient
    assert writer.batches == [[1, 2]]
