"""A phase with what it cost: the load's own times, CPU by process, transactions, messages, memory."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from bench.counters import Counters, Counts
from bench.load import Load
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
    completed: int

    @property
    def incomplete(self) -> int:
        """Jobs whose webhook was not taken, or whose end is not in the record."""
        return self.load.jobs - min(len(self.load.acknowledged), self.completed)


@dataclass(frozen=True)
class Idle:
    counts: Counts
    cpu_seconds: Mapping[str, float]
    memory_bytes: Mapping[str, int]


class Meter:
    def __init__(self, counters: Counters, roots: Mapping[str, int], settle_seconds: float) -> None:
        self._counters = counters
        self._roots = roots
        self._settle_seconds = settle_seconds

    async def phase(self, name: str, put_load: Callable[[], Awaitable[Load]]) -> Phase:
        completed, counts = await self._counters.completed_jobs(), await self.settled()
        cpu = cpu_seconds(self._roots)
        load = await put_load()
        cpu_after, memory = cpu_seconds(self._roots), memory_bytes(self._roots)
        return Phase(
            name=name,
            load=load,
            cpu_seconds=difference(cpu_after, cpu),
            memory_bytes=memory,
            counts=await self.settled() - counts,
            completed=await self._counters.completed_jobs() - completed,
        )

    async def idle(self, seconds: float) -> Idle:
        counts, cpu, started = await self.settled(), cpu_seconds(self._roots), time.monotonic()
        await asyncio.sleep(started + seconds - time.monotonic())
        return Idle(
            counts=await self._counters.read() - counts,
            cpu_seconds=difference(cpu_seconds(self._roots), cpu),
            memory_bytes=memory_bytes(self._roots),
        )

    async def settled(self) -> Counts:
        """The counts, once what came before is in them."""
        await asyncio.sleep(self._settle_seconds)
        return await self._counters.read()


def difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: seconds - before[name] for name, seconds in after.items()}
