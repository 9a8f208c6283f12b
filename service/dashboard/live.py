"""What tells an open page that it is no longer current: server-sent events, without a word of what changed."""

from collections.abc import AsyncGenerator
from time import monotonic

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from service.dashboard.access import NotSignedIn, Viewer, signed_in
from service.db import DatabaseAway
from service.jobs.waiting import Waiting, wait_for

# So often is it looked whether the session still holds; a stream itself keeps none alive.
LOOK_SECONDS = 4.0

HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no", "x-content-type-options": "nosniff"}


async def stream_changes(request: Request) -> Response:
    """`change` when any job has changed that the viewer may see, at most every two seconds.

    `signed-out` when the session is over; then the stream ends.
    """
    viewer = await signed_in(request, in_use=False)
    if request.method == "HEAD":
        return Response(headers=HEADERS, media_type="text/event-stream")
    return StreamingResponse(_changes(request, viewer), headers=HEADERS, media_type="text/event-stream")


async def _changes(request: Request, viewer: Viewer) -> AsyncGenerator[bytes]:
    waiting: Waiting = request.state.waiting
    async with waiting.on_all(viewer.tenant_id) as changed:
        # A browser that lost the stream comes back after this long.
        yield b"retry: 3000\n\n"
        looked = monotonic()
        while not (waiting.stopped or await request.is_disconnected()):
            has_changed = await wait_for(changed, LOOK_SECONDS)
            if monotonic() - looked >= LOOK_SECONDS:
                looked = monotonic()
                if not await _still_there(request, viewer):
                    yield b"event: signed-out\ndata: {}\n\n"
                    return
            yield b"event: change\ndata: {}\n\n" if has_changed and not waiting.stopped else b": ping\n\n"


async def _still_there(request: Request, viewer: Viewer) -> bool:
    """With the same rights; who has others now begins anew."""
    try:
        return await signed_in(request, in_use=False) == viewer
    except NotSignedIn:
        return False
    except DatabaseAway:
        return True  # Nothing changes that could be told.
