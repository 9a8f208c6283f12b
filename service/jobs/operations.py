"""What can be done to a job. The doors and the tasks call these; no other code changes anything.

However news of a job reaches us (a webhook, a status poll, a submit's own answer), it ends in `end`.
"""

import asyncio
import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import structlog
from uuid_utils.compat import uuid7

from service.artifacts import inputs
from service.callbacks import again
from service.catalog import Catalog
from service.catalog import lift as lift_by_shape
from service.catalog.base import Lifted
from service.context import Context
from service.db import Database, Row
from service.errors import Conflict, Gone, IdempotencyMismatch, NotFound, UnknownModel
from service.jobs import endings, filing, routing, store
from service.jobs.facts import Due, Ending, Evidence, NewJob
from service.jobs.lifecycle import Duty, Event, Status, Verdict
from service.jsontext import NotJSON, encode, parse_loosely
from service.queue import TaskName, submission
from service.stats import booking

log = structlog.get_logger()


def ending(event: Event, status: int, error_type: str, words: str) -> Ending:
    """An end that we ourselves decide."""
    body = {"detail": words, "error_type": error_type, "message": words}
    return Ending(event, status, encode(body), words, error_type)


TOO_LATE = ending(Event.FAILED, 504, "deadline_exceeded", "The job did not end before its deadline.")
TOO_LATE_TO_START = ending(
    Event.FAILED, 504, "request_timeout", "The job did not start within the time that its client gave it."
)
CANCELLED = ending(Event.CANCELLED, 499, "client_cancelled", "The job was cancelled.")


@dataclass(frozen=True, slots=True)
class Registered:
    """`created_at` is None when the job had been registered before; `input` is what its row holds."""

    job_id: UUID
    created_at: datetime | None
    input: str = ""


def new_job_id() -> UUID:
    return uuid7()


@dataclass(frozen=True, slots=True)
class Joining:
    """What makes requests without a key one: the same bytes, sent to the same address within some seconds."""

    seconds: float
    sent_to: str = ""


async def register(
    context: Context, job: NewJob, idempotency_key: str | None = None, joining: Joining | None = None
) -> Registered:
    """Make the job durable, then wake a worker. Raises IdempotencyMismatch."""
    known_by = _known_by(job, idempotency_key, joining)
    job = await _with_files_kept(context, job)
    if known_by is None:
        created_at: datetime | None = await store.register(context.db, job)
    else:
        key, fingerprint, lasts = known_by
        while (created_at := await store.register_once(context.db, job, key, fingerprint, lasts)) is None:
            known = await store.find_idempotency_key(context.db, job.tenant_id, key)
            if known is None:
                continue  # It was forgotten between the two statements, so this is a first use again.
            if known[1] != fingerprint:
                raise IdempotencyMismatch
            return Registered(known[0], None)
    context.progress.add("registered")
    context.nudger.nudge(submission(job.provider))
    return Registered(job.id, created_at, job.input)


async def _with_files_kept(context: Context, job: NewJob) -> NewJob:
    """To keep them takes its time, and the time in an ID is the one at which its job is registered."""
    text = await inputs.keep_files(context.db, context.storage, job.input)
    if text == job.input:
        return job
    came = job.input.encode()
    digest = await asyncio.to_thread(hashlib.sha256, came)
    return replace(job, id=new_job_id(), input=text, input_sha256=digest.hexdigest(), input_size=len(came))


async def is_registered(
    context: Context, job: NewJob, idempotency_key: str | None = None, joining: Joining | None = None
) -> bool:
    """Whether `register` would find it rather than make it."""
    known_by = _known_by(job, idempotency_key, joining)
    if known_by is None:
        return False
    key, _, lasts = known_by
    return await store.find_idempotency_key(context.db, job.tenant_id, key, lasts) is not None


def _known_by(job: NewJob, key: str | None, joining: Joining | None) -> tuple[str, bytes, float | None] | None:
    """The key, the fingerprint that belongs to it, and for how many seconds it holds, if not for good."""
    if key is not None:
        return key, fingerprint_of(job), None
    if joining is None:
        return None
    asked = hashlib.sha256(encode((fingerprint_of(job).hex(), job.hints, joining.sent_to))).digest()
    return f"\njoin {asked.hex()}", asked, joining.seconds


def fingerprint_of(job: NewJob) -> bytes:
    """What must be the same for two requests under one key."""
    asked = (
        job.model,
        job.input,
        # Who asks for no provider asks for the same, whatever the rules make of it then.
        f"{job.asked_provider} alone" if job.asked_provider else "fal",
        job.priority,
        job.webhook_url,
        job.deadline_seconds,
        job.metadata,
        list(job.tags),
        *([job.callback_format] if job.callback_format else []),
    )
    return hashlib.sha256(encode(asked)).digest()


