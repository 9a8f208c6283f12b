"""Everything under /v1/jobs that reads a job or asks for its end."""

from math import inf

from starlette.requests import Request
from starlette.responses import Response

from service.api import rendering, streaming
from service.api.shapes import JobPage
from service.artifacts import results
from service.db import Row
from service.errors import Forbidden, Invalid, StillPending
from service.jobs import lists, operations, reads, runs
from service.jobs.cursors import make_cursor
from service.jobs.filters import read_filter
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
    caller = await authenticate(request, "metrics")
    wanted = read_filter(request.query_params.multi_items())
    if not caller.may("read") and wanted.asks_what_is_in_jobs:
        raise Forbidden("This key may not see what is in jobs, nor search for it.")
    page = await lists.page(request.state.context.db, caller.tenant_id, wanted)
    return answer(
        JobPage(
            jobs=[request.state.renderer.summary(row, payloads=caller.may("read")) for row in page.rows],
            next_cursor=make_cursor(page.older) if page.older else None,
            previous_cursor=make_cursor(page.newer) if page.newer else None,
            searched_to=page.searched_to,
        )
    )


async def show_job(request: Request) -> Response:
    """`?wait=SECONDS` holds the answer until the job has ended and its files are copied, or the time is over."""
    caller = await authenticate(request, "metrics")
    seconds = _wait_seconds(request.query_params.get("wait"))
    row = await read_job(request, caller)
    if seconds and (row["status"] in LIVE or any(file["stored_at"] is None for file in results.files_of(row))):
        await wait_for_end(request, row["id"], seconds)
        caller = await authenticate(request, "metrics")  # Its key may have been revoked meanwhile.
        row = await read_job(request, caller)
    return answer(await request.state.renderer.job(row, payloads=caller.may("read")), request_id=row["id"])


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
    return await result_of(request, await read_job(request, await authenticate(request, "read")))


async def result_of(request: Request, row: Row) -> Response:
    """Raises StillPending."""
    if row["status"] in LIVE:
        raise StillPending(request_id=str(row["id"]))
    body = await request.state.renderer.result(row)
    return answer(body, row["http_status"], request_id=row["id"], error_type=row["error_type"])


async def show_timings(request: Request) -> Response:
    row = await read_job(request, await authenticate(request, "metrics"))
    return answer(request.state.renderer.timings(row), request_id=row["id"])


async def show_attempts(request: Request) -> Response:
    caller = await authenticate(request, "metrics")
    job_id = await find_job(request, caller)
    rows = await reads.attempts_of(request.state.context.db, job_id)
    words, payloads = caller.may("admin"), caller.may("read")
    attempts = [rendering.attempt(row, words=words, payloads=payloads) for row in rows]
    return answer({"attempts": attempts}, request_id=job_id)


async def show_events(request: Request) -> Response:
    caller = await authenticate(request, "metrics")
    job_id = await find_job(request, caller)
    rows = await reads.events_of(request.state.context.db, job_id)
    words, payloads = caller.may("admin"), caller.may("read")
    events = [rendering.event(row, words=words, payloads=payloads) for row in rows]
    return answer({"events": events}, request_id=job_id)


async def show_logs(request: Request) -> Response:
    """What GPU workers said while they ran the job; other providers say nothing of the kind."""
    job_id = await find_job(request, await authenticate(request, "read"))
    rows = await runs.logs_of(request.state.context.db, job_id)
    return answer({"logs": [rendering.log_line(row) for row in rows]}, request_id=job_id)


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
    shown = await request.state.renderer.job(row, payloads=caller.may("read"))
    return answer(shown, 202 if asked else 200, request_id=job_id)


def _is_true(name: str, text: str | None) -> bool:
    known = {None: False, "false": False, "0": False, "true": True, "1": True}
    if text not in known:
        raise Invalid.at("query", name, msg="Must be true or false.", kind="bool_parsing")
    return known[text]


async def stream_job(request: Request) -> Response:
    """Server-sent events of every change until the end; `Last-Event-ID` goes on where one broke off."""
    caller = await authenticate(request, "metrics")
    job_id = await find_job(request, caller)
    after = request.headers.get("last-event-id", "0")
    seen = int(after) if after.isascii() and after.isdecimal() and len(after) < 19 else 0
    return event_stream(request, streaming.events(request, caller, job_id, seen), job_id)
