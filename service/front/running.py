"""fal.run: a call that is answered with the result. What runs is a job like any other, and outlives the call."""

from functools import partial
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.artifacts.results import made_of
from service.db import DatabaseAway, Row, patiently
from service.front.errors import StillRunning
from service.front.results import read_result, result_answer
from service.front.statuses import event_line
from service.front.submitting import register
from service.jobs.lifecycle import Status
from service.jsontext import NotJSON, parse_loosely
from service.requests import LONGEST_WAIT_SECONDS, PATIENCE_SECONDS, authenticate, stream_headers, wait_for_end


async def run(request: Request) -> Response:
    _, response = await _ended(request)
    return response


async def stream(request: Request) -> Response:
    """One event with the whole output: no provider of ours tells parts of it. A failure has its own status."""
    row, response = await _ended(request)
    if row["status"] != Status.COMPLETED:
        return response
    event = await made_of(row, partial(_event_of, bytes(response.body)))
    return Response(event, headers=stream_headers(row["id"]), media_type="text/event-stream")


def _event_of(body: bytes) -> bytes:
    try:
        return event_line(parse_loosely(body))
    except NotJSON:
        return event_line(body.decode(errors="replace"))


async def _ended(request: Request) -> tuple[Row, Response]:
    """The job of a call, once it has ended, and what it ended with. Raises StillRunning."""
    if request.method == "HEAD":
        raise HTTPException(405)  # Nothing may be started by who only wants to know what is there.
    caller = await authenticate(request, "read")
    _, registered = await register(request, await authenticate(request, "submit"))
    job_id = registered.job_id
    # From here on the job is on its way, and a 503 would have the client send it once more.
    try:
        if await wait_for_end(request, job_id, LONGEST_WAIT_SECONDS):
            # Its key may have been revoked meanwhile.
            caller = await patiently(partial(authenticate, request, "read"), PATIENCE_SECONDS)
            row = await patiently(partial(read_result, request, caller, job_id), PATIENCE_SECONDS)
            return row, await result_answer(request, row)
    except DatabaseAway as error:
        raise _still_running(job_id) from error
    raise _still_running(job_id)


def _still_running(job_id: UUID) -> StillRunning:
    return StillRunning(request_id=str(job_id), headers={"x-fal-request-timeout-type": "user"})
