"""The Celery application of a GPU worker: prefork with one child, which loads the model after the fork and runs it.

The parent stays free to answer pings and revokes, and starts the next child when one ends. It must never touch torch:
a fork after that hangs.
"""

import os
import signal
from typing import Any

import msgspec
from celery import signals
from celery.exceptions import Reject

from service.gpu.bench import Bench, NotNow
from service.gpu.config import WorkerConfig
from service.gpu.queues import TASK, Ticket
from service.gpu.runtimes.base import RuntimeFailure
from service.logs import configure_logs
from service.queue import build_celery
from service.settings import load_settings

configure_logs()
config = WorkerConfig.published()
celery_app = build_celery(load_settings())
celery_app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_concurrency=1,
    # A child that has not said within this that it is up is taken for dead; by default that would be 4 s.
    worker_proc_alive_timeout=config.load_seconds,
    task_time_limit=config.longest_seconds,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)
benches: list[Bench] = []

# Celery starts the next process when one was killed, as the kernel does that has no memory left.
MOST_LOADS = 3


@signals.worker_process_init.connect
def load(**_: Any) -> None:
    lost = int(config.loads.read_text()) if config.loads.exists() else 0
    if lost == MOST_LOADS:
        give_up(f"its process was killed {lost} times in a row while it loaded; is there enough memory?")
        return
    config.loads.write_text(str(lost + 1))
    try:
        bench = Bench(config)
        bench.load()
    except Exception as error:  # a model's own code may raise anything
        give_up(str(error) if isinstance(error, RuntimeFailure) else f"{type(error).__name__}: {error}")
        return
    config.loads.unlink()
    benches.append(bench)


def give_up(why: str) -> None:
    """The next process could not load it either: the worker ends, and its command says why."""
    config.loads.unlink(missing_ok=True)
    config.complaint.write_text(why)
    os.kill(os.getppid(), signal.SIGTERM)


@signals.worker_process_shutdown.connect
def close(**_: Any) -> None:
    for bench in benches:
        bench.close()


@celery_app.task(name=TASK)
def run_on_gpu(**carried: Any) -> None:
    ticket = msgspec.convert(carried, Ticket)
    if not benches:
        raise Reject("the model is not loaded", requeue=True)
    try:
        benches[0].run(ticket)
    except NotNow as error:
        raise Reject(str(error), requeue=True) from error
