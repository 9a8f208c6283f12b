"""Deleting a job, and holding one so that nothing of it is removed."""

from starlette.requests import Request
from starlette.responses import Response

from service.context import Context
from service.errors import Conflict, NotFound
from service.requests import authenticate, find_job
from service.retention import removing
from service.retention.parts import Keep, Part


async def delete_job(request: Request) -> Response:
    """204 when the job is gone, with all that only it referred to; 409 while it has not ended, or is on hold."""
    context: Context = request.state.context
    job_id = await find_job(request, await authenticate(request, "submit"))
    if not await removing.remove(context.db, [job_id], Part.JOB, Keep.NOTHING, even_if_calling=True):
        held = await removing.is_held(context.db, job_id)
        words = "The job is on hold; end that first." if held else "The job has not ended; cancel it, or wait a moment."
        raise Conflict(words, request_id=str(job_id))
    return Response(status_code=204, headers={"x-fal-request-id": str(job_id)})


async def hold_job(request: Request) -> Response:
    """204: nothing of the job is removed until the hold ends."""
    context: Context = request.state.context
    job_id = await find_job(request, await authenticate(request, "submit"))
    if not await removing.hold(context.db, job_id):
        raise NotFound("There is no such job.")
    return Response(status_code=204, headers={"x-fal-request-id": str(job_id)})


async def release_job(request: Request) -> Response:
    """204: the tenant's rules of retention hold for it again. That may remove at once what is old enough."""
    context: Context = request.state.context
    job_id = await find_job(request, await authenticate(request, "submit"))
    await removing.release(context.db, job_id)
    return Response(status_code=204, headers={"x-fal-request-id": str(job_id)})
