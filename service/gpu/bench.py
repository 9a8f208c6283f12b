"""What one worker process does: it loads one model, runs one job after another, and tells of them.

The model has the main thread. Everything that must go on meanwhile, heartbeats and the telling of results, is on an
event loop of a second thread, so that neither waits for the other.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

import structlog
from PIL import Image
from pydantic import BaseModel, ConfigDict

from service.catalog import Catalog
from service.catalog.validation import check_input
from service.errors import Invalid
from service.gpu.config import WorkerConfig
from service.gpu.identity import WorkerKey
from service.gpu.line import Behind, Line, LineDown, Permission
from service.gpu.outbox import KeptFile, Outbox, Result, taken_apart
from service.gpu.pictures import Pictures
from service.gpu.queues import Ticket
from service.gpu.runtimes.base import (
    Cancelled,
    DeviceLost,
    InputRefused,
    OutOfMemory,
    ProducedFile,
    Product,
    Runtime,
    RuntimeFailure,
    ServerAway,
    check_limits,
)
from service.gpu.runtimes.devices import told_apart
from service.gpu.telling import BEAT_SECONDS, FIRST_PAUSE_SECONDS, Teller
from service.gpu.watch import MOST_LINES, RunWatch
from service.network import AddressGuard, authority, open_http

log = structlog.get_logger()

HELLO_SECONDS = 5.0
PARENT_SECONDS = 1.0

# A service that does not answer is asked for so long whether a job may begin; then the job is left to others.
START_SECONDS = 60.0
LAST_SECONDS = 10.0
# Between tries of a server beside the worker that does not answer.
SERVER_PAUSES = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)

# The exit statuses of a process that has to be replaced.
DEVICE_LOST, UNSTOPPABLE, ORPHANED = 70, 71, 72

Result_ = TypeVar("Result_")

# Pictures, and the seconds that it took to have them; and those of the attempt that is expected next.
Loaded = tuple[list[Image.Image], float]
NOTHING_AHEAD: tuple[str, Future[Loaded] | None] = ("", None)


class AnyInput(BaseModel):
    """Of a model whose schema the catalogue does not know."""

    model_config = ConfigDict(extra="allow")


class NotNow(Exception):
    """The job was not begun, and somebody else may begin it."""


def find_runtime(config: WorkerConfig) -> Runtime:
    """Raises CannotLoad."""
    if config.runtime is not None:
        module, _, name = config.runtime.partition(":")
        find = getattr(import_module(module), name)
    else:
        from service.gpu.runtimes import find
    runtime: Runtime = find(config.model, folder=Path(config.folder), device=config.device, options=config.options)
    return runtime


class Bench:
    """Opened in the process that runs the model, never before a fork."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.state = "loading"
        self._runtime: Runtime | None = None
        self._model = Catalog([*config.models, config.model]).find(config.model)
        self._ahead = NOTHING_AHEAD
        self._key = WorkerKey.kept_in(config.place)
        name = f"{config.model}@{config.device}".replace("/", ".").replace(":", "-")
        self._outbox = Outbox(config.place / "outbox", name)
        self._parent = os.getppid()
        self._stack = AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="bench", daemon=True).start()
        self._wait_for(self._open())

    def load(self) -> None:
        """Raises CannotLoad."""
        runtime = find_runtime(self.config)
        runtime.load()
        self._runtime = runtime
        self._now("idle")
        say(f"{self.config.model} is loaded")

    @property
    def loaded(self) -> bool:
        return self._runtime is not None

    def run(self, ticket: Ticket) -> None:
        """One message. When it returns, its job's end is on disk or is not ours to tell. Raises NotNow."""
        if ticket.model != self.config.model:
            log.error("a message of another model is not acted on", request_id=ticket.request_id, model=ticket.model)
            return
        if self._outbox.holds(ticket.request_id):
            return  # It was run before, and is being told of.
        begun = self._wait_for(self._start(ticket))
        if isinstance(begun, str):
            log.info("a message is not acted on", request_id=ticket.request_id, why=begun)
            return
        self._now("busy")
        watch = RunWatch()
        beating = asyncio.run_coroutine_threadsafe(self._beat(ticket, begun.run, watch), self._loop)
        try:
            self._run(ticket, begun, watch)
        finally:
            beating.cancel()
            self._now("idle")

    def close(self) -> None:
        """An orderly end: what is still to be told has some seconds more; the rest is told after the next start."""
        until = monotonic() + LAST_SECONDS
        while next(self._outbox.entries(), None) is not None and monotonic() < until:
            sleep(0.05)

    def _now(self, state: str) -> None:
        self.state = state
        self._loop.call_soon_threadsafe(self._changed.set)

    def _run(self, ticket: Ticket, begun: Permission, watch: RunWatch) -> None:
        try:
            result, files = self._attempt(ticket, begun, watch)
        except Cancelled:
            if watch.stop != "cancelled":
                return  # It has ended without us, or another worker has it.
            result, files = _cancelled(ticket, begun.run), []
        except DeviceLost as error:
            watch.log(f"The device is lost: {error}")
            self._flush(ticket, begun.run, watch)
            say(f"{self.config.device} is lost ({error}); this process is replaced")
            os._exit(DEVICE_LOST)
        # Told of beside the next run, with the result: words are no reason to let the device wait.
        result.lines, result.done, result.of = watch.take_lines(MOST_LINES), watch.done, watch.of
        self._outbox.put(result, files)
        self._loop.call_soon_threadsafe(self._teller.woken.set)

    def _attempt(self, ticket: Ticket, begun: Permission, watch: RunWatch) -> tuple[Result, list[ProducedFile]]:
        """The run's end, whatever it is. Raises Cancelled or DeviceLost."""
        try:
            product = self._product(ticket, begun, watch)
        except (Cancelled, DeviceLost):
            raise
        except InputRefused as error:
            return Result(ticket, begun.run, 422, {"detail": error.detail}), []
        except Invalid as error:
            return Result(ticket, begun.run, 422, {"detail": error.detail}), []
        except OutOfMemory as error:
            words = f"The GPU has not enough memory for this input: {error}"
            return Result(ticket, begun.run, 503, {"detail": words, "error_type": "out_of_memory"}, words), []
        except RuntimeFailure as error:  # a server beside it, for one, that is away
            words = f"The model cannot run now: {error}"
            return Result(ticket, begun.run, 503, {"detail": words, "error_type": "model_unavailable"}, words), []
        except Exception as error:  # a model's own code may raise anything
            log.exception("a run failed", request_id=ticket.request_id)
            watch.log(f"{type(error).__name__}: {error}"[:2_000])
            words = f"The model failed: {type(error).__name__}."
            return Result(ticket, begun.run, 500, {"detail": words, "error_type": "internal_error"}, words), []
        for name, note in product.notes.items():
            watch.log(f"{name}: {note}")
        payload, files, mark = taken_apart(product.output)
        kept = [KeptFile(file.file_name, file.content_type) for file in files]
        return Result(ticket, begun.run, 200, payload, files=kept, mark=mark), files

    def _product(self, ticket: Ticket, begun: Permission, watch: RunWatch) -> Product:
        assert self._runtime is not None
        fitted = self._fitted(begun.input)
        pictures, seconds = self._pictures_for(ticket.request_id, begun.input, watch)
        self._look_ahead(begun.behind)
        watch.step(0, None)
        pauses = iter(SERVER_PAUSES)
        while True:
            try:
                # A model's own code may let the device's errors through, and after some of them no job would succeed.
                with told_apart():
                    return self._runtime.run(fitted, pictures, watch, loaded_seconds=seconds)
            except ServerAway as error:
                # It may be on its way up again, and all that wait would fail meanwhile, one after the other.
                if (pause := next(pauses, None)) is None:
                    raise
                watch.log(f"{error}; it is tried again in {pause:g} s")
                watch.rest(pause)

    def _fitted(self, asked: dict[str, Any]) -> BaseModel:
        """What the door checks too, before any picture is fetched. Raises Invalid or InputRefused."""
        check_input(self._model, asked, ("body",))
        fitted = (self._model.Input or AnyInput).model_validate(asked)
        check_limits(self._model.limits, fitted)
        return fitted

    def _pictures_for(self, request_id: str, asked: dict[str, Any], watch: RunWatch) -> Loaded:
        """And the seconds that they took. Raises Cancelled, InputRefused or RuntimeFailure."""
        (name, loading), self._ahead = self._ahead, NOTHING_AHEAD
        if loading is not None and name == request_id:
            with suppress(RuntimeFailure):  # It is tried anew, now that it counts.
                return watch.outcome_of(loading)
        elif loading is not None:
            loading.cancel()
        return watch.outcome_of(asyncio.run_coroutine_threadsafe(self._load(asked), self._loop))

    def _look_ahead(self, behind: Behind | None) -> None:
        """Fetch what the next run will want while the device has this one."""
        if behind is None:
            return
        with suppress(Invalid, InputRefused):
            self._fitted(behind.input)
            self._ahead = behind.request_id, asyncio.run_coroutine_threadsafe(self._load(behind.input), self._loop)

    async def _load(self, asked: dict[str, Any]) -> Loaded:
        began = monotonic()
        pictures = await self._pictures.of(asked)
        return pictures, monotonic() - began

    def _flush(self, ticket: Ticket, run: int, watch: RunWatch) -> None:
        """What was said last before this process ends."""
        with suppress(LineDown):
            self._wait_for(self._line.beat(ticket, run, watch.done, watch.of, watch.take_lines()))

    def _wait_for(self, work: Coroutine[Any, Any, Result_]) -> Result_:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> None:
        self._changed = asyncio.Event()
        http = await self._stack.enter_async_context(open_http(guard=None, connect_seconds=5.0, read_seconds=15.0))
        guard = AddressGuard(self.config.allow_private_networks, frozenset({authority(self.config.service_url)}))
        strangers = await self._stack.enter_async_context(open_http(guard=guard))
        self._pictures = Pictures(strangers, self.config.service_url)
        self._line = Line(http, self.config.service_url, self._key, self.config.worker)
        self._teller = Teller(self._outbox, self._line)
        self._beside = [
            asyncio.create_task(work) for work in (self._teller.tell_all(), self._say_hello(), self._follow_parent())
        ]

    async def _start(self, ticket: Ticket) -> Permission | str:
        until, pause, again = monotonic() + START_SECONDS, FIRST_PAUSE_SECONDS, False
        while True:
            try:
                return await self._line.start(ticket, again=again)
            except LineDown as error:
                log.warning("the service does not say whether to begin", error=str(error))
                if monotonic() > until:
                    raise NotNow(str(error)) from error
            again = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, 10.0)

    async def _beat(self, ticket: Ticket, run: int, watch: RunWatch) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            lines = watch.take_lines()
            try:
                stop = await self._line.beat(ticket, run, watch.done, watch.of, lines)
            except LineDown as error:
                watch.put_back(lines)
                log.warning("a heartbeat was not heard", error=str(error))
                stop = None
            if stop is not None:
                watch.halt(stop)
            if watch.stop is not None and monotonic() - watch.stopped_at > self.config.grace_seconds:
                await self._break_off(ticket, run, watch.stop)

    async def _break_off(self, ticket: Ticket, run: int, why: str) -> None:
        """The model does not listen: this process ends, and the pool starts another."""
        log.error("a run did not stop when it was told to; its process is ended", request_id=ticket.request_id)
        if why == "cancelled":
            self._outbox.put(_cancelled(ticket, run))
            with suppress(LineDown):
                async with asyncio.timeout(5):
                    await self._teller.tell_of(ticket.request_id)
        os._exit(UNSTOPPABLE)

    async def _say_hello(self) -> None:
        said = ""
        while True:
            try:
                await self._line.hello(self.config.model, self.config.device, self.state)
                said = ""
            except LineDown as error:
                if str(error) != said:
                    said = str(error)
                    say(f"no word to {self.config.service_url}: {said}")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), HELLO_SECONDS)
            self._changed.clear()

    async def _follow_parent(self) -> None:
        """A process whose parent was killed would hold the GPU against the next one."""
        while True:
            await asyncio.sleep(PARENT_SECONDS)
            if os.getppid() != self._parent:
                os._exit(ORPHANED)


def say(line: str) -> None:
    sys.stderr.write(f"roundtrip: {line}\n")
    sys.stderr.flush()


def _cancelled(ticket: Ticket, run: int) -> Result:
    words = "The job was cancelled."
    return Result(ticket, run, 499, {"detail": words, "error_type": "client_cancelled"}, words)
