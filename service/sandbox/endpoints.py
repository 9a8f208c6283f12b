"""fal's queue over HTTP: submit, status, status stream, result, cancel."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, TypedDict

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from service.sandbox.answers import Cut, Silence, status_body, submit_body
from service.sandbox.config import SandboxConfig
from service.sandbox.failures import Failure, GatewayFailure, ModelFailure
from service.sandbox.faults import Knobs, SubmitCounter, read_knobs
from service.sandbox.files import Files
from service.sandbox.journal import Journal
from service.sandbox.keys import SigningKeys
from service.sandbox.models import APPS, app_of
from service.sandbox.pages import BAD_GATEWAY
from service.sandbox.queue import Entry, Queue

CANCEL_STATUS = {"OK": 200, "CANCELLATION_REQUESTED": 202, "ALREADY_COMPLETED": 400}


class State(TypedDict):
    config: SandboxConfig
    queue: Queue
    files: Files
    keys: SigningKeys
    submits: SubmitCounter
    journal: Journal


SandboxRequest = Request[State]


async def submit(request: SandboxRequest) -> Response:
    _authorize(request)
    state = request.state
    entry, body = await _read_submit(request)
    knobs = entry.knobs
    goes_wrong = state["submits"].goes_wrong(knobs, body)
    if goes_wrong and knobs.submit == "html":
        return HTMLResponse(BAD_GATEWAY, 502)
    if goes_wrong and knobs.submit == "503":
        raise GatewayFailure(503, "runner_scheduling_failure", "No runner is available.")
    if goes_wrong and knobs.submit == "429":
        wait = {"retry-after": str(knobs.retry_after), "x-fal-needs-retry": "1"}
        raise GatewayFailure(429, "concurrent_requests_limit", "Too many requests at once.", wait)
    ahead = state["queue"].submit(
        entry, start_within=_start_deadline(request), max_waiting=_number(request, "fal_max_queue_length")
    )
    state["journal"].accepted(entry)
    if knobs.webhook == "early" and entry.webhook_url is not None:
        await entry.first_try.wait()
    if goes_wrong:
        return Cut() if knobs.submit == "cut" else Silence(state["config"].silence_seconds)
    return JSONResponse(submit_body(entry, state["config"].public_url, ahead), headers=_named(entry))


async def status(request: SandboxRequest) -> Response:
    entry = _find(request, {"status": "NOT_FOUND"})
    knobs = entry.knobs
    if knobs.status != "normal" and entry.status_reads < knobs.status_times:
        entry.status_reads += 1
        if knobs.status == "html":
            return HTMLResponse(BAD_GATEWAY, 502, headers=_named(entry))
        raise GatewayFailure(503, "internal_error", "The status cannot be had now.", _named(entry))
    logs = list(entry.logs) if _wants_logs(request) else None
    body = status_body(entry, request.state["queue"], request.state["config"].public_url, logs)
    return JSONResponse(body, 200 if entry.state == "COMPLETED" else 202, headers=_named(entry))


async def status_stream(request: SandboxRequest) -> Response:
    entry = _find(request, {"status": "NOT_FOUND"})
    return StreamingResponse(_status_events(request, entry), media_type="text/event-stream", headers=_named(entry))


async def result(request: SandboxRequest) -> Response:
    entry = _find(request, {"detail": "Request not found", "error_type": "not_found"})
    if entry.outcome is None:
        raise GatewayFailure(400, "bad_request", "Request is still in progress", _named(entry))
    headers = {**entry.outcome.headers, **_named(entry)}
    body = json.dumps(entry.outcome.body)  # ASCII, since an echoed text may hold half a surrogate pair
    return Response(body, entry.outcome.status, headers=headers, media_type="application/json")


async def cancel(request: SandboxRequest) -> Response:
    entry = _find(request, {"status": "NOT_FOUND"})
    word = request.state["queue"].cancel(entry)
    return JSONResponse({"status": word}, CANCEL_STATUS[word], headers=_named(entry))


async def _read_submit(request: SandboxRequest) -> tuple[Entry, bytes]:
    """What was submitted. A body that no model could use is taken all the same, to fail as a result."""
    model = request.path_params["model"].strip("/")
    app = app_of(model)
    if app not in APPS:
        raise GatewayFailure(404, "not_found", f"Application {app} not found", {"x-fal-billable-units": "0"})
    webhook_url = request.query_params.get("fal_webhook")
    if webhook_url is not None and not webhook_url.lower().startswith(("http://", "https://")):
        raise ModelFailure(["query", "fal_webhook"], "Give an http(s) address.", "url_scheme")
    body = await request.body()
    value, knobs, problem = _read_input(body, request.state["config"].knobs)
    low = request.headers.get("x-fal-queue-priority", "").lower() == "low"
    return Entry(model, app, value, knobs, problem, webhook_url, low), body


def _read_input(body: bytes, defaults: Knobs) -> tuple[Any, Knobs, Failure | None]:
    try:
        value = json.loads(body, parse_constant=_refuse_constant) if body else {}
    except (ValueError, RecursionError) as error:
        return None, defaults, ModelFailure(["body"], f"JSON decode error: {error}", "json_invalid")
    if not isinstance(value, dict):
        return None, defaults, ModelFailure(["body"], "Input should be an object", "dict_type")
    try:
        return value, read_knobs(value, defaults), None
    except ModelFailure as problem:
        return None, defaults, problem


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


async def _status_events(request: SandboxRequest, entry: Entry) -> AsyncIterator[str]:
    """An event for every change of this request, only new log entries in each; ends after COMPLETED."""
    queue, config = request.state["queue"], request.state["config"]
    yield ": ping\n\n"
    sent = 0
    before: dict[str, Any] = {}
    while True:
        change = queue.changed.next
        logs = entry.logs[sent:] if _wants_logs(request) else None
        body = status_body(entry, queue, config.public_url, logs)
        if logs or body | {"logs": None} != before:
            yield f"data: {json.dumps(body)}\n\n"
            sent, before = sent + len(logs or []), body | {"logs": None}
        if body["status"] == "COMPLETED":
            return
        while not await _happens(change, within=config.ping_seconds):
            yield ": ping\n\n"


async def _happens(event: asyncio.Event, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            return await event.wait()
    except TimeoutError:
        return False


def _authorize(request: SandboxRequest) -> None:
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() not in {"key", "bearer"} or not credential.strip():
        raise GatewayFailure(401, "auth_error", "invalid key credentials")


def _find(request: SandboxRequest, missing: dict[str, str]) -> Entry:
    """The request of this address: its own app, whatever sub-path stands behind it. Raises Failure."""
    _authorize(request)
    entry = request.state["queue"].entries.get(request.path_params["request_id"])
    if entry is None or app_of(request.path_params["app"]) != entry.app:
        raise Failure(404, missing, {"x-fal-request-id": request.path_params["request_id"]})
    return entry


def _named(entry: Entry) -> dict[str, str]:
    return {"x-fal-request-id": entry.id}


def _wants_logs(request: SandboxRequest) -> bool:
    return request.query_params.get("logs", "").lower() in {"1", "true"}


def _number(request: SandboxRequest, name: str) -> int | None:
    value = request.query_params.get(name)
    if value is None:
        return None
    if not value.isdecimal():
        raise ModelFailure(["query", name], "Input should be a valid integer", "int_parsing")
    return int(value)


def _start_deadline(request: SandboxRequest) -> float | None:
    for header in ("x-fal-request-start-timeout", "x-fal-request-timeout"):
        if (value := request.headers.get(header)) is None:
            continue
        try:
            return max(0.1, float(value))
        except ValueError:
            raise GatewayFailure(400, "bad_request", f"{header} is not a number of seconds.") from None
    return None
