"""One event loop and one Context for a worker process, shared by the threads that run its tasks."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import uvloop

from service.context import Context, open_context
from service.jobs.submitting import Submitter
from service.settings import load_settings

Work = Callable[["Worker"], Awaitable[None]]


class Worker:
    """What the tasks of one process share."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.submitter = Submitter(context)


class Runtime:
    """Celery's tasks are plain functions on threads; their work is coroutines on this one loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: Worker | None = None
        self._stack = AsyncExitStack()

    def run(self, work: Work) -> None:
        """Carry out `work` and wait for it."""
        worker = self._started()
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(_call(work, worker), self._loop).result()

    def close(self) -> None:
        """The pool's connections are closed on the loop that made them."""
        with self._lock:
            if self._loop is None:
                return
            asyncio.run_coroutine_threadsafe(self._stack.aclose(), self._loop).result(timeout=20)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = self._worker = None

    def _started(self) -> Worker:
        with self._lock:
            if self._loop is None:
                self._loop = uvloop.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="worker-loop", daemon=True).start()
            if self._worker is None:
                opened = asyncio.run_coroutine_threadsafe(
                    self._stack.enter_async_context(open_context(load_settings())), self._loop
                )
                self._worker = Worker(opened.result(timeout=30))
            return self._worker


async def _call(work: Work, worker: Worker) -> None:
    await work(worker)
