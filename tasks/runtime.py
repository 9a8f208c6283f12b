"""One event loop and one Context for a worker process, and the pumps that its tasks wake."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import uvloop

from service.artifacts.copying import Copier
from service.bulk.acting import Actor
from service.callbacks.delivering import Deliverer
from service.condition.processes import Stamper
from service.context import Context, open_context
from service.db import DatabaseAway
from service.jobs.submitting import Submitter
from service.jobs.watching import Watcher
from service.retention.sweeping import Remover
from service.settings import load_settings
from service.stats.counting import Counter

# What is under way when a worker is told to end has this long: a submission has its own, shorter limit.
LAST_SECONDS = 20.0


class Worker:
    """What the tasks of one process share."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.submitting = Submitter(context).pump
        self.submitting_to_gpu = Submitter(context, context.gpu).pump
        watcher = Watcher(context)
        self.watching, self.stopping = watcher.looks, watcher.stops
        copier = Copier(context)
        self.copying, self.keeping = copier.pump, copier.pictures
        self.sweeping = asyncio.Lock()
        self.removing = Remover(context).pump
        self.counter = Counter(context.db)
        self.acting = Actor(context).pump
        self.stamper = Stamper(context.db, "worker", context.progress)
        deliverer = Deliverer(context)
        self.delivering, self.delivering_slowly = deliverer.pump, deliverer.slow

    async def stop(self) -> None:
        """Take nothing more, and wait for what is in hand."""
        pumps = (
            self.submitting,
            self.submitting_to_gpu,
            self.watching,
            self.stopping,
            self.copying,
            self.keeping,
            self.delivering,
            self.delivering_slowly,
            self.removing,
            self.acting,
        )
        self.counter.stop()
        await asyncio.gather(*(pump.stop(LAST_SECONDS) for pump in pumps))
        with suppress(DatabaseAway):  # Then it is told as lost.
            await self.stamper.end()


class Runtime:
    """Celery's tasks are plain functions on threads; their work is coroutines on this one loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: Worker | None = None
        self._stack = AsyncExitStack()

    def run(self, work: Callable[[Worker], Awaitable[None]]) -> None:
        """Carry out `work` and wait for it."""
        worker = self._started()
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(_call(work, worker), self._loop).result()

    def wake(self, pumps: Callable[[Worker], None]) -> None:
        """Call `pumps` from the loop. Returns at once."""
        worker = self._started()
        assert self._loop is not None
        self._loop.call_soon_threadsafe(pumps, worker)

    @property
    def is_open(self) -> bool:
        """Whether a task has had to do with the database yet; a canary opens nothing."""
        return self._worker is not None

    def touch(self, then: Callable[[], None]) -> None:
        """Call `then` from the loop, or at once if there is none yet: a database that is away may hold up the start."""
        if (loop := self._loop) is None:
            then()
        else:
            loop.call_soon_threadsafe(then)

    def stop(self) -> None:
        """Take no more work. Returns at once."""
        if self._loop is not None and self._worker is not None:
            asyncio.run_coroutine_threadsafe(self._worker.stop(), self._loop)

    def close(self) -> None:
        """End what is in hand, then close the connections on the loop that made them."""
        with self._lock:
            if self._loop is None or self._worker is None:
                return
            asyncio.run_coroutine_threadsafe(self._worker.stop(), self._loop).result(timeout=LAST_SECONDS + 5)
            asyncio.run_coroutine_threadsafe(self._stack.aclose(), self._loop).result(timeout=10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = self._worker = None

    def _started(self) -> Worker:
        with self._lock:
            if self._loop is None:
                self._loop = uvloop.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="worker-loop", daemon=True).start()
            if self._worker is None:
                opened = asyncio.run_coroutine_threadsafe(_open(self._stack), self._loop)
                try:
                    self._worker = opened.result(timeout=30)
                except TimeoutError:
                    opened.cancel()  # Or whoever asks next would open a second one beside it.
                    raise
            return self._worker


async def _open(stack: AsyncExitStack) -> Worker:
    return Worker(await stack.enter_async_context(open_context(load_settings())))


async def _call(work: Callable[[Worker], Awaitable[None]], worker: Worker) -> None:
    await work(worker)
