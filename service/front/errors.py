"""What only this door says; each in fal's words, and in ours as everywhere."""

from typing import Any

from service.errors import BadRequest, NotFound, ServiceError


class UnknownRequest(NotFound):
    message = "There is no such request."

    def body(self) -> dict[str, Any]:
        return {"status": "NOT_FOUND", **super().body()}


class AlreadyCompleted(BadRequest):
    message = "The request has ended already."

    def body(self) -> dict[str, Any]:
        return {"status": "ALREADY_COMPLETED", **super().body()}


class QueueTooLong(ServiceError):
    """Nothing was registered, so that the client may try again."""

    status = 429
    error_type = "concurrent_requests_limit"
    message = "More requests are waiting than fal_max_queue_length allows."


class StillRunning(ServiceError):
    """The client is told not to repeat the call: the job goes on, and its result can be had from the queue."""

    status = 504
    error_type = "request_timeout"
    message = "The job did not end while this call waited for it; ask for it under /fal/queue."


class NotProxied(BadRequest):
    message = "x-fal-target-url must be an address of fal's queue, run, rest or CDN host."
