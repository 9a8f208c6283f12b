"""The backstop: live jobs whose time has come are looked at, and their provider is asked."""

import asyncio

import structlog

from service.context import Context
from service.jobs import due, operations, store
from service.jobs.facts import Due
from service.jobs.lifecycle import Duty, Event
from service.providers.base import Ended, Missing, Observation, Running, Silent, Waiting
from service.queue import TaskName

log = structlog.get_logger()

# Looks under way at a time, in one round.
ROUND = 32

# How often a job whose submissions all stayed in doubt is submitted again before it is given up.
MOST_RESUBMISSIONS = 3


async def watch(context: Context) -> None:
    """Look at everything that is due."""
    while True:
        taken = await due.take_due(context.db, ROUND, context.settings.poll_seconds)
        await asyncio.gather(*(look(context, job) for job in taken))
        if len(taken) < ROUND:
            return


async def look(context: Context, job: Due) -> None:
    match job.duty:
        case Duty.ANSWER:
            await _worker_died(context, job)
        case _ if job.past_deadline:
            await _too_late(context, job)
        case Duty.SETTLE:
            await _stayed_in_doubt(context, job)
        case Duty.REPORT | Duty.SUBMIT:
            await _ask(context, job)


async def _worker_died(context: Context, job: Due) -> None:
    """Its submission may have gone out: from here on it is in doubt, until its webhook comes."""
    log.warning("a submission was left without an answer", job_id=str(job.job_id), attempt=job.attempt)
    await due.doubt(context.db, job, max(1.0, context.settings.ambiguous_seconds - job.since_claim))


async def _stayed_in_doubt(context: Context, job: Due) -> None:
    if job.cancel_requested:
        await store.close(context.db, job.job_id, operations.CANCELLED, even_if_submitted=True)
    elif job.abandoned >= MOST_RESUBMISSIONS:
        words = "Every submission of the job was left without an answer, and no webhook came."
        given_up = operations.ending(Event.FAILED, 502, "submission_unknown", words)
        await store.close(context.db, job.job_id, given_up, even_if_submitted=True)
    elif await due.submit_again(context.db, job):
        log.warning("submitting again after a lost answer", job_id=str(job.job_id), attempt=job.attempt)
        context.nudger.nudge(TaskName.SUBMIT)


async def _too_late(context: Context, job: Due) -> None:
    if job.provider_request_id:
        await context.fal.cancel(job.model, job.provider_request_id, job.cancel_url)
    words = "The job did not end before its deadline."
    over = operations.ending(Event.FAILED, 504, "deadline_exceeded", words)
    await store.close(context.db, job.job_id, over, even_if_submitted=True)


async def _ask(context: Context, job: Due) -> None:
    if job.provider_request_id is None:
        return
    if job.cancel_requested:
        status = await context.fal.cancel(job.model, job.provider_request_id, job.cancel_url)
        if status == 200:
            await store.close(context.db, job.job_id, operations.CANCELLED, even_if_submitted=True)
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
