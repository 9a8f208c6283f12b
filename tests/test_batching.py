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

    async def write(self, items: Sequence[int]) -> list[str]:
        self.batches.append(list(items))
        self.began.set()
        await self.free.wait()
        if self.error:
            raise self.error
        return [f"{item} is written" for item in items]


async def test_alone_an_item_is_written_at_once() -> None:
    writer = Writer()
    writer.free.set()
    batcher = Batcher(writer.write)
    told = [await batcher.put(item) for item in range(3)]
    assert writer.batches == [[0], [1], [2]]
    assert told == ["0 is written", "1 is written", "2 is written"]


async def test_what_comes_during_a_write_is_written_together() -> None:
    writer = Writer()
    batcher = Batcher(writer.write)
    first = asyncio.create_task(batcher.put(0))
    await writer.began.wait()
    others = [asyncio.create_task(batcher.put(item)) for item in range(1, 50)]
    await asyncio.sleep(0)
    writer.free.set()
    told = await asyncio.gather(first, *others)
    assert writer.batches == [[0], list(range(1, 50))]
    assert told == [f"{item} is written" for item in range(50)]


async def test_with_two_writers_the_second_item_is_written_at_once_and_the_others_together() -> None:
    writer = Writer()
    batcher = Batcher(writer.write, writers=2)
    puts = []
    for item in range(10):
        puts.append(asyncio.create_task(batcher.put(item)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert writer.batches == [[0], [1]]
    writer.free.set()
    await asyncio.gather(*puts)
    assert writer.batches == [[0], [1], list(range(2, 10))]
    await batcher.put(10)
    assert writer.batches[3:] == [[10]]


async def test_no_more_are_written_together_than_may_be_and_no_two_of_one_name() -> None:
    writer = Writer()
    batcher = Batcher(writer.write, most=3, name=lambda item: item % 10)
    puts = [asyncio.create_task(batcher.put(item)) for item in (0, 1, 11, 2, 3, 4, 21, 5)]
    await writer.began.wait()
    writer.free.set()
    assert await asyncio.gather(*puts) == [f"{item} is written" for item in (0, 1, 11, 2, 3, 4, 21, 5)]
    assert writer.batches == [[0, 1, 2], [11, 3, 4], [21, 5]]


async def test_nobody_is_told_before_the_write_is_done() -> None:
    writer = Writer()
    putting = asyncio.create_task(Batcher(writer.write).put(1))
    await writer.began.wait()
    assert not putting.done()
    writer.free.set()
    await putting


async def test_of_a_batch_that_failed_each_item_is_written_for_itself() -> None:
    writer = Writer()
    writer.error = ValueError("no")
    batcher = Batcher(writer.write)
    puts = [asyncio.create_task(batcher.put(item)) for item in range(3)]
    await writer.began.wait()
    writer.free.set()
    results = await asyncio.gather(*puts, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError] * 3
    assert writer.batches == [[0, 1, 2], [0], [1], [2]]


async def test_one_item_that_cannot_be_written_costs_the_others_nothing() -> None:
    batches: list[list[int]] = []

    async def write(items: Sequence[int]) -> list[None]:
        batches.append(list(items))
        if 7 in items:
            raise ValueError(f"no {len(items)}")
        return [None] * len(items)

    batcher = Batcher(write)
    results = await asyncio.gather(*(batcher.put(item) for item in range(20)), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError if item == 7 else type(None) for item in range(20)]
    assert str(results[7]) == "no 1"
    assert batches == [list(range(20)), *([item] for item in range(20))]


async def test_an_item_that_failed_alone_is_not_written_twice() -> None:
    writer = Writer()
    writer.free.set()
    writer.error = ValueError("no")
    with pytest.raises(ValueError, match="no"):
        await Batcher(writer.write).put(1)
    assert writer.batches == [[1]]


async def test_what_came_while_a_failed_batch_was_taken_apart_is_written_next() -> None:
    batches: list[list[int]] = []

    async def write(items: Sequence[int]) -> list[None]:
        batches.append(list(items))
        if items[0] == 0 and len(items) == 1:
            late.append(asyncio.create_task(batcher.put(9)))
        await asyncio.sleep(0)
        if len(items) > 1:
            raise ValueError
        return [None]

    batcher = Batcher(write)
    late: list[asyncio.Task[None]] = []
    await asyncio.gather(*(batcher.put(item) for item in range(3)))
    await asyncio.gather(*late)
    assert batches == [[0, 1, 2], [0], [1], [2], [9]]


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
