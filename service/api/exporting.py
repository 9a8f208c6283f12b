"""All jobs that a filter means, streamed in batches: memory does not grow with their number."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from service.api.rendering import Renderer
from service.api.shapes import JobSummary
from service.api.tables import Parquet, csv_heading, csv_rows
from service.context import Context
from service.db import Row
from service.errors import Invalid, Unauthenticated
from service.jobs import lists
from service.jobs.filters import read_filter
from service.jsontext import encode
from service.keys import Caller
from service.requests import authenticate, headers_only, still_allowed

TYPES = {
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
PAGES = {"limit", "cursor"}


async def export_jobs(request: Request) -> Response:
    """Newest first. A client that goes away ends it, also while nothing is found; one that reads slowly holds it up."""
    caller = await authenticate(request, "read")
    context: Context = request.state.context
    query = request.query_params.multi_items()
    kinds = [value for name, value in query if name == "format"] or ["ndjson"]
    if len(kinds) > 1 or kinds[0] not in TYPES:
        raise Invalid.at("query", "format", msg=f"Must be one of {', '.join(TYPES)}.", kind="enum")
    if paged := [name for name, _ in query if name in PAGES]:
        raise Invalid.at("query", paged[0], msg="An export has no pages.", kind="extra_forbidden")
    wanted = read_filter([(name, value) for name, value in query if name != "format"])
    headers = {"content-disposition": f'attachment; filename="jobs.{kinds[0]}"', "cache-control": "no-store"}
    pages = while_there(request, caller, lists.pages(context.db, caller.tenant_id, wanted))
    chunks = export(pages, request.state.renderer, kinds[0])
    # What is wrong shows with the first of it, and then still has a status of its own.
    first = await anext(chunks)
    if request.method == "HEAD":
        await chunks.aclose()
        return headers_only({**headers, "content-type": TYPES[kinds[0]]})
    return StreamingResponse(_beginning_with(first, chunks), headers=headers, media_type=TYPES[kinds[0]])


async def while_there(request: Request, caller: Caller, pages: AsyncGenerator[list[Row]]) -> AsyncGenerator[list[Row]]:
    """Until the client has gone: where nothing is found, nothing is sent that would not reach him.

    Raises Unauthenticated when his key is revoked, which breaks off what was begun.
    """
    async with aclosing(pages):
        async for rows in pages:
            if await request.is_disconnected():
                return
            if not await still_allowed(request, caller):
                raise Unauthenticated
            yield rows


async def _beginning_with(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


async def export(pages: AsyncIterator[list[Row]], renderer: Renderer, kind: str) -> AsyncGenerator[bytes]:
    """At least one chunk, which may be empty. Rows are made into text on a thread, so that nobody waits for it."""
    parquet = Parquet() if kind == "parquet" else None
    heading = csv_heading() if kind == "csv" else b""

    def chunk(rows: Sequence[Row]) -> bytes:
        jobs = [renderer.summary(row) for row in rows]
        if parquet is not None:
            return parquet.add(jobs)
        return csv_rows(jobs) if kind == "csv" else _lines(jobs)

    async for rows in pages:
        if made := heading + await asyncio.to_thread(chunk, rows):
            yield made
        heading = b""
    yield heading + (await asyncio.to_thread(parquet.end) if parquet is not None else b"")


def _lines(jobs: Sequence[JobSummary]) -> bytes:
    return b"".join(encode(job) + b"\n" for job in jobs)
