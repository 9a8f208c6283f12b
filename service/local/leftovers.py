"""The processes of an owner that was killed: noted while they run, ended by the next owner.

On Linux they die with their parent, so there is usually nothing left to do.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

from service.local.identity import ProcessIdentity

PATIENCE = 10.0


class Register:
    """One line for each process that was started: its number, its start time and its name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, pid: int) -> None:
        identity = ProcessIdentity.of(pid)
        with suppress(OSError), self.path.open("a") as file:
            file.write(f"{name} {identity}\n")

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)

    def end_leftovers(self) -> list[str]:
        """End what is still there, and only that; returns the names."""
        left = self._left()
        # SIGINT is a quick and clean end for every program of ours, PostgreSQL and Valkey among them.
        for asked in (signal.SIGINT, signal.SIGKILL):
            for _, identity in left:
                if identity.alive:
                    _signal_group(identity.pid, asked)
            deadline = monotonic() + PATIENCE
            while any(identity.alive for _, identity in left) and monotonic() < deadline:
                sleep(0.02)
        self.clear()
        return [name for name, _ in left]

    def _left(self) -> list[tuple[str, ProcessIdentity]]:
        try:
            lines = self.path.read_text().splitlines()
        except FileNotFoundError:
            return []
        named = [line.partition(" ") for line in lines]
        found = [(name, ProcessIdentity.parse(identity)) for name, _, identity in named]
        return [(name, identity) for name, identity in found if identity is not None and identity.alive]


def _signal_group(pid: int, number: signal.Signals) -> None:
    # Every child leads a group of its own, which also holds what it forked.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
