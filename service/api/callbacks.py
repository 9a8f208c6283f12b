"""What clients were told of their jobs' ends: to be looked at, told once more, and verified."""

from starlette.requests import Request
from starlette.responses import Response

from service.api import rendering
from service.api.shapes import Callback, Redelivery, RedeliveryRequest
from service.bodies import read_body
from service.callbacks import again, reads
from service.callbacks.keys import key_set
from service.callbacks.lifecycle import CallbackState
from service.context import Context
from service.db import Row
from service.errors import NotFound
from service.jobs import operations
from service.keys import Caller
from service.queue import TaskName
from service.requests import answer, authenticate, fit, read_job, read_json

LARGEST_REQUEST = 64 * 1024

# Shorter than the time for which a new key is published before it signs.
KEYS_SECONDS = 3_600


async def show_callback(request: Request) -> Response:
    """404 when the job names no address."""
    caller = await authenticate(request, "metrics")
    row = await _job_with_address(request, caller)
    return answer(await _callback(request, caller, row), request_id=row["id"])


async def redeliver_callback(request: Request) -> Response:
    """Tell it once more, with the same ID and the same bytes: 202 with the callback."""
    context: Context = request.state.context
    caller = await authenticate(request, "submit")
    row = await _job_with_address(request, caller)
    await operations.redeliver(context, row)
    return answer(await _callback(request, caller, row), 202, request_id=row["id"])


async def redeliver_callbacks(request: Request) -> Response:
    """Tell all once more whose jobs ended in a time: 202 with their number."""
    context: Context = request.state.context
    caller = await authenticate(request, "submit")
    asked = fit(RedeliveryRequest, read_json(request, await read_body(request, LARGEST_REQUEST)), "body")
    state = CallbackState(asked.state) if asked.state else None
    number = await again.redeliver_many(context.db, caller.tenant_id, asked.since, asked.until, state)
    context.nudger.nudge(TaskName.DELIVER)
    return answer(Redelivery(number), 202)


async def show_keys(request: Request) -> Response:
    """The keys that sign callbacks, each as fal's sample reads it and as the RFC spells it."""
    return await _keys(request, strict=False)


async def show_strict_keys(request: Request) -> Response:
    """The same keys in the RFC's spelling only, for libraries that take offence at the other."""
    return await _keys(request, strict=True)


async def _keys(request: Request, *, strict: bool) -> Response:
    context: Context = request.state.context
    response = answer(key_set(await context.callback_keys.published(context.db), strict=strict))
    response.headers["cache-control"] = f"public, max-age={KEYS_SECONDS}"
    return response


async def _job_with_address(request: Request, caller: Caller) -> Row:
    row = await read_job(request, caller)
    if row["webhook_url"] is None:
        raise NotFound("The job names no address to call back.")
    return row


async def _callback(request: Request, caller: Caller, job: Row) -> Callback:
    context: Context = request.state.context
    row = await reads.callback_of(context.db, job["id"])
    url: str = job["webhook_url"]
    url = url if caller.may("read") else rendering.origin_of(url)
    return rendering.callback(url, row, await reads.tries_of(context.db, job["id"]))
