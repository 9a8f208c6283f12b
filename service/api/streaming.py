"""A job's changes as server-sent events."""

from collections.abc import AsyncGenerator
from uuid import UUID

from starlette.requests import Request

from service.api import rendering
from service.context import Context
from service.jobs import reads
from service.jobs.waiting import Waiting, wait_for
from service.jsontext import encode
from service.keys import Caller
from service.requests import still_allowed

PING_SECONDS = 15.0


async def events(request: Request, caller: Caller, job_id: UUID, seen: int) -> AsyncGenerator[bytes]:
    """Each event of the job's history once, in order, then `end` with the job itself.

    A process that ends closes its streams before; their clients go on elsewhere with `Last-Event-ID`. A stream whose
    key was revoked ends at its next change or ping.
    """
    context: Context = request.state.context
    waiting: Waiting = request.state.waiting
    async with waiting.on(job_id) as changed:
        while not (waiting.stopped or await request.is_disconnected()) and await still_allowed(request, caller):
            # The end is looked for before the history, so that it is never told before its event.
            ended, _ = await reads.is_over(context.db, job_id)
            for event in await reads.events_of(context.db, job_id, after=seen):
                seen = event["id"]
                shown = rendering.event(event, words=caller.may("admin"), payloads=caller.may("read"))
                yield _line(event["event"], shown, seen)
            if ended:
                row = await reads.get(context.db, caller.tenant_id, job_id)
                if row is not None:
                    yield _line("end", await request.state.renderer.job(row, payloads=caller.may("read")), seen)
                return
            if not await wait_for(changed, PING_SECONDS):
                yield b": ping\n\n"


def _line(name: str, data: object, number: int) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, name.encode(), encode(data))
