"""Ctrl-C and SIGTERM: the first one ends what is running, the next one ends it without patience."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """Raised in the main thread by the first signal, wherever that is."""


class Stopping:
    def __init__(self) -> None:
        self._asked = False
        self._hurry: Callable[[], None] = lambda: None

    def second_time(self, hurry: Callable[[], None]) -> None:
        self._hurry = hurry

    def wait(self) -> None:
        """Until the first signal, which ends this by raising Stopped."""
        while True:
            signal.pause()

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self._hurry()
            return
        self._asked = True
        raise Stopped


@contextmanager
def until_stopped() -> Iterator[Stopping]:
    stopping = Stopping()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, stopping.handle) for number in numbers]
    try:
        yield stopping
    except Stopped:
        pass
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
