"""What is dear to find out is found out once, and not all the time."""

import asyncio

import pytest

from service import remembering
from service.remembering import REST, Remembered


class Clock:
    """Finding out takes a second of it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.found = 0
        self.error: Exception | None = None

    async def find(self) -> int:
        self.now += 1
        self.found += 1
        if self.error is not None:
            raise self.error
        return self.found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(remembering, "monotonic", lambda: clock.now)
    return clock


async def test_it_is_found_out_anew_only_after_a_rest(clock: Clock) -> None:
    remembered = Remembered(clock.find)
    assert [await remembered.get() for _ in range(3)] == [1, 1, 1]
    clock.now += REST - 0.5
    assert await remembered.get() == 1
    clock.now += 0.5
    assert await remembered.get() == 2


async def test_all_who_ask_meanwhile_are_told_the_same(clock: Clock) -> None:
    free = asyncio.Event()

    async def find() -> int:
        await free.wait()
        return await clock.find()

    remembered = Remembered(find)
    asking = [asyncio.create_task(remembered.get()) for _ in range(10)]
    await asyncio.sleep(0)
    asking[0].cancel()  # Who goes away takes it from nobody.
    free.set()
    assert await asyncio.gather(*asking[1:]) == [1] * 9
    assert clock.found == 1


async def test_what_could_not_be_found_out_is_tried_again(clock: Clock) -> None:
    remembered = Remembered(clock.find)
    clock.error = ConnectionError()
    with pytest.raises(ConnectionError):
        await remembered.get()
    clock.error = None
    assert await remembered.get() == 2
