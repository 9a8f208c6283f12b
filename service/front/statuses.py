"""Where a request stands, asked once or streamed until it has ended."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.db import Row, patiently
from service.front.addresses import request_urls, same_app
from service.front.errors import UnknownRequest
from service.jobs import reads, runs
from service.jobs.lifecycle import FAL_STATUS, LIVE, Status
from service.jobs.logs import log_lines
from service.jobs.waiting import Waiting, wait_for
from service.keys import Caller
from service.requests import answer, authenticate, event_stream, still_allowed

PING = b": ping\n\n"
PING_SECONDS = 15.0

# As long as its key holds a stream must not end before its job has, so it outlasts a database that is away for a while.
PATIENCE_SECONDS = 300.0

# The model's own names of what fal calls `inference_time`.
INFERENCE = ("inference", "total_time")


async def find_request(request: Request, caller: Caller) -> Row:
    """The request that the path names. Raises UnknownRequest, for another tenant's and for another app's too."""
    context: Context = request.state.context
    row = await reads.status_of(context.db, caller.tenant_id, request.path_params["request_id"])
    if row is None or not same_app(request.path_params["app"], row["model"]):
        raise UnknownRequest
    return row


async def show_status(request: Request) -> Response:
    """202 while the request waits or runs, 200 once it has ended."""
    context: Context = request.state.context
    caller = await authenticate(request, "read")
    row = await find_request(request, caller)
    logs = None
    if wants_logs(request):
        said = await runs.logs_of(context.db, row["id"])
        logs = log_lines(await reads.events_of(context.db, row["id"]), said, caller)
    body = status_body(context.settings.public_url, row, logs)
    return answer(body, 202 if row["status"] in LIVE else 200, request_id=row["id"])


async def stream_status(request: Request) -> Response:
    caller = await authenticate(request, "read")
    row = await find_request(request, caller)
    return event_stream(request, status_events(request, caller, row), row["id"])


async def status_events(request: Request, caller: Caller, row: Row) -> AsyncGenerator[bytes]:
    """A status for every change, each with only its new log lines; the last one is COMPLETED.

    Ends without it when the key was revoked meanwhile.
    """
    context: Context = request.state.context
    waiting: Waiting = request.state.waiting
    request_id, wanted, seen = row["id"], wants_logs(request), (0, 0)
    told: dict[str, Any] = {}
    yield PING
    async with waiting.on(request_id) as changed:
        has_changed = True
        while True:
            looking = asyncio.create_task(_look(request, caller, request_id, seen if wanted else None, has_changed))
            try:
                while not (await asyncio.wait([looking], timeout=PING_SECONDS))[0]:
                    yield PING
                found = looking.result()
            finally:
                looking.cancel()
            if found is None:
                return
            if found.now is not None:
                lines = log_lines(found.events, found.said, caller) if wanted else None
                body = status_body(context.settings.public_url, found.now, lines)
                if lines or body | {"logs": None} != told:
                    seen = found.after(seen)
                    told = body | {"logs": None}
                    yield event_line(body)
                if found.now["status"] not in LIVE or waiting.stopped:
                    return
            has_changed = await wait_for(changed, PING_SECONDS)
            if not has_changed:
                yield PING


@dataclass(frozen=True, slots=True)
class Seen:
    """`now` is None where nothing was looked for."""

    now: Row | None = None
    events: Sequence[Row] = ()
    said: Sequence[Row] = ()

    def after(self, seen: tuple[int, int]) -> tuple[int, int]:
        """The last event and the last line that were seen."""
        return (self.events[-1]["id"] if self.events else seen[0], self.said[-1]["id"] if self.said else seen[1])


async def _look(
    request: Request, caller: Caller, request_id: UUID, seen: tuple[int, int] | None, has_changed: bool
) -> Seen | None:
    """The status, and what happened and was said since, if that is wanted; however long the database is away.

    None: the request is gone, or the key was revoked, which alone is looked at where nothing has changed.
    """
    context: Context = request.state.context
    found = Seen()
    if has_changed:
        now = await patiently(partial(reads.status_of, context.db, caller.tenant_id, str(request_id)), PATIENCE_SECONDS)
        if now is None:
            return None
        found = Seen(now)
        if seen is not None:
            # Read after the status, so that the last line is there when the request has ended.
            events = await patiently(partial(reads.events_of, context.db, request_id, after=seen[0]), PATIENCE_SECONDS)
            said = await patiently(partial(runs.logs_of, context.db, request_id, after=seen[1]), PATIENCE_SECONDS)
            found = Seen(now, events, said)
    # Last, so that nothing is told of what was read after the key was revoked.
    return found if await still_allowed(request, caller) else None


def event_line(value: Any) -> bytes:
    """ASCII only: the JavaScript client breaks a character of which two packets bring a part each."""
    return f"data: {json.dumps(value)}\n\n".encode()


def status_body(public_url: str, row: Row, logs: list[dict[str, Any]] | None) -> dict[str, Any]:
    """fal's status object. `logs` stands in every one, and a position in every one that waits: `fal-client` asks."""
    request_id, status = str(row["id"]), FAL_STATUS[Status(row["status"])]
    body: dict[str, Any] = {
        "status": status,
        "request_id": request_id,
        "logs": logs,
        **request_urls(public_url, row["model"], request_id),
    }
    if status == "IN_QUEUE":
        body["queue_position"] = row["queue_position"] or 0
    if status == "COMPLETED":
        body["metrics"] = metrics(row)
        if row["error"] is not None:
            body |= {"error": row["error"], "error_type": row["error_type"]}
    return body


def metrics(row: Row) -> dict[str, float]:
    """`inference_time` by the model's own figures, else by what was seen of its run; nothing when neither is known."""
    timings = json.loads(row["model_timings"] or "{}")
    seconds = next((timings[name] for name in INFERENCE if name in timings), None)
    if seconds is None and row["ran"] is not None:
        seconds = max(0.0, row["ran"].total_seconds())
    return {} if seconds is None else {"inference_time": seconds}


def wants_logs(request: Request) -> bool:
    return request.query_params.get("logs", "").lower() in {"1", "true"}
