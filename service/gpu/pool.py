"""Workers on GPUs of one's own, as a provider: a submission is a message, and what is heard of it stands in `runs`."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from uuid import UUID

import structlog

from service.db import Database, DatabaseAway
from service.gpu.queues import NAME, Publish, Ticket, request_id_of
from service.jobs import runs
from service.jobs.facts import Ending, Evidence
from service.jobs.lifecycle import Event, Source
from service.jsontext import encode
from service.providers.address import Sealer
from service.providers.base import (
    Accepted,
    CancelReply,
    Look,
    Offer,
    Refused,
    Running,
    Stuck,
    SubmitAnswer,
    Taken,
    Waiting,
)
from service.remembering import Remembered

log = structlog.get_logger()

CRASHED = "worker_crashed"

# A broker that does not answer holds these threads, and none that files need.
THREADS = 4


class GpuPool:
    name = NAME
    reads_inputs = False

    def __init__(self, db: Database, publish: Publish, sealer: Callable[[], Awaitable[Sealer]]) -> None:
        self._db = db
        self._publish = publish
        self._sealer = sealer
        self._places = Remembered(partial(runs.places, db, NAME))
        self._threads = ThreadPoolExecutor(THREADS, "gpu-messages")

    def name_of(self, job_id: UUID, attempt: int) -> str:
        return request_id_of(job_id, attempt)

    async def submit(self, offer: Offer) -> SubmitAnswer:
        """A broker that is away refuses. If the message did go out, its worker will find that it is not wanted."""
        try:
            await self._send(offer.job_id, offer.attempt, offer.model)
        except Exception as error:  # kombu raises each transport's own classes
            return Refused(f"The broker did not take it: {type(error).__name__}.")
        try:
            ahead = await self._ahead(offer.job_id, offer.attempt)
        except DatabaseAway:  # The message is out all the same.
            ahead = None
        return Accepted(request_id_of(offer.job_id, offer.attempt), queue_position=ahead)

    async def look(self, taken: Taken) -> Look:
        stand = await runs.stand(self._db, taken.job_id, taken.attempt)
        if stand.beating:
            return Look(Running())
        lost, crashes = stand.lost, stand.crashes
        if stand.open and await runs.crash(self._db, taken.job_id, taken.attempt):
            log.warning("a GPU worker crashed", job_id=str(taken.job_id), attempt=taken.attempt)
            lost, crashes = True, crashes + 1
        if crashes >= runs.MOST_CRASHES:
            return Look(_crashed(crashes, taken.request_id))
        if not stand.workers:
            return Look(Stuck("no GPU worker of this model is at work"))
        if lost:
            try:
                await self._send(taken.job_id, taken.attempt, taken.model)
            except Exception as error:  # as above; it is looked at again
                log.warning("a message to GPU workers could not be sent again", error=repr(error))
            else:
                await runs.note_sent(self._db, taken.job_id, taken.attempt)
        return Look(Waiting(await self._ahead(taken.job_id, taken.attempt)))

    async def cancel(self, taken: Taken) -> CancelReply:
        """One that runs hears of it with its next heartbeat."""
        stand = await runs.stand(self._db, taken.job_id, taken.attempt)
        return CancelReply("asked" if stand.live and stand.beating else "removed")

    async def _ahead(self, job_id: UUID, attempt: int) -> int | None:
        """None: it is not known yet. Of ten thousand that wait each is looked at all the time."""
        return (await self._places.get()).get((job_id, attempt))

    async def ticket(self, job_id: UUID, attempt: int, model: str) -> Ticket:
        sealer = await self._sealer()
        return Ticket(
            str(job_id),
            attempt,
            model,
            request_id_of(job_id, attempt),
            sealer.runs_path(job_id, attempt),
            sealer.path(job_id, attempt, model, NAME),
        )

    async def _send(self, job_id: UUID, attempt: int, model: str) -> None:
        ticket = await self.ticket(job_id, attempt, model)
        await asyncio.get_running_loop().run_in_executor(self._threads, self._publish, ticket)


def _crashed(times: int, request_id: str) -> Stuck:
    words = f"The GPU worker that ran the job crashed {times} times in a row."
    body = encode({"detail": words, "error_type": CRASHED, "message": words})
    ending = Ending(Event.FAILED, 502, body, words, CRASHED)
    return Stuck(f"the GPU worker crashed {times} times", ending, Evidence(Source.STATUS, body, request_id=request_id))
