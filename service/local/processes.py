"""Child processes that are started again when they die, and that never outlive the process that started them."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import IO, Self

from service.local.account import Account
from service.local.errors import CannotStart
from service.local.leftovers import Register

SHORTEST_DELAY = 0.2
LONGEST_DELAY = 10.0
# A child that lived this long is taken to have been well, so its next restart is quick again.
WELL_AFTER = 30.0
# So is one that was asked to end after this, as an operator does to restart it.
ASKED_AFTER = 1.0
ENDED_IN_ORDER = {0, -signal.SIGTERM}
ENDINGS_UNTIL_GIVING_UP = 3
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Program:
    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str]
    account: Account | None = None
    # Where its output goes; None is our own stderr, each line with the name before it.
    log: Path | None = None
    descriptors: Sequence[int] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    patience: float = 10.0
    before: Callable[[], None] = lambda: None


def tell(line: str) -> None:
    # Whoever read our output may be gone; the children are to be looked after all the same.
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


class Child:
    """One program, kept running by a thread of its own.

    That thread starts the process and then waits for it: Linux sends a parent's death signal when the
    thread that started the child ends, so a thread that could end earlier must not start it.
    """

    def __init__(self, program: Program, register: Register) -> None:
        self.program = program
        self.endings = 0
        self.last_ending = ""
        self.last_lines: deque[str] = deque(maxlen=8)
        self._register = register
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._keep_running, name=program.name, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    def send(self, number: signal.Signals) -> None:
        # Under the lock nobody reaps the process, so its number is still its own.
        with self._lock:
            if (pid := self.pid) is not None:
                os.kill(pid, number)

    def stop(self, hurry: threading.Event) -> None:
        self._stopping.set()
        self.send(self.program.stop_signal)
        deadline = monotonic() + self.program.patience
        while self._thread.is_alive() and monotonic() < deadline and not hurry.is_set():
            self._thread.join(0.05)
        if self._thread.is_alive():
            self.send(self.program.orphan_signal if hurry.is_set() else signal.SIGKILL)
        self._thread.join()

    def _keep_running(self) -> None:
        delay = SHORTEST_DELAY
        while not self._stopping.is_set():
            started, status = monotonic(), None
            try:
                status = self._run_once()
                self.last_ending = _ending(status)
            except OSError as error:
                self.last_ending = f"could not be started: {error}"
            if self._stopping.is_set():
                return
            self.endings += 1
            if monotonic() - started > (ASKED_AFTER if status in ENDED_IN_ORDER else WELL_AFTER):
                delay = SHORTEST_DELAY
            tell(f"roundtrip: {self.program.name} {self.last_ending}; starting it again in {delay:.1f} s")
            self._stopping.wait(delay)
            delay = min(delay * 2, LONGEST_DELAY)

    def _run_once(self) -> int | None:
        """The status with which it ended; None if it was not started any more."""
        self.program.before()
        with self._lock:
            if self._stopping.is_set():
                return None
            process = self._process = self._open()
        self._register.add(self.program.name, process.pid)
        reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        reader.start()
        self._wait(process)
        reader.join(1)
        return process.returncode

    def _open(self) -> subprocess.Popen[str]:
        program = self.program
        return subprocess.Popen(
            program.command,
            env=program.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=program.descriptors,
            umask=0o077,
            preexec_fn=_die_with_parent(program.orphan_signal),
            **(program.account.credentials if program.account else {}),
        )

    def _wait(self, process: subprocess.Popen[str]) -> None:
        """Wait for the end, then end what the process left in its group, and only then let its number go."""
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        else:
            process.wait()
        with self._lock:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _read(self, output: IO[str]) -> None:
        """To the very end: a child whose output nobody takes would stand still one day."""
        log = self.program.log
        with output:
            for line in output:
                self.last_lines.append(line.rstrip())
                if log is None:
                    tell(f"{self.program.name:<8} | {line.rstrip()}")
                    continue
                with suppress(OSError), log.open("a") as file:
                    file.write(line)


class Supervisor:
    """Starts programs one after the other and stops them in the opposite order."""

    def __init__(self, register: Register) -> None:
        self.children: dict[str, Child] = {}
        self._register = register
        self._hurry = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self.children:
            _, child = self.children.popitem()
            child.stop(self._hurry)
        self._register.clear()

    def start(self, program: Program) -> Child:
        child = self.children[program.name] = Child(program, self._register)
        return child

    def hurry(self) -> None:
        """Stop without patience from now on."""
        self._hurry.set()

    def wait_for(self, ready: Callable[[], bool], *, within: float, what: str) -> None:
        """Until `ready`, unless that takes too long or some child does not stay up."""
        deadline = monotonic() + within
        while not ready():
            for name, child in self.children.items():
                if child.endings >= ENDINGS_UNTIL_GIVING_UP:
                    words = " / ".join(child.last_lines)
                    raise CannotStart(f"{name} does not stay up: it {child.last_ending}. Its last words: {words}")
            if monotonic() > deadline:
                raise CannotStart(f"{what} within {within:.0f} s")
            sleep(0.02)


def _ending(status: int | None) -> str:
    if status is None:
        return "was not started"
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """What the new process does between fork and exec, after it changed its account, which would undo it."""
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    libc = ctypes.CDLL(None)

    def arrange() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:
            os._exit(1)

    return arrange
