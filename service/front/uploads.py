"""fal's storage: an address to PUT a file to (JavaScript), a POST with a token (Python), and both in parts."""

from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from service.artifacts import records, uploads
from service.artifacts.serving import file_response, type_served
from service.artifacts.tickets import Upload
from service.bodies import read_body
from service.context import Context
from service.errors import Forbidden, NotFound, UnsupportedMedia
from service.front.addresses import PREFIX
from service.front.tokens import UploadTokens
from service.keys import Caller, KeyRing
from service.requests import answer, authenticate, fit, read_json

LARGEST_JSON = 2**18
OCTETS = "application/octet-stream"


class Announcement(BaseModel):
    """A file that is going to be sent."""

    file_name: Annotated[str, Field(max_length=1_024)] = "file"
    content_type: Annotated[str, Field(max_length=1_024)] = OCTETS


class Part(BaseModel):
    part_number: Annotated[int, Field(alias="partNumber", ge=1, le=uploads.MOST_PARTS)]
    etag: Annotated[str, Field(max_length=200)]


class Parts(BaseModel):
    parts: Annotated[list[Part], Field(min_length=1, max_length=uploads.MOST_PARTS)]


async def initiate(request: Request) -> Response:
    """Two addresses: where to PUT the bytes, which needs no key, and where the file can be read then."""
    caller = await authenticate(request, "submit")
    announced = fit(Announcement, await _json(request), "body")
    upload = await uploads.promise(request.state.context, caller.tenant_id, announced.file_name, announced.content_type)
    return answer({"upload_url": _url(request, f"uploads/{upload.ticket}"), "file_url": _file_url(request, upload)})


async def receive(request: Request) -> Response:
    _plain(request)
    ticket, claimed = request.path_params["ticket"], request.headers.get("content-type")
    upload = await uploads.receive(request.state.context, ticket, request.stream(), claimed)
    return answer({"url": _file_url(request, upload)})


async def receive_part(request: Request) -> Response:
    """The part's name is in the answer for the JavaScript client, and in its ETag for the Python one."""
    _plain(request)
    ticket, part = request.path_params["ticket"], request.path_params["part"]
    sha256 = await uploads.receive_part(request.state.context, ticket, part, request.stream())
    response = answer({"partNumber": part, "etag": sha256})
    response.headers["etag"] = f'"{sha256}"'
    return response


async def complete(request: Request) -> Response:
    """The parts may be listed in any order."""
    listed = fit(Parts, await _json(request), "body").parts
    parts = {part.part_number: part.etag.removeprefix("W/").strip('"') for part in listed}
    upload = await uploads.join(request.state.context, request.path_params["ticket"], parts)
    return answer({"url": _file_url(request, upload)})


async def give_token(request: Request) -> Response:
    caller = await authenticate(request, "submit")
    tokens: UploadTokens = request.state.upload_tokens
    token, expires = await tokens.make(caller.key_id)
    base_url = _url(request, "").rstrip("/")
    return answer({"token": token, "token_type": "Bearer", "base_url": base_url, "expires_at": expires.isoformat()})


async def upload(request: Request) -> Response:
    """The body is the file."""
    caller = await _uploader(request)
    _plain(request)
    context: Context = request.state.context
    claimed = request.headers.get("content-type", OCTETS)
    promised = await uploads.promise(context, caller.tenant_id, _file_name(request), claimed)
    kept = await uploads.receive(context, promised.ticket, request.stream(), None)
    return answer({"access_url": _file_url(request, kept)})


async def begin_multipart(request: Request) -> Response:
    caller = await _uploader(request)
    claimed = request.headers.get("content-type", OCTETS)
    promised = await uploads.promise(request.state.context, caller.tenant_id, _file_name(request), claimed)
    return answer({"access_url": _file_url(request, promised), "uploadId": promised.ticket})


async def serve(request: Request) -> Response:
    """Whoever has the address may read the file, as with fal's own; nobody can guess one."""
    context: Context = request.state.context
    found = await uploads.find(context, request.path_params["upload"])
    known = await records.type_of(context.db, found.sha256) if found and found.sha256 else None
    if found is None or found.sha256 is None or known is None:
        raise NotFound("There is no such file.")
    content_type, size = type_served(known[0], found.content_type), known[1]
    return await file_response(
        context.storage, found.sha256, content_type, found.file_name, size, request.headers, request.method
    )


async def _uploader(request: Request) -> Caller:
    """By an upload token, or by a key as everywhere. Raises Unauthenticated or Forbidden."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or ":" in token:
        return await authenticate(request, "submit")
    tokens: UploadTokens = request.state.upload_tokens
    keys: KeyRing = request.state.keys
    caller = await keys.holder(await tokens.key_of(token.strip()))
    if not caller.may("submit"):
        raise Forbidden
    return caller


async def _json(request: Request) -> Any:
    return read_json(request, await read_body(request, LARGEST_JSON) or b"{}")


def _plain(request: Request) -> None:
    if "content-encoding" in request.headers:
        raise UnsupportedMedia


def _file_name(request: Request) -> str:
    return request.headers.get("x-fal-file-name", "file")[:1_024]


def _file_url(request: Request, upload: Upload) -> str:
    return _url(request, f"files/{upload.id}/{quote(upload.file_name, safe='')}")


def _url(request: Request, path: str) -> str:
    return f"{request.state.context.settings.public_url}{PREFIX}/cdn/{path}"
