"""The queue: requests, their short lives in memory, and the few that run at the same time."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from time import monotonic
from typing import Any, Literal

from service.sandbox.failures import Failure, GatewayFailure, error_type
from service.sandbox.faults import Knobs

State = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
CancelWord = Literal["OK", "CANCELLATION_REQUESTED", "ALREADY_COMPLETED"]


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended: the model's own status and body."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    inference_seconds: float | None = None

    @classmethod
    def of_failure(cls, failure: Failure) -> "Outcome":
        return cls(failure.status, failure.body, failure.headers)

    @property
    def error(self) -> str | None:
        return f"Invalid status code: {self.status}" if self.status >= 400 else None

    @property
    def error_type(self) -> str | None:
        return error_type(self.status, self.body) if self.status >= 400 else None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One try at sending one webhook."""

    kind: str
    url: str
    at: str
    status: int | None
    error: str | None


@dataclass(eq=False, slots=True)
class Entry:
    """One accepted request. Only the event loop changes its state."""

    model: str
    app: str
    input: Any
    knobs: Knobs
    problem: Failure | None = None
    webhook_url: str | None = None
    low_priority: bool = False
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    gateway_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: State = "IN_QUEUE"
    outcome: Outcome | None = None
    logs: list[dict[str, Any]] = field(default_factory=list)
    submitted_at: str = field(default_factory=utc_now)
    finished: float | None = None
    start_deadline: asyncio.TimerHandle | None = None
    cancel_asked: asyncio.Event = field(default_factory=asyncio.Event)
    first_try: asyncio.Event = field(default_factory=asyncio.Event)
    status_reads: int = 0
    deliveries: list[Delivery] = field(default_factory=list)

    def log(self, message: str, level: str = "INFO") -> None:
        self.logs.append({"message": message, "level": level, "source": "USER", "timestamp": utc_now(), "labels": {}})


class Signal:
    """Wakes everyone who waits for the next change."""

    def __init__(self) -> None:
        self.next = asyncio.Event()

    def notify(self) -> None:
        self.next.set()
        self.next = asyncio.Event()


class Queue:
    def __init__(
        self,
        entries: dict[str, Entry],
        perform: Callable[[Entry], Awaitable[Outcome]],
        deliver: Callable[[Entry], None],
        *,
        concurrency: int,
        max_requests: int,
        changed: Signal,
    ) -> None:
        self.entries = entries
        self.changed = changed
        self._perform = perform
        self._deliver = deliver
        self._concurrency = concurrency
        self._max_requests = max_requests
        self._normal: dict[str, Entry] = {}
        self._low: dict[str, Entry] = {}
        self._running: dict[str, asyncio.Task[None]] = {}

    def submit(self, entry: Entry, *, start_within: float | None = None, max_waiting: int | None = None) -> int:
        """Accept a request and return how many are ahead of it. Raises GatewayFailure when there is no room."""
        full = len(self._running) >= self._concurrency
        if full and max_waiting is not None and self._waiting_count() >= max_waiting:
            raise GatewayFailure(429, "bad_request", f"More than {max_waiting} requests are waiting.")
        self._make_room()
        self.entries[entry.id] = entry
        (self._low if entry.low_priority else self._normal)[entry.id] = entry
        ahead = self.position(entry)
        if start_within is not None:
            entry.start_deadline = asyncio.get_running_loop().call_later(start_within, self._not_started, entry)
        self._start_waiting()
        return ahead

    def position(self, entry: Entry) -> int:
        return next(ahead for ahead, id in enumerate(chain(self._normal, self._low)) if id == entry.id)

    def cancel(self, entry: Entry) -> CancelWord:
        match entry.state:
            case "COMPLETED":
                return "ALREADY_COMPLETED"
            case "IN_PROGRESS":
                entry.cancel_asked.set()
                return "CANCELLATION_REQUESTED"
            case "IN_QUEUE":
                self._leave_queue(entry, cancelled())
                return "OK"

    def forget(self, older_than: float) -> None:
        """Drop the requests that ended more than so many seconds ago."""
        limit = monotonic() - older_than
        for entry in [e for e in self.entries.values() if e.finished is not None and e.finished < limit]:
            del self.entries[entry.id]

    def counts(self) -> dict[str, int]:
        waiting, running = self._waiting_count(), len(self._running)
        return {"queued": waiting, "running": running, "completed": len(self.entries) - waiting - running}

    async def close(self) -> None:
        for entry_id, task in self._running.items():
            self.entries[entry_id].cancel_asked.set()
            task.cancel()
        tasks = list(self._running.values())
        await asyncio.gather(*tasks, return_exceptions=True)

    def _waiting_count(self) -> int:
        return len(self._normal) + len(self._low)

    def _make_room(self) -> None:
        if len(self.entries) < self._max_requests:
            return
        oldest = next((entry for entry in self.entries.values() if entry.state == "COMPLETED"), None)
        if oldest is None:
            raise GatewayFailure(503, "internal_error", "The sandbox holds as many unfinished requests as it may.")
        del self.entries[oldest.id]

    def _start_waiting(self) -> None:
        while len(self._running) < self._concurrency and (line := self._normal or self._low):
            entry = next(iter(line.values()))
            self._remove(entry)
            entry.state = "IN_PROGRESS"
            self._running[entry.id] = asyncio.create_task(self._run(entry), name=f"sandbox {entry.model} {entry.id}")
        self.changed.notify()

    async def _run(self, entry: Entry) -> None:
        try:
            outcome = await self._perform(entry)
        finally:
            del self._running[entry.id]
        self._finish(entry, outcome)
        self._start_waiting()

    def _not_started(self, entry: Entry) -> None:
        late = GatewayFailure(
            504,
            "request_timeout",
            "The request did not start before its deadline.",
            {"x-fal-request-timeout-type": "user"},
        )
        self._leave_queue(entry, late)

    def _leave_queue(self, entry: Entry, failure: Failure) -> None:
        self._remove(entry)
        self._finish(entry, Outcome.of_failure(failure))

    def _remove(self, entry: Entry) -> None:
        del (self._low if entry.low_priority else self._normal)[entry.id]
        if entry.start_deadline is not None:
            entry.start_deadline.cancel()

    def _finish(self, entry: Entry, outcome: Outcome) -> None:
        entry.outcome = outcome
        entry.state = "COMPLETED"
        entry.finished = monotonic()
        entry.input = None
        self.changed.notify()
        self._deliver(entry)


def cancelled() -> GatewayFailure:
    return GatewayFailure(499, "client_cancelled", "The request was cancelled by the client.")