async def end(context: Context, job_id: UUID, attempt: int, model: str, ended: Ending, evidence: Evidence) -> Verdict:
    """Settle a job by what was heard of it; of a result that comes too late, keep the cost. Returns the verdict."""
    lifted = lift(context.catalog, model, ended)
    row = await endings.settle(context.db, job_id, attempt, ended, evidence, evidence.source, lifted)
    if row is None:
        verdict = await filing.file_report(context.db, job_id, attempt, evidence, ended)
        if ended.event is Event.COMPLETED and verdict in {Verdict.LATE, Verdict.CONFLICT}:
            await booking.book(context.db, job_id, attempt, evidence, lifted)
        return verdict
    context.progress.add("settled")
    if lifted.files:
        context.nudger.nudge(TaskName.COPY)
    if row["to_stop"]:
        context.nudger.nudge(TaskName.WATCH)
    if row["to_call"]:
        context.nudger.nudge(TaskName.DELIVER)
    return Verdict.APPLIED


async def close(
    context: Context,
    job_id: UUID,
    ended: Ending,
    *,
    even_if_submitted: bool = False,
    as_of: Due | None = None,
    stopped: bool = False,
) -> bool:
    """End a job by our own decision, as `endings.close` does. False: it had moved on."""
    row = await endings.close(
        context.db, job_id, ended, even_if_submitted=even_if_submitted, as_of=as_of, stopped=stopped
    )
    if row is not None and row["to_call"]:
        context.nudger.nudge(TaskName.DELIVER)
    return row is not None


def lift(catalog: Catalog, model: str, ended: Ending) -> Lifted:
    """Facts out of a completed job's output. An output that is not JSON has none."""
    if ended.event is not Event.COMPLETED:
        return Lifted()
    try:
        output = parse_loosely(ended.body)
    except NotJSON:
        return Lifted()
    try:
        return catalog.find(model).lift(output)
    except UnknownModel:  # It left the catalogue while the job was under way.
        return lift_by_shape(output)


async def cancel(context: Context, job_id: UUID) -> bool:
    """Ask for a job's end. False: it had ended before."""
    duty = await endings.request_cancel(context.db, job_id)
    if duty is None:
        return False
    if duty is not Duty.CLOSE or not await close(context, job_id, CANCELLED):
        context.nudger.nudge(TaskName.WATCH)
    return True


FORCED = ending(Event.CANCELLED, 499, "force_cancelled", "The job was ended by an administrator.")


async def force_end(db: Database, job_id: UUID) -> bool:
    """End a job whatever its provider says; the next sweep asks the provider to stop what it may have of it.

    False: it had ended before.
    """
    while await endings.request_cancel(db, job_id) is not None:
        if await endings.close(db, job_id, FORCED, even_if_submitted=True):
            return True
    return False


async def repeated(context: Context, old: Row) -> NewJob:
    """A job that is to be run once more, as a new one, where it would go today. Raises Gone or Invalid."""
    if not old["input"]:
        raise Gone("The input of this job was removed, as its tenant wanted.", request_id=str(old["id"]))
    asked = old["asked_provider"] or "auto"
    route = await context.routes.route(context.db, old["tenant_id"], old["model"], asked)
    return NewJob(
        id=new_job_id(),
        tenant_id=old["tenant_id"],
        model=old["model"],
        input=old["input"],
        **routing.of_job(route),
        priority=old["priority"],
        webhook_url=old["webhook_url"],
        deadline_seconds=(old["deadline_at"] - old["created_at"]).total_seconds() if old["deadline_at"] else None,
        metadata=old["metadata"],
        tags=old["tags"],
        retry_of=old["id"],
        callback_format=old["callback_format"],
        hints=old["hints"],
    )


async def retry(context: Context, job: NewJob, old_status: str) -> Registered:
    """Repeat a job that failed or was cancelled as a new job, once. Raises Conflict."""
    if old_status not in {Status.FAILED, Status.CANCELLED}:
        raise Conflict(f"Only a failed or cancelled job can be retried; this one is {old_status}.")
    created_at = await store.register_retry(context.db, job)
    if created_at is None:
        made = await store.find_retry(context.db, job)
        if made is None:
            raise Conflict("The job was deleted.")
        return Registered(made, None)
    context.nudger.nudge(submission(job.provider))
    return Registered(job.id, created_at, job.input)


async def redeliver(context: Context, job: Row) -> None:
    """Tell a job's end once more, with the same ID and the same bytes. Raises NotFound, Conflict or Gone."""
    if job["webhook_url"] is None:
        raise NotFound("The job names no address to call back.")
    if job["completed_at"] is None:
        raise Conflict("The job has not ended, so there is nothing to tell yet.")
    if job["body"] is None:
        raise Gone("The result of this job was removed, so there is nothing left to tell.", request_id=str(job["id"]))
    await again.redeliver(context.db, job["id"])
    context.nudger.nudge(TaskName.DELIVER)
