"""What a request ended with: the model's own status and body."""

from functools import partial
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from service.artifacts import results
from service.context import Context
from service.db import Row
from service.errors import StillPending
from service.front.errors import UnknownRequest
from service.front.statuses import find_request
from service.jobs import reads
from service.jobs.lifecycle import LIVE
from service.keys import Caller
from service.requests import answer, authenticate

# Ended by the client's own limit: both clients of fal's then ask no second time.
OWN_LIMITS = {"deadline_exceeded", "request_timeout"}


async def show_result(request: Request) -> Response:
    """400 while the request has not ended."""
    caller = await authenticate(request, "read")
    found = await find_request(request, caller)
    if found["status"] in LIVE:
        raise StillPending(request_id=str(found["id"]))
    return await result_answer(request, await read_result(request, caller, found["id"]))


async def read_result(request: Request, caller: Caller, request_id: UUID) -> Row:
    context: Context = request.state.context
    row = await reads.get(context.db, caller.tenant_id, request_id)
    if row is None:
        raise UnknownRequest
    return row


async def result_answer(request: Request, row: Row) -> Response:
    body = await results.made_of(row, partial(results.body_of, row, request.state.links))
    response = answer(body, row["http_status"], request_id=row["id"], error_type=row["error_type"])
    if row["http_status"] == 504 and row["error_type"] in OWN_LIMITS:
        response.headers["x-fal-request-timeout-type"] = "user"
    return response
