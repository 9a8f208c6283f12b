"""Everything under /v1/jobs that reads a job or asks for its end."""

from math import inf

from starlette.requests import Request
from starlette.responses import Response

from service.api import rendering, streaming
from service.api.shapes import JobPage
from service.artifacts.serving import file_response
from service.context import Context
from service.errors import Invalid, NotFound, StillPending, Unavailable
from service.jobs import operations, reads
from service.jobs.filters import make_cursor, read_filter
from service.jobs.lifecycle import LIVE
from service.queue import TaskName
from service.requests import (
    LONGEST_WAIT_SECONDS,
    answer,
    authenticate,
    event_stream,
    find_job,
    read_job,
    wait_for_end,
)


async def list_jobs(request: Request) -> Response:
    caller = await authenticate(request, "read")
    wanted = read_filter(request.query_params.multi_items())
    rows = await reads.page(request.state.context.db, caller.tenant_id, wanted)
    shown = rows[: wanted.limit]
    more = make_cursor(shown[-1]["id"]) if len(rows) > wanted.limit else None
    return answer(JobPage([request.state.renderer.summary(row) for row in shown], more))


async def show_job(request: Request) -> Response:
    """`?wait=SECONDS` holds the answer until the job ends, or the time is over."""
    caller = await authenticate(request, "read")
    seconds = _wait_seconds(request.query_params.get("wait"))
    row = await read_job(request, caller)
    if seconds and row["status"] in LIVE:
        await wait_for_end(request, row["id"], seconds)
        row = await read_job(request, caller)
    return answer(request.state.renderer.job(row), request_id=row["id"])


def _wait_seconds(text: str | None) -> float:
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < inf:
        raise Invalid.at("query", "wait", msg="Must be a number of seconds, not below zero.", kind="float_parsing")
    return min(seconds, LONGEST_WAIT_SECONDS)


async def show_result(request: Request) -> Response:
    """The model's own status and body; 400 while the job has not ended."""
    row = await read_job(request, await authenticate(request, "read"))
    if row["status"] in LIVE:
        raise StillPending(request_id=str(row["id"]))
    return answer(request.state.renderer.result(row), row["http_status"], request_id=row["id"])


async def show_masks(request: Request) -> Response:
    row = await read_job(request, await authenticate(request, "read"))
    return answer({"masks": request.state.renderer.masks(row)}, request_id=row["id"])


async def show_images(request: Request) -> Response:
    row = await read_job(request, await authenticate(request, "read"))
    return answer({"images": request.state.renderer.images(row)}, request_id=row["id"])


async def show_timings(request: Request) -> Response:
    row = await read_job(request, await authenticate(request, "read"))
    return answer(request.state.renderer.timings(row), request_id=row["id"])


async def show_attempts(request: Request) -> Response:
    job_id = await find_job(request, await authenticate(request, "read"))
    rows = await reads.attempts_of(request.state.context.db, job_id)
    return answer({"attempts": [rendering.attempt(row) for row in rows]}, request_id=job_id)


async def show_events(request: Request) -> Response:
    job_id = await find_job(request, await authenticate(request, "read"))
    rows = await reads.events_of(request.state.context.db, job_id)
    return answer({"events": [rendering.event(row) for row in rows]}, request_id=job_id)


async def show_mask(request: Request) -> Response:
    return await _show_file(request, "mask")


async def show_image(request: Request) -> Response:
    return await _show_file(request, "image")


async def _show_file(request: Request, kind: str) -> Response:
    """The bytes of the stored copy."""
    context: Context = request.state.context
    job_id = await find_job(request, await authenticate(request, "read"))
    file = await reads.file_of(context.db, job_id, kind, request.path_params["index"])
    if file is None:
        ended, _ = await reads.is_over(context.db, job_id)
        raise NotFound(f"The job has no such {kind}.") if ended else StillPending(request_id=str(job_id))
    if file["sha256"] is None:
        if file["copy_error"]:
            raise NotFound(f"The copy of this {kind} could not be stored: {file['copy_error']}")
        raise Unavailable(f"The copy of this {kind} is not stored yet.", headers={"retry-after": "1"})
    name = file["file_name"] or f"{kind}-{file['index']}"
    response: Response = await file_response(
        context.storage, file["sha256"], file["stored_type"], name, file["size"], request.headers, request.method
    )
    response.headers["x-fal-request-id"] = str(job_id)
    return response


async def cancel_job(request: Request) -> Response:
    """202 with the job when its end was asked for; 200 when it had ended before, or by an administrator's `force`."""
    force = _is_true("force", request.query_params.get("force"))
    caller = await authenticate(request, "admin" if force else "submit")
    job_id = await find_job(request, caller)
    if force:
        await operations.force_end(request.state.context.db, job_id)
        request.state.context.nudger.nudge(TaskName.WATCH)
    asked = not force and await operations.cancel(request.state.context, job_id)
    row = await read_job(request, caller)
    return answer(request.state.renderer.job(row), 202 if asked else 200, request_id=job_id)


def _is_true(name: str, text: str | None) -> bool:
    known = {None: False, "false": False, "0": False, "true": True, "1": True}
    if text not in known:
        raise Invalid.at("query", name, msg="Must be true or false.", kind="bool_parsing")
    return known[text]


async def stream_job(request: Request) -> Response:
    """Server-sent events of every change until the end; `Last-Event-ID` goes on where one broke off."""
    caller = await authenticate(request, "read")
    job_id = await find_job(request, caller)
    after = request.headers.get("last-event-id", "0")
    seen = int(after) if after.isascii() and after.isdecimal() and len(after) < 19 else 0
    return event_stream(request, streaming.events(request, caller, job_id, seen), job_id)
