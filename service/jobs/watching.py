"""The backstop: live jobs whose time has come are looked at, and their provider is asked."""

from collections.abc import Sequence

import structlog

from service.context import Context
from service.jobs import due, endings, operations
from service.jobs.due import ToStop
from service.jobs.facts import Due, Evidence
from service.jobs.lifecycle import Duty, Event, OnDoubt, Verdict
from service.providers.base import CancelAnswer, Ended, Look, Missing, Running, Silent, Waiting
from service.pump import Pump
from service.queue import TaskName

log = structlog.get_logger()

# Looks under way in one process at a time.
SLOTS = 32
STOP_SLOTS = 8

# A stop that was not answered is tried again after this long.
STOP_AGAIN_SECONDS = 60.0

# How often a job whose submissions all stayed in doubt is submitted again before it is given up.
MOST_RESUBMISSIONS = 3


class Watcher:
    """The looks of one worker process, and beside them, so that none waits for the other, what it stops."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.looks = Pump("look", self._take_due, self._look, slots=SLOTS)
        self.stops = Pump("stop", self._take_to_stop, self._stop, slots=STOP_SLOTS)

    async def _take_due(self, limit: int) -> Sequence[Due]:
        await due.expire(self._context.db)
        return await due.take_due(self._context.db, limit, self._context.settings.poll_seconds)

    async def _look(self, job: Due) -> None:
        await look(self._context, job)

    async def _take_to_stop(self, limit: int) -> Sequence[ToStop]:
        return await due.take_to_stop(self._context.db, limit, STOP_AGAIN_SECONDS)

    async def _stop(self, attempt: ToStop) -> None:
        await stop(self._context, attempt)


async def watch(context: Context) -> None:
    """Look at everything that is due, and stop what is to be stopped."""
    watcher = Watcher(context)
    await watcher.looks.drain()
    await watcher.stops.drain()


async def stop(context: Context, attempt: ToStop) -> None:
    """Ask the provider to stop an attempt that its job ended without."""
    reply = await context.fal.cancel(attempt.model, attempt.provider_request_id, attempt.cancel_url)
    if reply.evidence is not None:
        await _keep(context, attempt, (reply.evidence, Verdict.NOTED))
    await due.record_stop(context.db, attempt, answered=reply.answer is not None)


async def _keep(context: Context, about: Due | ToStop, *heard: tuple[Evidence, Verdict]) -> None:
    for evidence, verdict in heard:
        await endings.file_report(context.db, about.job_id, about.attempt, evidence, None, verdict)


async def look(context: Context, job: Due) -> None:
    match job.duty:
        case Duty.ANSWER:
            await _worker_died(context, job)
        case Duty.CLOSE:
            await operations.close(context, job.job_id, operations.CANCELLED if job.cancel_requested else TOO_LATE)
        case _ if job.past_deadline:
            await _too_late(context, job)
        case Duty.SETTLE:
            await _stayed_in_doubt(context, job)
        case _:
            await _ask(context, job)


TOO_LATE = operations.ending(Event.FAILED, 504, "deadline_exceeded", "The job did not end before its deadline.")


CANCELLED_IN_DOUBT = operations.ending(
    Event.CANCELLED,
    499,
    "cancelled_in_doubt",
    "The job was cancelled. Its submission was left without an answer, so its provider may have run it.",
)


async def _worker_died(context: Context, job: Due) -> None:
    """Its submission may have gone out: from here on it is in doubt, until its webhook comes."""
    if job.provider_request_id is not None:
        await due.ask_instead(context.db, job)
        return
    log.warning("a submission was left without an answer", job_id=str(job.job_id), attempt=job.attempt)
    await due.doubt(context.db, job, max(1.0, context.settings.ambiguous_seconds - job.since_claim))


async def _stayed_in_doubt(context: Context, job: Due) -> None:
    if job.provider_request_id is not None:
        await due.ask_instead(context.db, job)
    elif job.cancel_requested:
        await operations.close(context, job.job_id, CANCELLED_IN_DOUBT, even_if_submitted=True, as_of=job)
    elif job.on_doubt is OnDoubt.FAIL or job.resubmissions >= MOST_RESUBMISSIONS:
        again = "" if job.resubmissions else " It was not submitted again, as its tenant wants it."
        words = f"The submission of the job was left without an answer, and no webhook came.{again}"
        given_up = operations.ending(Event.FAILED, 502, "submission_unknown", words)
        await operations.close(context, job.job_id, given_up, even_if_submitted=True, as_of=job)
    elif await due.submit_again(context.db, job):
        log.warning("submitting again after a lost answer", job_id=str(job.job_id), attempt=job.attempt)
        context.nudger.nudge(TaskName.SUBMIT)


async def _too_late(context: Context, job: Due) -> None:
    """A result that is there already was paid for, so it is taken rather than thrown away.

    The provider is asked to stop only after the end: its own news of that could come first, and end it as cancelled.
    """
    if job.provider_request_id and await _look_at(context, job, job.provider_request_id):
        return
    if await operations.close(context, job.job_id, TOO_LATE, even_if_submitted=True, as_of=job):
        context.nudger.nudge(TaskName.WATCH)


async def _ask_to_stop(context: Context, job: Due, request_id: str) -> CancelAnswer | None:
    reply = await context.fal.cancel(job.model, request_id, job.cancel_url)
    if reply.evidence is not None:
        await _keep(context, job, (reply.evidence, Verdict.NOTED if reply.answer else Verdict.INCONCLUSIVE))
    return reply.answer


async def _look_at(context: Context, job: Due, request_id: str) -> bool:
    """Act on what the provider says. Returns whether that was an end."""
    look = await context.fal.look(job.model, request_id, job.status_url, job.response_url)
    await _act(context, job, look)
    await _keep(context, job, *look.heard)
    return isinstance(look.seen, Ended)


async def _ask(context: Context, job: Due) -> None:
    if job.provider_request_id is None:
        return
    if job.cancel_requested and await _ask_to_stop(context, job, job.provider_request_id) == "removed":
        await operations.close(
            context, job.job_id, operations.CANCELLED, even_if_submitted=True, as_of=job, stopped=True
        )
        return
    await _look_at(context, job, job.provider_request_id)


async def _act(context: Context, job: Due, look: Look) -> None:
    match look.seen:
        case Ended(ending=ending, evidence=evidence):
            await operations.end(context, job.job_id, job.attempt, job.model, ending, evidence)
        case Waiting(queue_position=position):
            await due.record_progress(context.db, job, running=False, queue_position=position)
        case Running():
            await due.record_progress(context.db, job, running=True, queue_position=None)
        case Missing(http_status=status):
            # One such answer proves little: a gateway may have looked in the wrong place.
            if await due.record_missing(context.db, job, context.settings.lost_after_seconds):
                words = f"The provider no longer knows the request (HTTP {status})."
                lost = operations.ending(Event.FAILED, 502, "provider_lost_request", words)
                lost = operations.CANCELLED if job.cancel_requested else lost
                await operations.close(context, job.job_id, lost, even_if_submitted=True, as_of=job)
        case Silent(reason=reason):
            log.info("nothing learned from the provider", job_id=str(job.job_id), reason=reason)
