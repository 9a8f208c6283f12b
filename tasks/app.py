"""The workers' Celery application: what one may be asked. What beat asks by the clock stands in `beat.py`.

A task wakes a pump and returns; the pump goes on as long as there is work, with one of a kind in a process.
So no hanging provider or file host can hold the threads that the other tasks need.
"""

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from celery import signals

from service import sessions
from service.artifacts import uploads
from service.bulk import records as bulk_records
from service.callbacks import records
from service.callbacks.schedule import LONGEST_SECONDS
from service.condition import processes, refusals
from service.condition.naming import BEAT_HEADER, Process, from_header
from service.db import DatabaseAway
from service.jobs import due, filing, runs, turns
from service.logs import configure_logs
from service.queue import TaskName, build_celery, forgets_what_is_taken
from service.settings import load_settings
from tasks.canary import Canary
from tasks.runtime import Runtime, Worker
from tasks.waking import by_consumer

if TYPE_CHECKING:
    from celery import Task

configure_logs()
log = structlog.get_logger()
settings = load_settings()
celery_app = build_celery(settings)
runtime = Runtime()
canary = Canary(celery_app, settings)

# Where a message is gone when it is taken, whoever takes it may do so much himself.
nudge: dict[str, Any] = (
    {"Strategy": partial(by_consumer, runtime)} if forgets_what_is_taken(settings.require_broker_url()) else {}
)


@celery_app.task(name=TaskName.SUBMIT.value, **nudge)
def submit_jobs() -> None:
    runtime.wake(_submit)


@celery_app.task(name=TaskName.SUBMIT_GPU.value, **nudge)
def submit_jobs_to_gpu() -> None:
    runtime.wake(_submit_to_gpu)


@celery_app.task(name=TaskName.WATCH.value, **nudge)
def watch_jobs() -> None:
    runtime.wake(_watch)


@celery_app.task(name=TaskName.COPY.value, **nudge)
def copy_files() -> None:
    runtime.wake(_copy)


@celery_app.task(name=TaskName.DELIVER.value, **nudge)
def deliver_callbacks() -> None:
    runtime.wake(_deliver)


@celery_app.task(name=TaskName.BULK.value, **nudge)
def carry_on_bulk_actions() -> None:
    runtime.wake(_act)


@celery_app.task(name=TaskName.SWEEP.value, bind=True)
def sweep(task: "Task[..., None]") -> None:
    beat = from_header(task.request.get(BEAT_HEADER))
    runtime.run(partial(_sweep, beat=beat))
    stamp()


@celery_app.task(name=TaskName.TIDY.value)
def tidy() -> None:
    runtime.run(_tidy)


@celery_app.task(name=TaskName.CANARY.value)
def hear_canary() -> None:
    runtime.touch(canary.arrived)
    if runtime.is_open:
        stamp()


# A database that does not answer holds one thread, not all of them.
stamping = threading.Lock()


def stamp() -> None:
    """Write down that this worker takes messages, now and then."""
    if stamping.acquire(blocking=False):
        try:
            runtime.run(_stamp)
        finally:
            stamping.release()


async def _stamp(worker: Worker) -> None:
    if worker.stamper.is_due:
        try:
            await worker.stamper.stamp()
        except DatabaseAway as error:
            log.warning("not stamped", error=str(error))


def _submit(worker: Worker) -> None:
    worker.submitting.wake()


def _submit_to_gpu(worker: Worker) -> None:
    worker.submitting_to_gpu.wake()


def _watch(worker: Worker) -> None:
    worker.watching.wake()
    worker.stopping.wake()


def _copy(worker: Worker) -> None:
    worker.copying.wake()


def _deliver(worker: Worker) -> None:
    worker.delivering.wake()
    worker.delivering_slowly.wake()


def _act(worker: Worker) -> None:
    worker.acting.wake()


async def _sweep(worker: Worker, beat: Process | None = None) -> None:
    """Find work whose nudge was lost: one statement when there is none, and one at a time.

    A database that does not answer would hold a thread for each sweep, and in the end all of them.
    """
    if beat is not None:
        worker.stamper.heard(beat)
    if worker.sweeping.locked():
        return
    try:
        async with worker.sweeping:
            owed = await due.anything_due(worker.context.db)
    except DatabaseAway as error:
        log.warning("no sweep", error=str(error))
        return
    if owed["leave"]:
        await leave_paused(worker)
    if owed["submit"]:
        worker.submitting.wake()
    if owed["submit_gpu"]:
        worker.submitting_to_gpu.wake()
    if owed["watch"]:
        worker.watching.wake()
        worker.stopping.wake()
    if owed["copy"]:
        worker.copying.wake()
    if owed["deliver"]:
        worker.delivering.wake()
        worker.delivering_slowly.wake()
    if owed["bulk"]:
        worker.acting.wake()
    if owed["count"]:
        try:
            await worker.counter.count()
        except DatabaseAway as error:
            log.warning("not counted", error=str(error))


async def leave_paused(worker: Worker) -> None:
    try:
        if await turns.leave_paused(worker.context.db):
            worker.submitting.wake()
            worker.submitting_to_gpu.wake()
    except DatabaseAway as error:
        log.warning("jobs stay with a paused provider", error=str(error))


async def _tidy(worker: Worker) -> None:
    worker.removing.wake()
    try:
        await due.end_the_oldest(worker.context.db, worker.context.settings.longest_job_seconds)
        await runs.forget_workers(worker.context.db)
        await due.tidy(worker.context.db, worker.context.settings.idempotency_days)
        await records.tidy(worker.context.db, LONGEST_SECONDS)
        await sessions.forget(
            worker.context.db, worker.context.settings.session_idle_seconds, worker.context.settings.session_seconds
        )
        await bulk_records.tidy(worker.context.db)
        await filing.tidy(worker.context.db)
        await processes.tidy(worker.context.db)
        await refusals.tidy(worker.context.db)
        await uploads.forget(worker.context)
    except DatabaseAway as error:
        log.warning("not tidied", error=str(error))


@signals.celeryd_after_setup.connect
def start_canary(**_: Any) -> None:
    canary.start()


@signals.worker_ready.connect
def look_for_work(**_: Any) -> None:
    """What a worker before this one left, or nobody was told of, does not wait for the next sweep."""
    threading.Thread(target=_look_for_work, name="first sweep", daemon=True).start()


def _look_for_work() -> None:
    try:
        runtime.run(_sweep)
    except Exception:  # The next one comes by the clock.
        log.exception("no first sweep")


@signals.worker_shutting_down.connect
def stop_taking(**_: Any) -> None:
    canary.stop()
    runtime.stop()


@signals.worker_shutdown.connect
def close_runtime(**_: Any) -> None:
    canary.stop()
    runtime.close()
