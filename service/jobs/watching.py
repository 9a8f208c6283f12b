"""The backstop: live jobs whose time has come are looked at, and their provider is asked."""

from collections.abc import Sequence

import structlog

from service.context import Context
from service.jobs import due, operations, store
from service.jobs.due import ToStop
from service.jobs.facts import Due
from service.jobs.lifecycle import Duty, Event
from service.providers.base import Ended, Missing, Observation, Running, Silent, Waiting
from service.pump import Pump
from service.queue import TaskName

log = structlog.get_logger()

# Looks under way in one process at a time.
SLOTS = 32

# How often a job whose submissions all stayed in doubt is submitted again before it is given up.
MOST_RESUBMISSIONS = 3


class Watcher:
    """The looks of one worker process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.pump: Pump[Due | ToStop] = Pump("watch", self._take, self._handle, slots=SLOTS)

    async def _take(self, limit: int) -> Sequence[Due | ToStop]:
        context = self._context
        await due.expire(context.db)
        taken: list[Due | ToStop] = list(await due.take_due(context.db, limit, context.settings.poll_seconds))
        if len(taken) < limit:
            # Fewer than there is room for, so that these alone never make it look again at once.
            taken += await due.to_stop(context.db, limit - len(taken) - 1)
        return taken

    async def _handle(self, item: Due | ToStop) -> None:
        if isinstance(item, ToStop):
            await stop(self._context, item)
        else:
            await look(self._context, item)


async def watch(context: Context) -> None:
    """Look at everything that is due."""
    await Watcher(context).pump.drain()


async def stop(context: Context, attempt: ToStop) -> None:
    """Ask the provider to stop an attempt that its job ended without."""
    answer = await context.fal.cancel(attempt.model, attempt.provider_request_id, attempt.cancel_url)
    await due.record_stop(context.db, attempt, answered=answer is not None)


async def look(context: Context, job: Due) -> None:
    match job.duty:
        case Duty.ANSWER:
            await _worker_died(context, job)
        case Duty.CLOSE:
            await store.close(context.db, job.job_id, operations.CANCELLED if job.cancel_requested else TOO_LATE)
        case _ if job.past_deadline:
            await _too_late(context, job)
        case Duty.SETTLE:
            await _stayed_in_doubt(context, job)
        case _:
            await _ask(context, job)


TOO_LATE = operations.ending(Event.FAILED, 504, "deadline_exceeded", "The job did not end before its deadline.")


async def _worker_died(context: Context, job: Due) -> None:
    """Its submission may have gone out: from here on it is in doubt, until its webhook comes."""
    log.warning("a submission was left without an answer", job_id=str(job.job_id), attempt=job.attempt)
    await due.doubt(context.db, job, max(1.0, context.settings.ambiguous_seconds - job.since_claim))


async def _stayed_in_doubt(context: Context, job: Due) -> None:
    if job.cancel_requested:
        await store.close(context.db, job.job_id, operations.CANCELLED, even_if_submitted=True)
    elif job.resubmissions >= MOST_RESUBMISSIONS:
        words = "Every submission of the job was left without an answer, and no webhook came."
        given_up = operations.ending(Event.FAILED, 502, "submission_unknown", words)
        await store.close(context.db, job.job_id, given_up, even_if_submitted=True)
    elif await due.submit_again(context.db, job):
        log.warning("submitting again after a lost answer", job_id=str(job.job_id), attempt=job.attempt)
        context.nudger.nudge(TaskName.SUBMIT)


async def _too_late(context: Context, job: Due) -> None:
    """A result that is there already was paid for, so it is taken rather than thrown away."""
    stopped = False
    if job.provider_request_id:
        answer = await context.fal.cancel(job.model, job.provider_request_id, job.cancel_url)
        stopped = answer == "removed"
        if answer == "over" and await _ask_for_end(context, job, job.provider_request_id):
            return
    await store.close(context.db, job.job_id, TOO_LATE, even_if_submitted=True, stopped=stopped)


async def _ask_for_end(context: Context, job: Due, request_id: str) -> bool:
    seen = await context.fal.look(job.model, request_id, job.status_url, job.response_url)
    if isinstance(seen, Ended):
        await _act(context, job, seen)
    return isinstance(seen, Ended)


async def _ask(context: Context, job: Due) -> None:
    if job.provider_request_id is None:
        return
    if job.cancel_requested:
        answer = await context.fal.cancel(job.model, job.provider_request_id, job.cancel_url)
        if answer == "removed":
            await store.close(context.db, job.job_id, operations.CANCELLED, even_if_submitted=True, stopped=True)
            return
    seen = await context.fal.look(job.model, job.provider_request_id, job.status_url, job.response_url)
    await _act(context, job, seen)


async def _act(context: Context, job: Due, seen: Observation) -> None:
    match seen:
        case Ended(ending=ending, evidence=evidence):
            await operations.end(context, job.job_id, job.attempt, job.model, ending, evidence)
        case Waiting(queue_position=position):
            await due.record_progress(context.db, job, running=False, queue_position=position)
        case Running():
            await due.record_progress(context.db, job, running=True, queue_position=None)
        case Missing(http_status=status) if job.since_claim > context.settings.lost_after_seconds:
            words = f"The provider no longer knows the request (HTTP {status})."
            lost = operations.ending(Event.FAILED, 502, "provider_lost_request", words)
            await store.close(context.db, job.job_id, lost, even_if_submitted=True)
        case Missing() | Silent():
            log.info("nothing learned from the provider", job_id=str(job.job_id), seen=repr(seen))
