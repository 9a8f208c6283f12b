"""What every door needs of a request: who asks, what they sent, for how long they wait, and how to answer."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from service.context import Context
from service.db import DatabaseAway, Row
from service.errors import BadRequest, Forbidden, Invalid, NotFound, Unauthenticated, UnsupportedMedia
from service.jobs import reads
from service.jobs.waiting import LOOK_AGAIN_SECONDS, Waiting, wait_for
from service.jsontext import NotJSON, encode, parse_once
from service.keys import Caller, KeyRing

JSON = "application/json"
Shape = TypeVar("Shape", bound=BaseModel)

LONGEST_KEY = 255
LONG_BODY = 2**20
LONGEST_WAIT_SECONDS = 3_600.0

# Files are copied right after the end; who waits for a job is told with the copies in place, if they come soon.
COPIES_WAIT_SECONDS = 3.0

# A database that is away is waited for as long, and asked so often whether it is back.
PATIENCE_SECONDS = 300.0
AWAY_LOOK_SECONDS = 0.25

# How often somebody who waits is looked after: has he gone?
STILL_THERE_SECONDS = 5.0


async def authenticate(request: Request, scope: str) -> Caller:
    """Raises Unauthenticated or Forbidden."""
    keys: KeyRing = request.state.keys
    caller = await keys.caller(request.headers.get("authorization", ""))
    if not caller.may(scope):
        raise Forbidden(f"This key does not have the scope '{scope}'.")
    return caller


async def still_allowed(request: Request, caller: Caller) -> bool:
    """Whether the key that opened a stream was not revoked; one that held goes on while the database is away."""
    keys: KeyRing = request.state.keys
    with suppress(DatabaseAway):
        try:
            await keys.holder(caller.key_id)
        except Unauthenticated:
            return False
    return True


async def find_job(request: Request, caller: Caller) -> UUID:
    """The job that the path names. Raises NotFound, for another tenant's too."""
    context: Context = request.state.context
    job_id = await reads.find(context.db, caller.tenant_id, request.path_params["request_id"])
    if job_id is None:
        raise NotFound("There is no such job.")
    return job_id


async def read_job(request: Request, caller: Caller) -> Row:
    """As `find_job`, with all that the record has of it."""
    context: Context = request.state.context
    row = await reads.get(context.db, caller.tenant_id, await find_job(request, caller))
    if row is None:
        raise NotFound("There is no such job.")
    return row


async def wait_for_end(request: Request, job_id: UUID, seconds: float) -> bool:
    """Until the job has ended and its copies are made, if they are soon.

    False: the time was over before, or this process ends. Raises DatabaseAway when that lasts too long.
    """
    context: Context = request.state.context
    waiting: Waiting = request.state.waiting
    until, seen_at = monotonic() + seconds, monotonic()
    copies_until: float | None = None
    ended = False
    async with waiting.on(job_id) as changed:
        while (left := until - monotonic()) > 0 and not (waiting.stopped or await request.is_disconnected()):
            try:
                ended, copied = await reads.is_over(context.db, job_id)
            except DatabaseAway:
                if monotonic() - seen_at > PATIENCE_SECONDS:
                    raise
                await wait_for(changed, AWAY_LOOK_SECONDS)
                continue
            seen_at = monotonic()
            if ended and copied:
                break
            if not ended:
                await wait_for(changed, min(left, STILL_THERE_SECONDS))
            else:
                copies_until = copies_until or monotonic() + COPIES_WAIT_SECONDS
                until = min(until, copies_until)
                await wait_for(changed, min(until - monotonic(), LOOK_AGAIN_SECONDS))
    return ended


async def read_long_json(request: Request, body: bytes) -> Any:
    """As `read_json`, for bodies that may be large: nobody waits while one of those is read."""
    return await asyncio.to_thread(read_json, request, body) if len(body) > LONG_BODY else read_json(request, body)


def read_json(request: Request, body: bytes) -> Any:
    """Raises BadRequest, or UnsupportedMedia for an encoded body."""
    if "content-encoding" in request.headers:
        raise UnsupportedMedia
    try:
        return parse_once(body)
    except NotJSON as error:
        raise BadRequest(f"The body is not JSON that can be kept: {error}.") from None


def idempotency_key(request: Request, *names: str) -> str | None:
    """The key under the first of the headers that is there, `Idempotency-Key` unless others are named."""
    for name in names or ("idempotency-key",):
        key = request.headers.get(name)
        if key is not None:
            if not (1 <= len(key) <= LONGEST_KEY and key.isprintable()):
                raise Invalid.at("header", name, msg=f"Must be 1 to {LONGEST_KEY} printable characters.")
            return key
    return None


def fit(shape: type[Shape], value: Any, *loc: str | int) -> Shape:
    """Raises Invalid, with `loc` before the place of each problem."""
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise Invalid([{**problem, "loc": [*loc, *problem["loc"]]} for problem in problems[:20]]) from None


def answer(
    value: Any, status: int = 200, *, request_id: UUID | str | None = None, error_type: str | None = None
) -> Response:
    """`error_type` is whatever a model called its failure."""
    headers = {"x-fal-request-id": str(request_id)} if request_id else {}
    if error_type and error_type.isascii() and error_type.isprintable():
        headers["x-fal-error-type"] = error_type
    content = value if isinstance(value, bytes) else encode(value)
    return Response(content, status, headers, JSON)


def headers_only(headers: Mapping[str, str]) -> Response:
    """Of an answer that is made when it is sent, so that nobody knows how long it is."""
    response = Response(headers=headers)
    del response.headers["content-length"]
    return response


def stream_headers(request_id: UUID | str) -> dict[str, str]:
    """Of server-sent events; a proxy in front of us is asked not to hold them back."""
    return {"cache-control": "no-store", "x-accel-buffering": "no", "x-fal-request-id": str(request_id)}


def event_stream(request: Request, events: AsyncGenerator[bytes], request_id: UUID | str) -> Response:
    headers = stream_headers(request_id)
    if request.method == "HEAD":
        return headers_only({**headers, "content-type": "text/event-stream; charset=utf-8"})
    return StreamingResponse(events, headers=headers, media_type="text/event-stream")
