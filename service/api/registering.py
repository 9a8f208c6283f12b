"""POST /v1/jobs, one and many, and a job's retry."""

import asyncio
import hashlib
from dataclasses import replace
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from service.api.rendering import Renderer
from service.api.shapes import Job, JobRequest
from service.bodies import LARGEST_REQUEST, read_body
from service.catalog import check_content, check_input, check_numbers, problems_of
from service.context import Context
from service.errors import Invalid, NotFound, ServiceError
from service.jobs import operations, reads, routing
from service.jobs.facts import NewJob
from service.jobs.operations import Registered
from service.keys import Caller
from service.network import check_webhook_url
from service.requests import answer, authenticate, fit, idempotency_key, read_job, read_long_json

LARGEST_BATCH = 1_000
# Of one batch: they share transactions, and leave room in these for others.
AT_A_TIME = 32
LARGEST_METADATA = 16 * 2**10


class AsSent(msgspec.Struct):
    """A request's parts to the byte: what is sent on is what the client sent."""

    input: msgspec.Raw = msgspec.Raw(b"{}")
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


async def register_job(request: Request) -> Response:
    """202 with the job; 200 when the Idempotency-Key had made it before."""
    caller = await authenticate(request, "submit")
    key = idempotency_key(request)
    body = await read_body(request, LARGEST_REQUEST)
    value = await read_long_json(request, body)
    job = await read_new_job(request.state.context, caller, value, body, ("body",))
    registered = await operations.register(request.state.context, job, key)
    shown = await reply(request, caller, job, registered)
    return answer(shown, status_of(registered), request_id=registered.job_id)


async def register_batch(request: Request) -> Response:
    """Each job is accepted or refused in its place: `{"jobs": [{"status": 202, "job"} | {"status": 422, "error"}]}`."""
    caller = await authenticate(request, "submit")
    key = idempotency_key(request)
    body = await read_body(request, LARGEST_REQUEST)
    value = await read_long_json(request, body)
    listed = value.get("jobs") if isinstance(value, dict) else None
    if not isinstance(listed, list) or not 1 <= len(listed) <= LARGEST_BATCH:
        raise Invalid.at("body", "jobs", msg=f"Must be a list of 1 to {LARGEST_BATCH} jobs.", kind="list_type")
    if value.keys() - {"jobs"}:
        raise Invalid.at("body", sorted(value.keys() - {"jobs"})[0], msg="Unknown field.", kind="extra_forbidden")
    raw = msgspec.json.decode(body, type=dict[str, list[msgspec.Raw]])["jobs"]
    room = asyncio.Semaphore(AT_A_TIME)
    async with asyncio.TaskGroup() as group:
        entries = [
            group.create_task(_register_one(request, caller, each, bytes(part), index, _key_of(key, index), room))
            for index, (each, part) in enumerate(zip(listed, raw, strict=True))
        ]
    return answer({"jobs": [entry.result() for entry in entries]}, 202)


async def _register_one(
    request: Request, caller: Caller, value: Any, body: bytes, index: int, key: str | None, room: asyncio.Semaphore
) -> dict[str, Any]:
    context: Context = request.state.context
    async with room:
        try:
            job = await read_new_job(context, caller, value, body, ("body", "jobs", index))
            registered = await operations.register(context, job, key)
            return {"status": status_of(registered), "job": await reply(request, caller, job, registered)}
        except ServiceError as error:
            return {"status": error.status, "error": error.body()}


async def read_new_job(context: Context, caller: Caller, value: Any, body: bytes, loc: tuple[str | int, ...]) -> NewJob:
    """A request as a job that can be kept. Raises UnknownModel or Invalid; `loc` is where it stands."""
    asked = fit(JobRequest, value, *loc)
    model = context.catalog.find(asked.model)
    check_input(model, asked.input, (*loc, "input"))
    raw = msgspec.json.decode(body, type=AsSent)
    metadata = bytes(raw.metadata).decode() if asked.metadata else "{}"
    if asked.webhook_url is not None:
        try:
            check_webhook_url(asked.webhook_url, context.settings.allow_private_networks)
        except ValueError as error:
            raise Invalid.at(*loc, "webhook_url", msg=str(error), kind="url_parsing") from None
    check_content(asked.metadata, (*loc, "metadata"))
    if len(metadata) > LARGEST_METADATA:
        raise Invalid.at(*loc, "metadata", msg=f"May have at most {LARGEST_METADATA:,} bytes.", kind="too_long")
    check_numbers(metadata, (*loc, "metadata"))
    route = await context.routes.route(context.db, caller.tenant_id, asked.model, asked.provider)
    route = routing.within_limits(route, lambda: problems_of(model, asked.input), (*loc, "input"))
    return NewJob(
        id=operations.new_job_id(),
        tenant_id=caller.tenant_id,
        model=asked.model,
        input=bytes(raw.input).decode(),
        **routing.of_job(route),
        priority=asked.priority,
        webhook_url=asked.webhook_url,
        deadline_seconds=asked.deadline_seconds,
        metadata=metadata,
        tags=asked.tags,
    )


def _key_of(key: str | None, index: int) -> str | None:
    """A job's own key within a batch, which no key of a client's can be mistaken for."""
    return key and f"\n{hashlib.sha256(key.encode()).hexdigest()}#{index}"


def status_of(registered: Registered) -> int:
    return 200 if registered.created_at is None else 202


async def reply(request: Request, caller: Caller, job: NewJob, registered: Registered) -> Job:
    """A job that was just made is told from what was written; one from before is read."""
    renderer: Renderer = request.state.renderer
    if registered.created_at is not None:
        new = replace(job, id=registered.job_id, input=registered.input)
        # What a client sent it may see; what it repeats it may not have sent.
        return renderer.new_job(new, registered.created_at, payloads=job.retry_of is None or caller.may("read"))
    row = await reads.get(request.state.context.db, caller.tenant_id, registered.job_id)
    if row is None:
        raise NotFound("The job was deleted.")
    return await renderer.job(row, payloads=caller.may("read"))


async def retry_job(request: Request) -> Response:
    """Repeat a failed or cancelled job as a new one, once: 202 with the new job, 200 when it was made before."""
    caller = await authenticate(request, "submit")
    old = await read_job(request, caller)
    job = await operations.repeated(request.state.context, old)
    registered = await operations.retry(request.state.context, job, old["status"])
    shown = await reply(request, caller, job, registered)
    return answer(shown, status_of(registered), request_id=registered.job_id)
