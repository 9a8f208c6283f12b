"""Work that is taken when there is room for it, one slow item holding nobody else up."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from structlog.testing import capture_logs

from service.pump import Pump


class Bench:
    """Items to take, and hands that let go of an item only when they are told to."""

    def __init__(self, items: int = 0) -> None:
        self.left = deque(range(items))
        self.asked: list[int] = []
        self.begun: list[int] = []
        self.done: list[int] = []
        self.most = 0
        self.slow: set[int] = set()
        self.broken: set[int] = set()
        self.free = asyncio.Event()
        self.may_take = asyncio.Event()
        self.may_take.set()
        self.error: Exception | None = None

    async def take(self, limit: int) -> Sequence[int]:
        self.asked.append(limit)
        await self.may_take.wait()
        if self.error:
            raise self.error
        return [self.left.popleft() for _ in range(min(limit, len(self.left)))]

    async def handle(self, item: int) -> None:
        self.begun.append(item)
        self.most = max(self.most, len(self.begun) - len(self.done))
        if item in self.slow:
            await self.free.wait()
        else:
            await asyncio.sleep(0)
        self.done.append(item)
        if item in self.broken:
            raise ZeroDivisionError(item)

    def pump(self, slots: int) -> "Pump[int]":
        return Pump("test", self.take, self.handle, slots=slots)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    bench.free.set()
    bench.may_take.set()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while True:
            if holds():
                return
            await asyncio.sleep(0)


async def idle() -> None:
    """Let everything happen that can happen by itself."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize("slots", [1, 3, 4, 64])
async def test_never_more_are_in_hand_than_there_are_slots(bench: Bench, slots: int) -> None:
    bench.left.extend(range(500))
    await bench.pump(slots).drain()
    assert sorted(bench.done) == list(range(500))
    assert bench.most == slots
    assert all(0 < asked <= slots for asked in bench.asked)


async def test_a_slow_item_holds_its_own_slot_only(bench: Bench) -> None:
    bench.left.extend(range(200))
    bench.slow = {0, 1}
    pump = bench.pump(4)
    pump.wake()
    await until(lambda: len(bench.done) == 198)
    assert bench.done.count(0) == bench.done.count(1) == 0
    bench.free.set()
    await pump.drain()
    assert len(bench.done) == 200


async def test_it_refills_when_a_quarter_is_free_and_not_before(bench: Bench) -> None:
    bench.left.extend(range(16))
    bench.slow = set(range(1, 16))
    pump = bench.pump(8)
    pump.wake()
    await until(lambda: bench.done == [0])
    await idle()
    assert bench.asked == [8]
    bench.free.set()
    await pump.drain()
    assert len(bench.done) == 16


async def test_two_free_slots_of_eight_are_refilled_while_six_are_taken(bench: Bench) -> None:
    bench.left.extend(range(10))
    bench.slow = set(range(2, 10))
    pump = bench.pump(8)
    pump.wake()
    await until(lambda: len(bench.begun) == 10)
    assert bench.asked[:2] == [8, 2]
    assert bench.done == [0, 1]


async def test_an_item_that_fails_costs_no_other_one_anything_and_is_logged(bench: Bench) -> None:
    bench.left.extend(range(100))
    bench.broken = {0, 7, 99}
    with capture_logs() as logs:
        await bench.pump(4).drain()
    assert sorted(bench.done) == list(range(100))
    failed = [log for log in logs if log["event"] == "work failed"]
    assert [(log["kind"], log["log_level"]) for log in failed] == [("test", "error")] * 3
    assert {type(log["exc_info"]) for log in failed} == {ZeroDivisionError}


async def test_a_take_that_fails_is_logged_and_a_later_wake_works(bench: Bench) -> None:
    bench.error = ConnectionError("away")
    pump = bench.pump(4)
    with capture_logs() as logs:
        pump.wake()
        await idle()
    assert [(log["event"], log["kind"], log["log_level"]) for log in logs] == [
        ("taking work failed", "test", "warning")
    ]
    assert "away" in logs[0]["error"]
    bench.error = None
    bench.left.extend(range(10))
    pump.wake()
    await until(lambda: len(bench.done) == 10)


async def test_a_drain_raises_what_taking_raised_and_can_be_tried_again(bench: Bench) -> None:
    bench.error = ConnectionError("away")
    pump = bench.pump(4)
    with pytest.raises(ConnectionError, match="away"):
        await pump.drain()
    bench.error = None
    bench.left.extend(range(10))
    await pump.drain()
    assert len(bench.done) == 10


async def test_a_take_that_fails_harms_nothing_that_is_in_hand(bench: Bench) -> None:
    bench.left.append(0)
    bench.slow = {0}
    pump = bench.pump(4)
    pump.wake()
    await until(lambda: bench.begun == [0])
    await idle()
    bench.error = ConnectionError("away")
    with pytest.raises(ConnectionError):
        await pump.drain()
    bench.free.set()
    await until(lambda: bench.done == [0])


