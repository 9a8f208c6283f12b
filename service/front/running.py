"""fal.run: a call that is answered with the result. What runs is a job like any other, and outlives the call."""

from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.db import Row
from service.front.errors import StillRunning
from service.front.results import read_result, result_answer
from service.front.statuses import event_line
from service.front.submitting import register
from service.jobs.lifecycle import Status
from service.jsontext import NotJSON, parse_loosely
from service.requests import LONGEST_WAIT_SECONDS, authenticate, wait_for_end


async def run(request: Request) -> Response:
    return result_answer(request, await _ended(request))


async def stream(request: Request) -> Response:
    """One event with the whole output: no provider of ours tells parts of it. A failure has its own status."""
    row = await _ended(request)
    response = result_answer(request, row)
    if row["status"] != Status.COMPLETED:
        return response
    try:
        output = parse_loosely(bytes(response.body))
    except NotJSON:
        output = bytes(response.body).decode(errors="replace")
    headers = {"cache-control": "no-store", "x-fal-request-id": str(row["id"])}
    return Response(event_line(output), headers=headers, media_type="text/event-stream")


async def _ended(request: Request) -> Row:
    """The job of a call, once it has ended. Raises StillRunning."""
    if request.method == "HEAD":
        raise HTTPException(405)  # Nothing may be started by who only wants to know what is there.
    caller = await authenticate(request, "read")
    _, request_id = await register(request)
    if not await wait_for_end(request, UUID(request_id), LONGEST_WAIT_SECONDS):
        raise StillRunning(request_id=request_id, headers={"x-fal-request-timeout-type": "user"})
    return await read_result(request, caller, UUID(request_id))
