"""Child processes with tight limits: what strangers made is decoded in these and nowhere else.

A child runs one file of this package and inherits nothing of our environment. It is told what to do by its arguments,
says what it found on stdout, and writes large results to a file that is named to it.
"""

import asyncio
import json
import resource
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

MEMORY_BYTES = 1 << 30
CPU_SECONDS = 20
WALL_SECONDS = 40
LARGEST_RESULT = 1 << 29

REFUSED = 3
SIGNALS = (signal.SIGXCPU, signal.SIGXFSZ, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)

# In place of its arguments it is given this one if it is to wait for them on stdin.
WAIT = "--wait"

# With a thread for each core, each with memory of its own, numpy alone would meet the limit.
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[2]), "OPENBLAS_NUM_THREADS": "1"}


class PictureRefused(Exception):
    """Looking at it would take more pixels, memory or time than a picture is given, or it is not to be decoded."""


class Starved(PictureRefused):
    """It was not decoded in time, or its decoder was killed: so does a machine that is short of processor or memory."""


async def ask(program: str, *words: str) -> bytes:
    """Run a file of this package in a child and return what it says. Raises PictureRefused, of which Starved is one.

    How many run at a time is for the caller to limit.
    """
    return await _answer_of(await _started(program, *words))


class Ahead:
    """Runs a file of this package as `ask` does, each time in a fresh child that was started before it was needed.

    So nobody waits for Python to start, and what a picture does to its child it does to no other picture.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._next: asyncio.Task[Process] | None = None

    def prepare(self) -> None:
        if self._next is None:
            self._next = asyncio.create_task(_started(self._program, WAIT))

    async def ask(self, *words: str) -> bytes:
        """Raises PictureRefused."""
        self.prepare()
        assert self._next is not None
        ready, self._next = self._next, None
        try:
            child = await ready
            if child.returncode is not None:  # Something ended it while it waited.
                child = await _started(self._program, WAIT)
            return await _answer_of(child, json.dumps(words).encode())
        finally:
            self.prepare()


async def _started(program: str, *words: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", program, *words),
        env=ENVIRONMENT,
        stdin=asyncio.subprocess.PIPE if WAIT in words else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def _answer_of(child: Process, told: bytes | None = None) -> bytes:
    try:
        async with asyncio.timeout(WALL_SECONDS):
            said, complaint = await child.communicate(told)
    except TimeoutError:
        raise Starved(f"not decoded within {WALL_SECONDS} seconds") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        reason = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        if child.returncode == -signal.SIGKILL:
            raise Starved("the decoder was killed")
        if child.returncode in {REFUSED, *(-number for number in SIGNALS)}:
            raise PictureRefused(reason or f"the decoder died of signal {-child.returncode}")
        raise RuntimeError(f"the picture decoder could not run: {reason}")
    return said


def answer(work: Callable[..., str]) -> None:
    """In the child: do the work on the arguments, or on what stdin says in their place, within the limits."""
    if sys.platform == "linux":  # elsewhere RLIMIT_AS cannot be set this low
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # The second limit kills like a machine that is out of memory; at the first one it is said why.
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_RESULT, LARGEST_RESULT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    words = sys.argv[1:]
    if words == [WAIT]:
        told = sys.stdin.buffer.read()
        if not told:
            return  # Whoever started it is gone.
        words = json.loads(told)
    try:
        said = work(*words)
    except Exception as error:  # a decoder fed by a stranger may raise anything; here is where that ends
        sys.stderr.write(f"{type(error).__name__}: {error}")
        sys.exit(REFUSED)
    sys.stdout.write(said)
