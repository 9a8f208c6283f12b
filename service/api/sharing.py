"""Addresses that work without a key until their time is over."""

import re
import time
from datetime import UTC, datetime
from typing import get_args
from urllib.parse import unquote, urlsplit
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from service.api import files, jobs, outputs
from service.api.shapes import Share, ShareRequest
from service.artifacts import records
from service.artifacts.links import PREFIX, FileLinks
from service.artifacts.renditions import Kind
from service.artifacts.serving import clean_name
from service.bodies import read_body
from service.context import Context
from service.db import Row
from service.errors import Forbidden, Gone, Invalid, NotFound
from service.jobs import reads
from service.keys import Caller
from service.requests import answer, authenticate, fit, read_json

LARGEST_REQUEST = 64 * 1024

# What of a job can be shared: its result, a stored file, what is made of one mask or of all.
_MADE = "|".join(get_args(Kind))
_PART = re.compile(rf"result|overlay|(?:masks|images)/[0-9]{{1,5}}|masks/[0-9]{{1,5}}/(?:{_MADE})")
_JOB = re.compile(r"/v1/jobs/([^/]+)/(.+)")
_FILE = re.compile(rf"{PREFIX}/([^/]+)/([^/]+)")
_SHARED_JOB = re.compile(r"jobs/([0-9a-f-]{36})/(.+)")
_SHARED_FILE = re.compile(r"files/([0-9a-f]{64})/([^/]+)")


async def share(request: Request) -> Response:
    """201 with an address of what `url` names, which works until its time is over and cannot be taken back."""
    caller = await authenticate(request, "read")
    asked = fit(ShareRequest, read_json(request, await read_body(request, LARGEST_REQUEST)), "body")
    links: FileLinks = request.state.links
    what = await _what(request, caller, links, asked.url)
    expires = int(time.time()) + asked.expires_in
    return answer(Share(links.shared(what, expires), datetime.fromtimestamp(expires, UTC)), 201)


async def _what(request: Request, caller: Caller, links: FileLinks, url: str) -> str:
    """The rest of the shared address. Raises Invalid or NotFound."""
    path = urlsplit(url).path if links.is_ours(url) or url.startswith("/") else ""
    if (found := _FILE.fullmatch(path)) and (sha256 := links.open(found[1])):
        return f"files/{sha256}/{clean_name(unquote(found[2]))}"
    if (found := _JOB.fullmatch(path)) and _PART.fullmatch(found[2]):
        job_id = await reads.find(request.state.context.db, caller.tenant_id, unquote(found[1]))
        if job_id is None:
            raise NotFound("There is no such job.")
        return f"jobs/{job_id}/{found[2]}"
    words = "Must be this service's address of a file, a job's result, mask, image, cutout, overlay, rle or polygons."
    raise Invalid.at("body", "url", msg=words)


async def show_shared(request: Request) -> Response:
    """403 for an address that was not made here, 410 for one whose time is over."""
    what = request.path_params["what"]
    expires = request.state.links.open_shared(request.path_params["token"], what)
    if expires is None:
        raise Forbidden("This address was not made here, or not all of it has arrived.")
    left = expires - int(time.time())
    if left <= 0:
        raise Gone("The time of this address is over.")
    response = await _shown(request, what)
    # A browser may keep it for as long as anybody may read it.
    if "immutable" in response.headers.get("cache-control", ""):
        response.headers["cache-control"] = f"private, max-age={left}"
    response.headers["referrer-policy"] = "no-referrer"
    response.headers["x-content-type-options"] = "nosniff"
    return response


async def _shown(request: Request, what: str) -> Response:
    if found := _SHARED_FILE.fullmatch(what):
        return await files.serve(request, found[1], found[2])
    found = _SHARED_JOB.fullmatch(what)
    if found is None:
        raise NotFound
    row = await _job(request.state.context, UUID(found[1]))
    kind, *rest = found[2].split("/")
    if kind == "result":
        return await jobs.result_of(request, row)
    if kind == "overlay":
        return await outputs.rendered(request, row, "overlay", None)
    if len(rest) == 1:
        return await outputs.stored(request, row["id"], kind.removesuffix("s"), int(rest[0]))
    return await outputs.rendered(request, row, rest[1], int(rest[0]))  # type: ignore[arg-type]  # One of _PART.


async def _job(context: Context, job_id: UUID) -> Row:
    tenant_id = await records.tenant_of(context.db, job_id)
    row = await reads.get(context.db, tenant_id, job_id) if tenant_id else None
    if row is None:
        raise NotFound("There is no such job any more.")
    return row
