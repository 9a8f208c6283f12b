"""What a run says and is told: the model's thread writes it, the loop's thread reads it, and the other way round."""

import threading
from collections import deque
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

from service.gpu.runtimes.base import Cancelled

MOST_LINES, LINES_A_BEAT = 500, 100

Result = TypeVar("Result")


class RunWatch:
    def __init__(self) -> None:
        self.done: int | None = None
        self.of: int | None = None
        self.stop: str | None = None
        self.stopped_at = 0.0
        self._ending = threading.Lock()
        self._lines: deque[str] = deque(maxlen=MOST_LINES)
        self._awaited: Future[Any] | None = None
        self._stopping = threading.Event()

    def step(self, done: int, of: int | None) -> None:
        self.done, self.of = done, of
        if self.stop is not None:
            raise Cancelled(self.stop)

    def log(self, line: str) -> None:
        self._lines.append(line)

    def halt(self, why: str) -> None:
        if self.stop is None:
            self.stop, self.stopped_at = why, monotonic()
            self._stopping.set()
            if self._awaited is not None:
                self._awaited.cancel()

    def takes_end(self) -> bool:
        """True for the first that asks: its end is told by whoever that is."""
        return self._ending.acquire(blocking=False)

    def rest(self, seconds: float) -> None:
        """Raises Cancelled."""
        if self._stopping.wait(seconds):
            raise Cancelled(self.stop)

    def outcome_of(self, work: "Future[Result]") -> Result:
        """Of what goes on before the model begins; it is called off when the run is to stop. Raises Cancelled."""
        self._awaited = work
        try:
            if self.stop is not None:
                work.cancel()
            return work.result()
        except CancelledError:
            raise Cancelled(self.stop) from None
        finally:
            self._awaited = None

    def take_lines(self, most: int = LINES_A_BEAT) -> list[str]:
        lines: list[str] = []
        with suppress(IndexError):
            while len(lines) < most:
                lines.append(self._lines.popleft())
        return lines

    def put_back(self, lines: list[str]) -> None:
        self._lines.extendleft(reversed(lines))
