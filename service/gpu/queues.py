"""The messages to GPU workers: which queue a model's are in, and what one carries."""

import re
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

import msgspec

from service.providers.address import PREFIX, RUNS
from service.queue import build_celery, publishing
from service.settings import Settings

NAME = "gpu"
TASK = "roundtrip.run_on_gpu"


class Ticket(msgspec.Struct, frozen=True):
    """All that a message says. The input is had with the permission to begin, so no broker ever holds it.

    The paths are sealed, and no more than paths: a worker asks its own service and nobody that a message names. All
    parts are of one attempt, so that nobody who can write to a broker gets one job's result told as another's.
    """

    job: str
    attempt: int
    model: str
    request_id: str
    runs_path: str
    webhook_path: str

    def __post_init__(self) -> None:
        attempt = rf"{re.escape(self.job)}/{self.attempt}/[0-9a-f]{{32}}"
        if not (
            re.fullmatch("[0-9a-f-]{36}", self.job)
            and self.request_id == request_id_of(self.job, self.attempt)
            and re.fullmatch(f"{RUNS}/{attempt}", self.runs_path)
            and re.fullmatch(f"{PREFIX}/{NAME}/{attempt}/{re.escape(self.model)}", self.webhook_path)
        ):
            raise ValueError("its parts are not of one attempt")


def request_id_of(job: UUID | str, attempt: int) -> str:
    """An attempt's name with the workers: the same, however often its message is sent."""
    return f"{NAME}-{job}-{attempt}"


Publish = Callable[[Ticket], None]


def queue_of(model: str) -> str:
    """One queue a model: whoever takes from it has that model's weights loaded, and no others."""
    return f"roundtrip.gpu.{model.replace('/', '.')}"


def open_publisher(settings: Settings) -> Publish:
    """Publishes at once, or raises what the broker's transport raises."""
    app = build_celery(settings)
    options = publishing(settings.require_broker_url())

    def publish(ticket: Ticket) -> None:
        carried: Mapping[str, Any] = msgspec.to_builtins(ticket)
        app.send_task(TASK, kwargs=dict(carried), queue=queue_of(ticket.model), ignore_result=True, **options)

    return publish
