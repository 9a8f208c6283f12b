"""Uploads, and stored files at their unguessable addresses."""

import mimetypes

from starlette.requests import Request
from starlette.responses import Response

from service.artifacts import records, uploads
from service.artifacts.links import FileLinks
from service.artifacts.serving import OCTETS, file_response, type_as_called, type_of_name, type_served
from service.artifacts.uploads import LARGEST_UPLOAD
from service.context import Context
from service.errors import Invalid, NotFound, UnsupportedMedia
from service.requests import answer, authenticate

LONGEST_NAME = 128


async def upload_file(request: Request) -> Response:
    """The body is the file; `?name=` is what it is called. 201 with its address, which works as an input."""
    await authenticate(request, "submit")
    context: Context = request.state.context
    if "content-encoding" in request.headers:
        raise UnsupportedMedia
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise UnsupportedMedia("Send the file's bytes as the body, as `curl --data-binary @FILE` does; no form.")
    name = request.query_params.get("name", "file")
    if not (1 <= len(name) <= LONGEST_NAME and name.isprintable()):
        raise Invalid.at("query", "name", msg=f"Must be 1 to {LONGEST_NAME} printable characters.")
    upload = await uploads.keep(context, request.stream(), LARGEST_UPLOAD)
    links: FileLinks = request.state.links
    by_name = type_served(upload.content_type, type_of_name(name))
    called = type_as_called(request.headers.get("content-type", ""))
    content_type = by_name if called == OCTETS else type_served(upload.content_type, called)
    # An address has nothing but the name to tell the type by.
    served_as = name if content_type == by_name else name + (mimetypes.guess_extension(content_type) or "")
    file = {
        "url": links.url(upload.sha256, served_as),
        "content_type": content_type,
        "file_name": name,
        "file_size": upload.size,
        "width": upload.width,
        "height": upload.height,
        "sha256": upload.sha256,
    }
    return answer(file, 201)


async def serve_file(request: Request) -> Response:
    """Whoever has the address may read the file, as with fal's own; nobody can guess one."""
    return await serve(request, request.state.links.open(request.path_params["token"]), request.path_params["name"])


async def serve(request: Request, sha256: str | None, name: str) -> Response:
    context: Context = request.state.context
    known = await records.type_of(context.db, sha256) if sha256 else None
    if sha256 is None or known is None:
        raise NotFound("There is no such file.")
    found, size = known
    content_type = type_served(found, type_of_name(name))
    response: Response = await file_response(
        context.storage, sha256, content_type, name, size, request.headers, request.method
    )
    return response
