"""A process of its own beside a worker or beat, which ends it when it lives but does not work.

The watched process says a word now and then on a pipe, which is the watchdog's standard input; its end is the
end of the watched process. Whoever supervises that process starts the next one. This file is also what the
watchdog runs, by its path and with the standard library alone, so that it costs little memory and no time.
"""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from time import monotonic

# A canary is being sent; one arrived; alive, and nothing can be said of the broker; about to end.
SENT, ARRIVED, ALIVE, ENDING = b"p", b"c", b"a", b"e"

# A consumer that lost its broker needs some seconds to be back, however often canaries are sent.
SHORTEST_PATIENCE = 10.0
# From SIGTERM to SIGKILL: what a worker has in hand may take 20 s.
GRACE_SECONDS = 22.0
# An orderly end that takes longer than this hangs.
LONGEST_END = 60.0


class Finding(Enum):
    SILENT = "it has stood still"
    DEAF = "it lives but consumes nothing"
    ENDLESS = "it does not come to its end"


class Watch:
    """What is to be thought of a process, by its words. All times are of one clock."""

    def __init__(self, seconds: float, now: float, patience: float = SHORTEST_PATIENCE) -> None:
        """`seconds` lie between two canaries. Three of them after its last proof of work a process is found out."""
        self._silent_after = max(3 * seconds, patience)
        self._deaf_after = max(2 * seconds, patience)
        self._heard = now
        self._unanswered: float | None = None
        self._ending: float | None = None

    def hear(self, words: bytes, now: float) -> None:
        self._heard = now
        for word in (words[place : place + 1] for place in range(len(words))):
            if word == SENT:
                self._unanswered = now if self._unanswered is None else self._unanswered
            elif word in (ARRIVED, ALIVE):
                self._unanswered = None
            elif word == ENDING and self._ending is None:
                self._ending = now

    def begin_anew(self, now: float) -> None:
        """Time has passed in which neither side could run: the machine slept, or all was stopped."""
        self._heard = now
        self._unanswered = None if self._unanswered is None else now
        self._ending = None if self._ending is None else now

    @property
    def deadline(self) -> float:
        """When something will be wrong, if no word comes before."""
        if self._ending is not None:
            return self._ending + LONGEST_END
        silent = self._heard + self._silent_after
        return silent if self._unanswered is None else min(silent, self._unanswered + self._deaf_after)

    def finding(self, now: float) -> Finding | None:
        if now < self.deadline:
            return None
        if self._ending is not None:
            return Finding.ENDLESS
        return Finding.SILENT if now >= self._heard + self._silent_after else Finding.DEAF


class Watched:
    """The other side: starts the watchdog of this process, and speaks to it. Safe in every thread."""

    def __init__(self, seconds: float, patience: float = SHORTEST_PATIENCE) -> None:
        self._figures = [str(seconds), str(patience)]
        self._watchdog = self._start()

    def say(self, word: bytes) -> None:
        """Never waits, and never fails."""
        assert self._watchdog.stdin is not None
        with suppress(OSError):
            self._watchdog.stdin.write(word)

    def renew(self) -> None:
        """Start another watchdog if somebody ended this one."""
        if self._watchdog.poll() is not None:
            self._watchdog = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), *self._figures]
        watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, cwd="/")  # noqa: S603
        assert watchdog.stdin is not None
        os.set_blocking(watchdog.stdin.fileno(), False)
        return watchdog


def watch(pid: int, words: int, seconds: float, patience: float) -> None:
    """Watch this process, our parent, until it ends; `words` is the descriptor that it speaks on."""
    look_every = seconds / 4
    watched = Watch(seconds, now := monotonic(), patience)
    while True:
        asleep = min(max(0.0, watched.deadline - now), look_every)
        heard, _, _ = select.select([words], [], [], asleep)
        before, now = now, monotonic()
        if now - before > asleep + look_every:
            watched.begin_anew(now)
        if heard:
            if not (said := os.read(words, 4096)):
                return
            watched.hear(said, now)
        elif (found := watched.finding(now)) is not None:
            end(pid, found, words)
            return


def end(pid: int, found: Finding, words: int) -> None:
    """In order if it can still hear that, and in any case."""
    tell(f"{found.value}, and is ended so that another takes its place", pid)
    if found is Finding.DEAF:
        send(pid, signal.SIGTERM)
        if silent(words, GRACE_SECONDS):
            return
        tell("it did not end in time, and is killed", pid)
    send(pid, signal.SIGKILL)


def silent(words: int, seconds: float) -> bool:
    """Whether the pipe's other end closes within this time."""
    last = monotonic() + seconds
    while (left := last - monotonic()) > 0:
        heard, _, _ = select.select([words], [], [], left)
        if heard and not os.read(words, 4096):
            return True
    return False


def send(pid: int, number: signal.Signals) -> None:
    # Once the parent is dead its number may be another's; then it is our parent no more.
    if os.getppid() == pid:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def tell(event: str, pid: int) -> None:
    """A line as the watched process itself would log it."""
    with suppress(OSError):
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        sys.stderr.write(f"{at} [error    ] watchdog: {event} pid={pid}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    # Ctrl-C goes to every process of a terminal. The end of the pipe is our signal.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    watch(int(sys.argv[1]), sys.stdin.fileno(), *map(float, sys.argv[2:]))
