"""What one worker process does: it loads one model, runs jobs, several together where that pays, and tells of them.

The model has the main thread. Everything that must go on meanwhile, heartbeats and the telling of results, is on an
event loop of a second thread, so that neither waits for the other.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict

from service.catalog import Catalog
from service.catalog.validation import check_input
from service.errors import Invalid
from service.gpu import ends
from service.gpu.ahead import Ahead, AheadFailed, Loaded
from service.gpu.calls import MOST_AHEAD
from service.gpu.config import WorkerConfig
from service.gpu.identity import WorkerKey
from service.gpu.line import Behind, Line, LineDown, Permission
from service.gpu.outbox import Outbox, Result
from service.gpu.pictures import Pictures
from service.gpu.queues import Ticket
from service.gpu.runtimes.base import (
    Batching,
    Call,
    Cancelled,
    DeviceLost,
    InputRefused,
    ProducedFile,
    Product,
    Runtime,
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

# For so long the service is asked whether others may join a run that could begin.
JOIN_SECONDS = 2.0


class AnyInput(BaseModel):
    """Of a model whose schema the catalogue does not know."""

    model_config = ConfigDict(extra="allow")


class NotNow(Exception):
    """The job was not begun, and somebody else may begin it."""


@dataclass(slots=True)
class Run:
    """One that the service knows to be under way."""

    ticket: Ticket
    begun: Permission
    watch: RunWatch
    beating: Future[None] = field(init=False)


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
        # Whether they may begin was asked, and not answered.
        self._unheard: set[str] = set()
        self._model = Catalog([*config.models, config.model]).find(config.model)
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

    def run(self, ticket: Ticket) -> None:
        """One message, and those that share the device with it. When it returns, the ends of their jobs are on disk or
        are not ours to tell. Raises NotNow."""
        if ticket.model != self.config.model:
            log.error("a message of another model is not acted on", request_id=ticket.request_id, model=ticket.model)
            return
        if self._outbox.holds(ticket.request_id):
            return  # It was run before, and is being told of.
        again = ticket.request_id in self._unheard
        self._unheard.discard(ticket.request_id)
        begun = self._wait_for(self._start(ticket, again, min(2 * self._most - 1, MOST_AHEAD)))
        if isinstance(begun, str):
            log.info("a message is not acted on", request_id=ticket.request_id, why=begun)
            return
        self._now("busy")
        runs: list[Run] = []
        self._begin(ticket, begun, runs)
        try:
            self._run(runs)
        finally:
            for run in runs:
                run.beating.cancel()
            self._now("idle")

    def close(self) -> None:
        """An orderly end: what is still to be told has some seconds more; the rest is told after the next start."""
        until = monotonic() + LAST_SECONDS
        while next(self._outbox.entries(), None) is not None and monotonic() < until:
            sleep(0.05)

    def _now(self, state: str) -> None:
        self.state = state
        self._loop.call_soon_threadsafe(self._changed.set)

    @property
    def _most(self) -> int:
        """How many inputs the device may have at a time."""
        return self._runtime.most if isinstance(self._runtime, Batching) else 1

    def _begin(self, ticket: Ticket, begun: Permission, runs: list[Run]) -> Run:
        """It is under way beside the others, and the service hears so from now on."""
        run = Run(ticket, begun, RunWatch())
        runs.append(run)
        run.beating = asyncio.run_coroutine_threadsafe(self._beat(run, runs), self._loop)
        return run

    def _run(self, runs: list[Run]) -> None:
        """Of the first, to which those are added that can go with it."""
        failures: list[Exception] = []
        for run, outcome in zip(runs, self._outcomes(runs), strict=True):
            try:
                self._keep(run, outcome)
            except Exception as error:  # That one end cannot be kept is no reason to lose the others.
                failures.append(error)
        for lost in failures:
            if isinstance(lost, DeviceLost):
                self._wait_for(self._flush(runs, f"The device is lost: {lost}"))
                say(f"{self.config.device} is lost ({lost}); this process is replaced")
                os._exit(DEVICE_LOST)
        if failures:
            raise failures[0]

    def _keep(self, run: Run, outcome: Product | Exception) -> None:
        """The end of a run, on disk. Raises DeviceLost, which is none."""
        if isinstance(outcome, DeviceLost):
            raise outcome
        if not run.watch.takes_end():
            return
        if isinstance(outcome, Product):
            result, files = ends.completed(run.ticket, run.begun.run, run.watch, outcome)
            self._put(run, result, files)
        elif not isinstance(outcome, Cancelled):
            self._put(run, ends.failed(run.ticket, run.begun.run, run.watch, outcome))
        elif run.watch.stop == "cancelled":
            self._put(run, ends.cancelled(run.ticket, run.begun.run))
        # Else it has ended without us, or another worker has it.

    def _put(self, run: Run, result: Result, files: Sequence[ProducedFile] = ()) -> None:
        # Told of beside the next run, with the result: words are no reason to let the device wait.
        result.lines, result.done, result.of = run.watch.take_lines(MOST_LINES), run.watch.done, run.watch.of
        self._outbox.put(result, list(files))
        self._loop.call_soon_threadsafe(self._teller.woken.set)

    def _outcomes(self, runs: list[Run]) -> Sequence[Product | Exception]:
        """One for each, of those also that are added here."""
        runtime = self._runtime
        assert runtime is not None
        try:
            call = self._call_of(runs[0])
            calls = [call, *self._joined(runtime, runs, call)] if isinstance(runtime, Batching) else [call]
        except Exception as error:  # a model's own code may raise anything
            return [error] * len(runs)
        if isinstance(runtime, Batching) and len(calls) > 1:
            try:
                with told_apart():
                    return runtime.run_many(calls)
            except DeviceLost as error:
                return [error] * len(runs)
            except Exception as error:  # One of them may be to blame, and no other is to fail with it.
                log.exception("a batch failed; each of it is run alone", jobs=len(calls), error=repr(error))
        return [_alone(runtime, call, run.watch) for call, run in zip(calls, runs, strict=True)]

    def _call_of(self, run: Run) -> Call:
        """With its pictures, while those of the next are fetched. Raises what ends the run."""
        fitted = self._fitted(run.begun.input)
        loading = self._ahead.now(run.ticket.request_id, run.begun.input)
        self._look_ahead(run.begun.behind)
        try:
            pictures, seconds = run.watch.outcome_of(loading)
        except AheadFailed:  # Now it counts.
            pictures, seconds = run.watch.outcome_of(self._ahead.anew(run.begun.input))
        run.watch.step(0, None)
        return Call(fitted, pictures, run.watch, seconds)

    def _look_ahead(self, behind: Sequence[Behind]) -> None:
        wanted = {}
        for each in behind:
            with suppress(Invalid, InputRefused):
                self._fitted(each.input)
                wanted[each.ticket.request_id] = each.input
        self._ahead.look(wanted)

    def _joined(self, runtime: Batching, runs: list[Run], call: Call) -> list[Call]:
        """Those next in line join the runs, as far as they can share a batch with the first and their pictures are
        there. Nobody is overtaken. Their messages come later, and then there is nothing to do for them.

        What has crashed before, by whose fault nobody knows, is alone.
        """
        [first] = runs
        if first.begun.run > 1:
            return []
        key, until = runtime.batch_key(call), monotonic() + self.config.gather_seconds
        ready: dict[str, tuple[Ticket, BaseModel, Loaded]] = {}
        for behind in first.begun.behind[: runtime.most - 1]:
            name = behind.ticket.request_id
            loading = self._ahead.waiting(name)
            if loading is None or self._outbox.holds(name):
                break
            fitted = self._fitted(behind.input)
            if runtime.batch_key(Call(fitted, [], first.watch)) != key:
                break
            try:
                ready[name] = behind.ticket, fitted, loading.result(max(until - monotonic(), 0))
            except (TimeoutError, CancelledError, AheadFailed):
                break
        self._wait_for(self._begin_all([ticket for ticket, _, _ in ready.values()], runs))
        calls: list[Call] = []
        for run in runs[1:]:
            self._ahead.take(run.ticket.request_id)
            _, fitted, (pictures, seconds) = ready[run.ticket.request_id]
            calls.append(Call(fitted, pictures, run.watch, seconds))
        return calls

    def _fitted(self, asked: dict[str, Any]) -> BaseModel:
        """What the door checks too, before any picture is fetched. Raises Invalid or InputRefused."""
        check_input(self._model, asked, ("body",))
        fitted = (self._model.Input or AnyInput).model_validate(asked)
        check_limits(self._model.limits, fitted)
        return fitted

    async def _flush(self, runs: Sequence[Run], words: str) -> None:
        """What was said last before this process ends."""

        async def flush(run: Run) -> None:
            watch = run.watch
            watch.log(words)
            with suppress(LineDown):
                await self._line.beat(run.ticket, run.begun.run, watch.done, watch.of, watch.take_lines())

        await asyncio.gather(*map(flush, runs))

    def _wait_for(self, work: Coroutine[Any, Any, Result_]) -> Result_:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> None:
        self._changed = asyncio.Event()
        http = await self._stack.enter_async_context(open_http(guard=None, connect_seconds=5.0, read_seconds=15.0))
        guard = AddressGuard(self.config.allow_private_networks, frozenset({authority(self.config.service_url)}))
        strangers = await self._stack.enter_async_context(open_http(guard=guard))
        now, ahead = (Pictures(strangers, self.config.service_url) for _ in range(2))
        self._ahead = Ahead(now, ahead, self._loop)
        self._line = Line(http, self.config.service_url, self._key, self.config.worker)
        self._teller = Teller(self._outbox, self._line)
        self._beside = [
            asyncio.create_task(work) for work in (self._teller.tell_all(), self._say_hello(), self._follow_parent())
        ]

    async def _begin_all(self, tickets: Sequence[Ticket], runs: list[Run]) -> None:
        await asyncio.gather(*(self._begin_another(ticket, runs) for ticket in tickets))

    async def _begin_another(self, ticket: Ticket, runs: list[Run]) -> None:
        """If it may begin, and we hear so at once."""
        try:
            async with asyncio.timeout(JOIN_SECONDS):
                begun = await self._line.start(ticket, fresh=True)
        except (LineDown, TimeoutError):
            self._unheard.add(ticket.request_id)  # Its message comes to us or to somebody else.
            return
        if isinstance(begun, Permission):
            self._begin(ticket, begun, runs)

    async def _start(self, ticket: Ticket, again: bool, ahead: int) -> Permission | str:
        until, pause = monotonic() + START_SECONDS, FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._line.start(ticket, again=again, ahead=ahead)
            except LineDown as error:
                log.warning("the service does not say whether to begin", error=str(error))
                if monotonic() > until:
                    raise NotNow(str(error)) from error
            again = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, 10.0)

    async def _beat(self, run: Run, runs: Sequence[Run]) -> None:
        watch = run.watch
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            lines = watch.take_lines()
            try:
                stop = await self._line.beat(run.ticket, run.begun.run, watch.done, watch.of, lines)
            except LineDown as error:
                watch.put_back(lines)
                log.warning("a heartbeat was not heard", error=str(error))
                stop = None
            if stop is not None:
                watch.halt(stop)
            if watch.stop == "cancelled" and len(runs) > 1 and watch.takes_end():
                # The others go on, and it is not to wait for them.
                self._put(run, ends.cancelled(run.ticket, run.begun.run))
            stopped = [each.watch.stopped_at for each in runs if each.watch.stop is not None]
            if len(stopped) == len(runs) and monotonic() - max(stopped) > self.config.grace_seconds:
                await self._break_off(runs)

    async def _break_off(self, runs: Sequence[Run]) -> None:
        """The model does not listen: this process ends, and the pool starts another."""
        left = [run for run in runs if run.watch.takes_end()]
        if not left and len(runs) == 1:
            return  # Its end is being kept just now.
        log.error("a run did not stop when it was told to; its process is ended", request_id=runs[0].ticket.request_id)
        for run in left:
            if run.watch.stop == "cancelled":
                self._put(run, ends.cancelled(run.ticket, run.begun.run))
                with suppress(LineDown, TimeoutError):
                    async with asyncio.timeout(5):
                        await self._teller.tell_of(run.ticket.request_id)
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


def _alone(runtime: Runtime, call: Call, watch: RunWatch) -> Product | Exception:
    pauses = iter(SERVER_PAUSES)
    while True:
        try:
            # A model's own code may let the device's errors through, and after some of them no job would succeed.
            with told_apart():
                return runtime.run(call.input, call.pictures, watch, loaded_seconds=call.loaded_seconds)
        except ServerAway as error:
            # It may be on its way up again, and all that wait would fail meanwhile, one after the other.
            if (pause := next(pauses, None)) is None:
                return error
            watch.log(f"{error}; it is tried again in {pause:g} s")
            try:
                watch.rest(pause)
            except Cancelled as cancelled:
                return cancelled
        except Exception as error:  # a model's own code may raise anything
            return error
