"""The Celery application: what a worker may be asked, and what beat asks by the clock."""

from typing import Any

import structlog
from celery import signals

from service.artifacts.copying import copy_due
from service.db import DatabaseAway
from service.jobs import due
from service.jobs.watching import watch
from service.logs import configure_logs
from service.queue import QUEUE, TaskName, build_celery
from service.settings import load_settings
from tasks.runtime import Runtime, Work, Worker

configure_logs()
log = structlog.get_logger()
settings = load_settings()
celery_app = build_celery(settings)
runtime = Runtime()

TIDY_SECONDS = 600.0


def run(work: Work) -> None:
    """A database that is away ends the round; the rows are still there for the next one."""
    try:
        runtime.run(work)
    except DatabaseAway as error:
        log.warning("round ended early", error=str(error))


@celery_app.task(name=TaskName.SUBMIT.value)
def submit_jobs() -> None:
    run(lambda worker: worker.submitter.drain())


@celery_app.task(name=TaskName.WATCH.value)
def watch_jobs() -> None:
    run(lambda worker: watch(worker.context))


@celery_app.task(name=TaskName.COPY.value)
def copy_files() -> None:
    run(lambda worker: copy_due(worker.context))


@celery_app.task(name=TaskName.SWEEP.value)
def sweep() -> None:
    run(_sweep)


async def _sweep(worker: Worker) -> None:
    """Find work whose nudge was lost: one statement when there is none."""
    owed = await due.anything_due(worker.context.db)
    if owed["submit"]:
        worker.context.nudger.nudge(TaskName.SUBMIT)
    if owed["watch"]:
        worker.context.nudger.nudge(TaskName.WATCH)
    if owed["copy"]:
        worker.context.nudger.nudge(TaskName.COPY)


@celery_app.task(name=TaskName.TIDY.value)
def tidy() -> None:
    run(lambda worker: due.tidy(worker.context.db, worker.context.settings.idempotency_days))


# A sweep that nobody took in time is worth nothing: the next one finds the same.
celery_app.conf.beat_schedule = {
    name.value: {"task": name.value, "schedule": seconds, "options": {"queue": QUEUE, "expires": 2 * seconds}}
    for name, seconds in ((TaskName.SWEEP, settings.sweep_seconds), (TaskName.TIDY, TIDY_SECONDS))
}


@signals.worker_shutdown.connect
def close_runtime(**_: Any) -> None:
    runtime.close()
