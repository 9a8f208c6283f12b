"""What every REST handler needs of a request: who asks, what they sent, and how to answer."""

from typing import Any, TypedDict, TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.api.rendering import Renderer
from service.artifacts.links import FileLinks
from service.context import Context
from service.db import Row
from service.errors import BadRequest, Forbidden, Invalid, NotFound, UnsupportedMedia
from service.jobs import reads
from service.jobs.waiting import Waiting
from service.jsontext import NotJSON, encode, parse_once
from service.keys import Caller, KeyRing

JSON = "application/json"
Shape = TypeVar("Shape", bound=BaseModel)


class State(TypedDict):
    """What the application's lifespan opens and every request can reach."""

    context: Context
    keys: KeyRing
    renderer: Renderer
    links: FileLinks
    waiting: Waiting


async def authenticate(request: Request, scope: str) -> Caller:
    """Raises Unauthenticated or Forbidden."""
    keys: KeyRing = request.state.keys
    caller = await keys.caller(request.headers.get("authorization", ""))
    if not caller.may(scope):
        raise Forbidden(f"This key does not have the scope '{scope}'.")
    return caller


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


def read_json(request: Request, body: bytes) -> Any:
    """Raises BadRequest, or UnsupportedMedia for an encoded body."""
    if "content-encoding" in request.headers:
        raise UnsupportedMedia
    try:
        return parse_once(body)
    except NotJSON as error:
        raise BadRequest(f"The body is not JSON that can be kept: {error}.") from None


def fit(shape: type[Shape], value: Any, *loc: str | int) -> Shape:
    """Raises Invalid, with `loc` before the place of each problem."""
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        raise Invalid([{**problem, "loc": [*loc, *problem["loc"]]} for problem in problems[:20]]) from None


def answer(value: Any, status: int = 200, *, request_id: UUID | str | None = None) -> Response:
    headers = {"x-fal-request-id": str(request_id)} if request_id else None
    content = value if isinstance(value, bytes) else encode(value)
    return Response(content, status, headers, JSON)
