"""Does the work of one request, in a thread, and turns whatever happens into an outcome."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

from service.sandbox.config import SandboxConfig
from service.sandbox.failures import Failure, ModelFailure
from service.sandbox.faults import asked_failure, spoil_text
from service.sandbox.files import Files
from service.sandbox.models import find_imitation
from service.sandbox.pictures import Pictures
from service.sandbox.queue import Entry, Outcome, Signal, cancelled
from service.sandbox.work import Work

logger = logging.getLogger(__name__)


class Worker:
    def __init__(
        self, config: SandboxConfig, pictures: Pictures, files: Files, threads: ThreadPoolExecutor, changed: Signal
    ) -> None:
        self._config = config
        self._pictures = pictures
        self._files = files
        self._threads = threads
        self._changed = changed

    async def perform(self, entry: Entry) -> Outcome:
        started = perf_counter()
        entry.log(f"started {entry.model}")
        self._changed.notify()
        try:
            body = await self._body(entry)
        except Failure as failure:
            entry.log(f"failed with status {failure.status}", "ERROR")
            return Outcome.of_failure(failure)
        except Exception:  # Our own bug is a failed request to the client, as a model's is.
            logger.exception("the imitation of %s broke on request %s", entry.model, entry.id)
            entry.log("broke; the sandbox's own log says where", "ERROR")
            problem = ModelFailure(["body"], "Internal server error", "internal_server_error", status=500)
            return Outcome.of_failure(problem)
        seconds = perf_counter() - started
        entry.log(f"finished in {seconds:.3f} s")
        return Outcome(200, body, inference_seconds=seconds)

    async def _body(self, entry: Entry) -> dict[str, Any]:
        if entry.problem is not None:
            raise entry.problem
        if entry.knobs.work_seconds:
            await self._extra_work(entry)
        if entry.knobs.result_status is not None:
            raise asked_failure(entry.knobs.result_status)
        loop = asyncio.get_running_loop()

        def notify() -> None:
            loop.call_soon_threadsafe(self._changed.notify)

        work = Work(entry, self._pictures, self._files, notify, self._config.max_pixels)
        output = await loop.run_in_executor(self._threads, find_imitation(entry.model), entry.input, work)
        return spoil_text(output, entry.knobs)

    async def _extra_work(self, entry: Entry) -> None:
        entry.log(f"working {entry.knobs.work_seconds:g} s longer")
        self._changed.notify()
        if entry.knobs.cancel == "ignored":
            await asyncio.sleep(entry.knobs.work_seconds)
            return
        try:
            async with asyncio.timeout(entry.knobs.work_seconds):
                await entry.cancel_asked.wait()
        except TimeoutError:
            return
        raise cancelled()