async def test_a_wake_returns_at_once_and_a_drain_when_all_is_done(bench: Bench) -> None:
    bench.left.extend(range(5))
    bench.slow = {4}
    pump = bench.pump(8)
    pump.wake()
    assert bench.begun == []
    draining = asyncio.create_task(pump.drain())
    await until(lambda: len(bench.done) == 4)
    await idle()
    assert not draining.done()
    bench.free.set()
    await draining
    assert len(bench.done) == 5


async def test_a_wake_while_it_takes_lets_it_look_once_more(bench: Bench) -> None:
    bench.may_take.clear()
    pump = bench.pump(4)
    pump.wake()
    await until(lambda: len(bench.asked) == 1)
    for _ in range(20):
        pump.wake()
    bench.may_take.set()
    await idle()
    assert bench.asked == [4, 4]


async def test_a_wake_while_all_slots_are_taken_is_not_forgotten(bench: Bench) -> None:
    bench.left.extend(range(4))
    bench.slow = set(range(4))
    pump = bench.pump(4)
    pump.wake()
    await until(lambda: len(bench.begun) == 4)
    pump.wake()
    bench.left.append(9)
    bench.free.set()
    await until(lambda: 9 in bench.done)


async def test_without_items_each_wake_costs_one_look(bench: Bench) -> None:
    pump = bench.pump(4)
    for _ in range(3):
        pump.wake()
        await idle()
    assert bench.asked == [4, 4, 4]


async def test_an_item_may_wake_the_pump_that_handles_it(bench: Bench) -> None:
    woken = False

    async def handle(item: int) -> None:
        nonlocal woken
        if not woken:
            woken = True
            bench.left.append(1)
            pump.wake()
        bench.done.append(item)

    bench.left.append(0)
    pump = Pump("test", bench.take, handle, slots=1)
    await pump.drain()
    assert bench.done == [0, 1]


# The end


async def test_a_stop_with_a_backlog_takes_nothing_more_and_waits_for_what_is_in_hand(bench: Bench) -> None:
    bench.left.extend(range(3_000))
    bench.slow = set(range(64))
    pump = bench.pump(64)
    pump.wake()
    await until(lambda: len(bench.begun) == 64)
    stopping = asyncio.create_task(pump.stop(10))
    await idle()
    assert not stopping.done()
    bench.free.set()
    await stopping
    assert (len(bench.done), len(bench.left), len(bench.asked)) == (64, 2_936, 1)


async def test_what_a_take_brought_while_it_was_stopped_is_carried_out_and_waited_for(bench: Bench) -> None:
    """It is claimed: left alone, each of these submissions would be in doubt."""
    bench.left.extend(range(3_000))
    bench.slow = set(range(64))
    bench.may_take.clear()
    pump = bench.pump(64)
    pump.wake()
    await until(lambda: len(bench.asked) == 1)
    stopping = asyncio.create_task(pump.stop(10))
    await idle()
    bench.may_take.set()
    await until(lambda: len(bench.begun) == 64)
    await idle()
    assert not stopping.done()
    bench.free.set()
    await stopping
    assert (len(bench.done), len(bench.asked)) == (64, 1)


async def test_a_stopped_pump_does_not_wake(bench: Bench) -> None:
    pump = bench.pump(4)
    await pump.stop(1)
    bench.left.append(0)
    assert pump.wake() is None
    await pump.drain()
    assert (bench.asked, bench.done) == ([], [])


async def test_a_stop_waits_no_longer_than_it_was_given(bench: Bench) -> None:
    bench.left.append(0)
    bench.slow = {0}
    pump = bench.pump(4)
    pump.wake()
    await until(lambda: bench.begun == [0])
    await pump.stop(0.05)
    assert bench.done == []


async def test_a_pump_may_be_stopped_twice(bench: Bench) -> None:
    bench.left.append(0)
    bench.slow = {0}
    pump = bench.pump(4)
    pump.wake()
    await until(lambda: bench.begun == [0])
    first, second = (asyncio.create_task(pump.stop(10)) for _ in range(2))
    await idle()
    bench.free.set()
    await asyncio.gather(first, second)
    assert bench.done == [0]


async def test_a_pump_that_waits_for_room_stops_as_well(bench: Bench) -> None:
    bench.left.extend(range(20))
    bench.slow = set(range(20))
    pump = bench.pump(4)
    pump.wake()
    await until(lambda: len(bench.begun) == 4)
    await pump.stop(0.05)
    bench.free.set()
    await idle()
    assert (len(bench.done), bench.asked) == (4, [4])
