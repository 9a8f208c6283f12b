"""Carries a schedule out, each fault at its time, and undoes what lasts; the history has what really happened."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from redis import Redis, RedisError

from faults.disk import Disk
from faults.history import History
from faults.processes import Service
from faults.proxy import CALM
from faults.schedule import TROUBLES, Fault

WORKERS = ("worker-1", "worker-2")


class Injector:
    def __init__(self, service: Service, disk: Disk, history: History) -> None:
        self._service = service
        self._disk = disk
        self._history = history
        # How many faults of one thing last at this moment: only the last of them to end undoes it.
        self._lasting: Counter[str] = Counter()

    async def carry_out(self, schedule: Sequence[Fault]) -> None:
        """Returns when the last fault is over."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in schedule:
                await asyncio.sleep(began + fault.at - time.monotonic())
                group.create_task(self._carry_out(fault))

    async def heal(self) -> None:
        """Whatever is left of them."""
        for edge in self._service.edges.values():
            await edge.heal()
        for name in ("api-2", "worker-2"):
            self._service.clocks.set(name, 0.0)
        self._disk.free(self._worker_pids())

    async def _carry_out(self, fault: Fault) -> None:
        match fault.kind:
            case "kill":
                pid = await self._service.kill(fault.target)
                self._note(fault, "done" if pid else "missed")
            case "stop":
                await self._stop(fault)
            case "flush":
                done = await asyncio.to_thread(empty_broker, self._service.broker_url)
                self._note(fault, "done" if done else "missed")
            case "wire" if fault.detail == "reset":
                self._service.edges[fault.target].reset()
                self._note(fault, "done")
            case "wire":
                await self._trouble(fault)
            case "disk":
                await self._fill(fault)
            case "clock":
                self._service.clocks.set(fault.target, float(fault.detail))
                await self._last(fault)
                self._service.clocks.set(fault.target, 0.0)

    async def _stop(self, fault: Fault) -> None:
        pids = self._service.stop(fault.target)
        await self._last(fault)
        self._service.go_on(pids)

    async def _trouble(self, fault: Fault) -> None:
        edge = self._service.edges[fault.target]
        await edge.suffer(TROUBLES[fault.detail])
        self._lasting[edge.name] += 1
        await self._last(fault)
        self._lasting[edge.name] -= 1
        if not self._lasting[edge.name]:
            await edge.suffer(CALM)

    async def _fill(self, fault: Fault) -> None:
        self._disk.fill(self._worker_pids())
        await self._last(fault)
        self._disk.free(self._worker_pids())

    async def _last(self, fault: Fault) -> None:
        self._note(fault, "began")
        await asyncio.sleep(fault.seconds)
        self._note(fault, "ended")

    def _note(self, fault: Fault, phase: str) -> None:
        self._history.note(
            "fault", phase=phase, kind=fault.kind, target=fault.target, detail=fault.detail, seconds=fault.seconds
        )

    def _worker_pids(self) -> list[int]:
        return [pid for name in WORKERS if (pid := self._service.child(name).pid) is not None]


def empty_broker(url: str) -> bool:
    """Everything that it holds, at once; its connections stand."""
    with suppress(RedisError, OSError), Redis(unix_socket_path=urlsplit(url).path, socket_timeout=5) as valkey:
        return bool(valkey.flushall())
    return False
