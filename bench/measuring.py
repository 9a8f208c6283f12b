"""A phase with what it cost: the load's own times, CPU by process, transactions, messages, memory."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from bench.counters import Counters, Counts
from bench.driving import Load
from bench.processes import cpu_seconds, memory_bytes


@dataclass(frozen=True)
class Phase:
    name: str
    load: Load
    # By process, while the load lasted.
    cpu_seconds: Mapping[str, float]
    memory_bytes: Mapping[str, int]
    # From before the load until everything about it was published, so with some idle time in it.
    counts: Counts


@dataclass(frozen=True)
class Idle:
    counts: Counts
    cpu_seconds: Mapping[str, float]
    memory_bytes: Mapping[str, int]


class Meter:
    """Takes its readings one after the other: where one phase's counts end, the next one's begin."""

    def __init__(self, counters: Counters, roots: Mapping[str, int], settle_seconds: float) -> None:
        self._counters = counters
        self._roots = roots
        self._settle_seconds = settle_seconds
        self._counted: Counts | None = None

    async def phase(self, name: str, put_load: Callable[[], Awaitable[Load]]) -> Phase:
        before = self._counted or await self._settled()
        cpu = cpu_seconds(self._roots)
        load = await put_load()
        cpu_after, memory = cpu_seconds(self._roots), memory_bytes(self._roots)
        after = await self._settled()
        return Phase(name, load, difference(cpu_after, cpu), memory, after - before)

    async def idle(self, seconds: float) -> Idle:
        await self._counters.vacuum()
        before, cpu = await self._settled(), cpu_seconds(self._roots)
        await asyncio.sleep(seconds)
        used = difference(cpu_seconds(self._roots), cpu)
        return Idle(await self._counters.read() - before, used, memory_bytes(self._roots))

    async def _settled(self) -> Counts:
        """The counts, once what came before is in them."""
        await asyncio.sleep(self._settle_seconds)
        self._counted = await self._counters.read()
        return self._counted


def difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: seconds - before[name] for name, seconds in after.items()}
