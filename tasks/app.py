"""The Celery application: what a worker may be asked, and what beat asks by the clock.

A task wakes a pump and returns; the pump goes on as long as there is work, with one of a kind in a process.
So no hanging provider or file host can hold the threads that the other tasks need.
"""

from typing import Any

import structlog
from celery import signals

from service.callbacks import records
from service.callbacks.schedule import LONGEST_SECONDS
from service.db import DatabaseAway
from service.jobs import due
from service.logs import configure_logs
from service.queue import MESSAGE_SECONDS, QUEUE, TaskName, build_celery, publishing
from service.settings import load_settings
from tasks.canary import Canary
from tasks.runtime import Runtime, Worker

configure_logs()
log = structlog.get_logger()
settings = load_settings()
celery_app = build_celery(settings)
runtime = Runtime()
canary = Canary(celery_app, settings)

TIDY_SECONDS = 600.0


@celery_app.task(name=TaskName.SUBMIT.value)
def submit_jobs() -> None:
    runtime.run(_submit)


@celery_app.task(name=TaskName.WATCH.value)
def watch_jobs() -> None:
    runtime.run(_watch)


@celery_app.task(name=TaskName.COPY.value)
def copy_files() -> None:
    runtime.run(_copy)


@celery_app.task(name=TaskName.DELIVER.value)
def deliver_callbacks() -> None:
    runtime.run(_deliver)


@celery_app.task(name=TaskName.SWEEP.value)
def sweep() -> None:
    runtime.run(_sweep)


@celery_app.task(name=TaskName.TIDY.value)
def tidy() -> None:
    runtime.run(_tidy)


@celery_app.task(name=TaskName.CANARY.value)
def hear_canary() -> None:
    runtime.touch(canary.arrived)


async def _submit(worker: Worker) -> None:
    worker.submitting.wake()


async def _watch(worker: Worker) -> None:
    worker.watching.wake()
    worker.stopping.wake()


async def _copy(worker: Worker) -> None:
    worker.copying.wake()


async def _deliver(worker: Worker) -> None:
    worker.delivering.wake()
    worker.delivering_slowly.wake()


async def _sweep(worker: Worker) -> None:
    """Find work whose nudge was lost: one statement when there is none, and one at a time.

    A database that does not answer would hold a thread for each sweep, and in the end all of them.
    """
    if worker.sweeping.locked():
        return
    try:
        async with worker.sweeping:
            owed = await due.anything_due(worker.context.db)
    except DatabaseAway as error:
        log.warning("no sweep", error=str(error))
        return
    if owed["submit"]:
        worker.submitting.wake()
    if owed["watch"]:
        worker.watching.wake()
        worker.stopping.wake()
    if owed["copy"]:
        worker.copying.wake()
    if owed["deliver"]:
        worker.delivering.wake()
        worker.delivering_slowly.wake()


async def _tidy(worker: Worker) -> None:
    try:
        await due.end_the_oldest(worker.context.db, worker.context.settings.longest_job_seconds)
        await due.tidy(worker.context.db, worker.context.settings.idempotency_days)
        await records.tidy(worker.context.db, LONGEST_SECONDS)
    except DatabaseAway as error:
        log.warning("not tidied", error=str(error))


# Without these beat would never again send anything over a connection that it once lost to RabbitMQ.
options = {"queue": QUEUE, "expires": MESSAGE_SECONDS, **publishing(settings.require_broker_url())}
celery_app.conf.beat_schedule = {
    name.value: {"task": name.value, "schedule": seconds, "options": options}
    for name, seconds in ((TaskName.SWEEP, settings.sweep_seconds), (TaskName.TIDY, TIDY_SECONDS))
}
celery_app.conf.beat_scheduler = "tasks.clock:WatchedScheduler"
celery_app.conf.beat_max_loop_interval = settings.canary_seconds


@signals.celeryd_after_setup.connect
def start_canary(**_: Any) -> None:
    canary.start()


@signals.worker_shutting_down.connect
def stop_taking(**_: Any) -> None:
    canary.stop()
    runtime.stop()


@signals.worker_shutdown.connect
def close_runtime(**_: Any) -> None:
    canary.stop()
    runtime.close()
