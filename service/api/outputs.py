"""The files of a job: masks and images as they came, and what is made of masks."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import IO, Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from service.artifacts import keeping, renditions, results
from service.artifacts.renditions import Kind, Rendition
from service.artifacts.results import Facts
from service.artifacts.serving import FOR_GOOD, file_response, harmless, names
from service.artifacts.storage import CHUNK_BYTES
from service.context import Context
from service.db import Row
from service.errors import Gone, NotDrawable, NotFound, StillPending, Unavailable
from service.jobs import reads
from service.jobs.lifecycle import LIVE
from service.requests import answer, authenticate, find_job, headers_only, read_job

MOST_MASKS = 256
# What may be another thing the next time.
UNTIL_ASKED = "private, no-cache"


async def show_masks(request: Request) -> Response:
    row = await read_job(request, await authenticate(request, "read"))
    return answer({"masks": request.state.renderer.masks(row)}, request_id=row["id"])


async def show_images(request: Request) -> Response:
    row = await read_job(request, await authenticate(request, "read"))
    return answer({"images": request.state.renderer.images(row)}, request_id=row["id"])


async def show_mask(request: Request) -> Response:
    return await _show(request, "mask")


async def show_image(request: Request) -> Response:
    return await _show(request, "image")


async def _show(request: Request, kind: str) -> Response:
    job_id = await find_job(request, await authenticate(request, "read"))
    return await stored(request, job_id, kind, request.path_params["index"])


async def show_cutout(request: Request) -> Response:
    """The picture where the mask is, transparent elsewhere: a PNG as large as the mask's box."""
    return await _render(request, "cutout")


async def show_overlay(request: Request) -> Response:
    """The picture with the mask over it in colour."""
    return await _render(request, "overlay")


async def show_all_masks(request: Request) -> Response:
    """The picture with all masks over it, each in a colour of its own."""
    row = await read_job(request, await authenticate(request, "read"))
    return await rendered(request, row, "overlay", None)


async def show_rle(request: Request) -> Response:
    """COCO's compressed run lengths, as pycocotools takes them."""
    return await _render(request, "rle")


async def show_polygons(request: Request) -> Response:
    """A GeoJSON MultiPolygon in pixels."""
    return await _render(request, "polygons")


async def _render(request: Request, kind: Kind) -> Response:
    row = await read_job(request, await authenticate(request, "read"))
    return await rendered(request, row, kind, request.path_params["index"])


async def stored(request: Request, job_id: UUID, kind: str, index: int) -> Response:
    """The bytes of a stored copy."""
    context: Context = request.state.context
    file = await reads.file_of(context.db, job_id, kind, index)
    if file is None:
        ended, _ = await reads.is_over(context.db, job_id)
        raise NotFound(f"The job has no such {kind}.") if ended else StillPending(request_id=str(job_id))
    _insist_stored(file)
    name = file["file_name"] or f"{kind}-{index}"
    response: Response = await file_response(
        context.storage, file["sha256"], file["stored_type"], name, file["size"], request.headers, request.method
    )
    response.headers["x-fal-request-id"] = str(job_id)
    return response


def _insist_stored(file: Facts) -> None:
    if file["removed_at"] is not None:
        raise Gone(f"This {file['kind']} was removed, as its tenant wanted.")
    if file["sha256"] is None:
        if file["copy_error"]:
            raise NotFound(f"The copy of this {file['kind']} could not be stored: {file['copy_error']}")
        raise Unavailable(f"The copy of this {file['kind']} is not stored yet.", headers={"retry-after": "1"})


async def rendered(request: Request, row: Row, kind: Kind, index: int | None) -> Response:
    """What is made of one mask, or of all of them (None)."""
    masks, all_there = _masks(row, index)
    if kind == "cutout" and masks[0]["bbox"] is None:
        raise NotDrawable("The mask covers nothing, so there is nothing to cut out.")
    numbered = tuple((mask["index"], mask["sha256"]) for mask in masks)
    if kind in {"rle", "polygons"}:
        return await _answer(request, row, Rendition(kind, numbered))
    if not row["input"]:
        raise Gone("The input of this job was removed, as its tenant wanted.", request_id=str(row["id"]))
    picture = await keeping.picture_of(request.state.context, request.state.links, row["id"], row["input"])
    return await _answer(request, row, Rendition(kind, numbered, picture), for_good=all_there)


def _masks(row: Row, index: int | None) -> tuple[list[dict[str, Any]], bool]:
    """Those to draw, and whether they are all that there will be."""
    if row["status"] in LIVE:
        raise StillPending(request_id=str(row["id"]))
    files = [file for file in results.files_of(row) if file["kind"] == "mask" and index in {None, file["index"]}]
    if not files:
        raise NotFound("The job has no such mask." if index is not None else "The job has no masks.")
    if len(files) > MOST_MASKS:
        raise NotDrawable(f"The job has more than {MOST_MASKS} masks; ask for the overlay of one.")
    there = [file for file in files if file["sha256"]]
    if not there:
        _insist_stored(files[0])
    drawable = [file for file in there if file["area_fraction"] is not None]
    if not drawable:
        raise NotDrawable(
            f"The mask is no picture that can be drawn: {there[0]['copy_error'] or 'it was not measured'}."
        )
    return drawable, len(there) == len(files)


async def _answer(request: Request, row: Row, wanted: Rendition, *, for_good: bool = True) -> Response:
    drawn = wanted.kind in {"cutout", "overlay"}
    which = f"mask-{wanted.masks[0][0]}" if len(wanted.masks) == 1 else "masks"
    headers = {
        **harmless("image/png" if drawn else "application/json", f"{which}-{wanted.kind}.{'png' if drawn else 'json'}"),
        "cache-control": FOR_GOOD if for_good else UNTIL_ASKED,
        "etag": wanted.etag,
        "x-fal-request-id": str(row["id"]),
    }
    if names(wanted.etag, request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        return headers_only(headers)
    file = await renditions.render(request.state.context.storage, wanted)
    headers["content-length"] = str(os.fstat(file.fileno()).st_size)
    return StreamingResponse(_chunks(file), headers=headers)


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
