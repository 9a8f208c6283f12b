"""PUT …/cancel, with fal's four answers; the fourth is that there is no such request."""

from starlette.requests import Request
from starlette.responses import Response

from service.front.errors import AlreadyCompleted
from service.front.statuses import find_request
from service.jobs import operations
from service.jobs.lifecycle import LIVE, Status
from service.requests import answer, authenticate


async def cancel(request: Request) -> Response:
    """200 when the request will not run, 202 when its provider is asked to stop it, 400 when it had ended."""
    caller = await authenticate(request, "submit")
    found = await find_request(request, caller)
    request_id = found["id"]
    if not await operations.cancel(request.state.context, request_id):
        raise AlreadyCompleted(request_id=str(request_id))
    now = await find_request(request, caller)
    if now["status"] in LIVE:
        return answer({"status": "CANCELLATION_REQUESTED"}, 202, request_id=request_id)
    if now["status"] != Status.CANCELLED:
        raise AlreadyCompleted(request_id=str(request_id))
    return answer({"status": "OK"}, request_id=request_id)
