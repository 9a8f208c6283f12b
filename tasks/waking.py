"""How a worker carries out a nudge: in the consumer itself, which reads it, without a thread of the pool.

A nudge wakes a pump and returns, so there is nothing to wait for; Celery's own way for it, with a request, a thread
and its trace, costs more than all else that a worker does with a message.
"""

from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from celery.worker.strategy import default

from tasks.runtime import Runtime


def by_consumer(runtime: Runtime, task: "Task[..., None]", app: Celery, consumer: Any) -> Callable[..., None]:
    """A strategy of Celery's. What opens the database goes to the pool, as that may take long."""
    by_pool = default(task, app, consumer)

    def on_message(*message: Any, **options: Any) -> None:
        if runtime.is_open:
            task.run()
        else:
            by_pool(*message, **options)

    return on_message
