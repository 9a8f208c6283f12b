"""The Celery application of a GPU worker: prefork with one child, which loads the model after the fork and runs it.

The parent stays free to answer pings and revokes, and starts the next child when one ends. It must never touch torch:
a fork after that hangs.
"""

import mmap
import os
import signal
import struct
from time import monotonic, sleep
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

# Celery starts the next process when one was lost, as when the kernel killed it for its memory. Each that begins to
# load writes down which in a row it is, and when it began, and clears that when it has loaded. It stands in memory that
# is shared with the parent and goes with it.
MOST_LOADS = 3
PAUSES = (0.0, 2.0, 10.0)
loads = mmap.mmap(-1, mmap.PAGESIZE)
LOADS = struct.Struct("=Bd")


@signals.worker_process_init.connect
def load(**_: Any) -> None:
    lost, begun = LOADS.unpack_from(loads)
    if lost == MOST_LOADS:
        why = "is there enough memory?"
        if monotonic() - begun >= config.load_seconds:
            why = f"it may take {config.load_seconds:g} s (--load-seconds)"
        give_up(f"its process was lost {lost} times in a row while it loaded; {why}")
        return
    LOADS.pack_into(loads, 0, lost + 1, monotonic())
    sleep(PAUSES[lost])
    try:
        bench = Bench(config)
        bench.load()
    except Exception as error:  # a model's own code may raise anything
        give_up(str(error) if isinstance(error, RuntimeFailure) else f"{type(error).__name__}: {error}")
        return
    LOADS.pack_into(loads, 0, 0, 0.0)
    benches.append(bench)


def give_up(why: str) -> None:
    """The next process could not load it either: the worker ends, and its command says why."""
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
