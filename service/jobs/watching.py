"""The backstop: live jobs whose time has come are looked at, and their provider is asked."""

from collections.abc import Sequence
from uuid import UUID

import structlog

from service.catalog.text import storable
from service.context import Context
from service.jobs import due, filing, operations, turns
from service.jobs.due import ToStop
from service.jobs.facts import Due, Ending, Evidence
from service.jobs.guards import TEXT_EXCERPT
from service.jobs.lifecycle import Duty, Event, OnDoubt, Verdict
from service.providers.base import CancelAnswer, Ended, Look, Missing, Running, Silent, Stuck, Taken, Waiting
from service.pump import Pump
from service.queue import TaskName, submission

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
    taken = _taken(attempt, attempt.provider_request_id)
    reply = await context.provider(attempt.provider).cancel(taken)
    if reply.evidence is not None:
        await _keep(context, attempt, (reply.evidence, Verdict.NOTED))
    answered = await _learn_its_end(context, attempt, taken) if reply.answer == "over" else reply.answer is not None
    await due.record_stop(context.db, attempt, answered=answered)


async def _learn_its_end(context: Context, attempt: ToStop, taken: Taken) -> bool:
    """It was over before it could be stopped, and a result has its cost. False: the provider is to be asked again."""
    look = await context.provider(attempt.provider).look(taken)
    if isinstance(look.seen, Ended):
        end, evidence = look.seen.ending, look.seen.evidence
        await operations.end(context, attempt.job_id, attempt.attempt, attempt.model, end, evidence)
    await _keep(context, attempt, *look.heard)
    return not isinstance(look.seen, Silent)


async def _keep(context: Context, about: Due | ToStop, *heard: tuple[Evidence, Verdict]) -> None:
    for evidence, verdict in heard:
        await filing.file_report(context.db, about.job_id, about.attempt, evidence, None, verdict)


async def look(context: Context, job: Due) -> None:
    match job.duty:
        case Duty.ANSWER:
            await _worker_died(context, job)
        case Duty.CLOSE:
            await operations.close(context, job.job_id, _why_closed(job))
        case _ if job.past_deadline:
            await _too_late(context, job)
        case Duty.SETTLE:
            await _stayed_in_doubt(context, job)
        case _:
            await _ask(context, job)


def _why_closed(job: Due) -> Ending:
    if job.cancel_requested:
        return operations.CANCELLED
    return operations.TOO_LATE if job.past_deadline else operations.TOO_LATE_TO_START


CANCELLED_IN_DOUBT = operations.ending(
    Event.CANCELLED,
    499,
    "cancelled_in_doubt",
    "The job was cancelled. Its submission was left without an answer, so its provider may have run it.",
)


def _name(context: Context, job: Due) -> str | None:
    """A webhook may have told it, or the attempt never had another."""
    return job.provider_request_id or context.provider(job.provider).name_of(job.job_id, job.attempt)


async def _worker_died(context: Context, job: Due) -> None:
    """Its submission may have gone out: from here on it is in doubt, until its webhook comes."""
    if (name := _name(context, job)) is not None:
        await due.ask_instead(context.db, job, name)
        return
    log.warning("a submission was left without an answer", job_id=str(job.job_id), attempt=job.attempt)
    await due.doubt(context.db, job, max(1.0, context.settings.ambiguous_seconds - job.since_claim))


async def _stayed_in_doubt(context: Context, job: Due) -> None:
    if (name := _name(context, job)) is not None:
        await due.ask_instead(context.db, job, name)
    elif job.cancel_requested:
        await operations.close(context, job.job_id, CANCELLED_IN_DOUBT, even_if_submitted=True, as_of=job)
    elif job.on_doubt is OnDoubt.FAIL or job.resubmissions >= MOST_RESUBMISSIONS:
        again = "" if job.resubmissions else " It was not submitted again, as its tenant wants it."
        words = f"The submission of the job was left without an answer, and no webhook came.{again}"
        given_up = operations.ending(Event.FAILED, 502, "submission_unknown", words)
        await operations.close(context, job.job_id, given_up, even_if_submitted=True, as_of=job)
    elif await due.submit_again(context.db, job):
        log.warning("submitting again after a lost answer", job_id=str(job.job_id), attempt=job.attempt)
        context.nudger.nudge(submission(job.provider))


async def _too_late(context: Context, job: Due) -> None:
    """A result that is there already was paid for, so it is taken rather than thrown away.

    The provider is asked to stop only after the end: its own news of that could come first, and end it as cancelled.
    """
    if job.provider_request_id and await _look_at(context, job, job.provider_request_id):
        return
    if await operations.close(context, job.job_id, operations.TOO_LATE, even_if_submitted=True, as_of=job):
        context.nudger.nudge(TaskName.WATCH)


async def _ask_to_stop(context: Context, job: Due, request_id: str) -> CancelAnswer | None:
    reply = await context.provider(job.provider).cancel(_taken(job, request_id))
    if reply.evidence is not None:
        await _keep(context, job, (reply.evidence, Verdict.NOTED if reply.answer else Verdict.INCONCLUSIVE))
    return reply.answer


def _taken(about: Due | ToStop, request_id: str) -> Taken:
    addresses = about.status_url, about.response_url, about.cancel_url
    return Taken(about.job_id, about.attempt, about.model, request_id, *addresses)


async def _look_at(context: Context, job: Due, request_id: str) -> bool:
    """Act on what the provider says. Returns whether that was an end."""
    look = await context.provider(job.provider).look(_taken(job, request_id))
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
        case Waiting() if _waited_enough(context, job) and await _reroute(
            context, job, f"it waited {job.since_claim:.0f} s for {job.provider}"
        ):
            return
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
        case Stuck(reason=reason, ending=ending, evidence=evidence):
            if not await _reroute(context, job, reason) and ending is not None and evidence is not None:
                await operations.end(context, job.job_id, job.attempt, job.model, ending, evidence)
        case Silent(reason=reason):
            log.info("nothing learned from the provider", job_id=str(job.job_id), reason=reason)


def _waited_enough(context: Context, job: Due) -> bool:
    """Only of our own workers is it certain that what waits is not begun while it is moved."""
    spills = job.provider == context.gpu.name and job.spill_seconds is not None
    return spills and job.since_claim >= (job.spill_seconds or 0.0)


async def pass_on(context: Context, job_id: UUID, attempt: int, model: str, reason: str) -> bool:
    """Give a job that a GPU worker could not run to the other provider, if it may have it and takes any."""
    fallback = await turns.fallback_of(context.db, job_id, attempt)
    if fallback is None or not await context.routes.can_take(context.db, fallback, model):
        return False
    moved = await turns.pass_on(context.db, job_id, attempt, storable(reason, TEXT_EXCERPT) or "")
    if moved:
        log.warning("a job goes to another provider", job_id=str(job_id), to=fallback, reason=reason)
        context.nudger.nudge(submission(fallback))
    return moved


async def _reroute(context: Context, job: Due, reason: str) -> bool:
    """Give the job to the other provider, if it may have it and takes any."""
    if job.fallback is None or not await context.routes.can_take(context.db, job.fallback, job.model):
        return False
    moved = await turns.reroute(context.db, job, reason)
    if moved:
        log.warning("a job goes to another provider", job_id=str(job.job_id), to=job.fallback, reason=reason)
        context.nudger.nudge(submission(job.fallback))
    return moved
