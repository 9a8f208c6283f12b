"""The bodies of the queue's answers, and the answers that are none."""

import asyncio
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.sandbox.queue import Entry, Queue


def addresses(entry: Entry, public_url: str) -> dict[str, str]:
    base = f"{public_url}/{entry.app}/requests/{entry.id}"
    return {"response_url": base, "status_url": f"{base}/status", "cancel_url": f"{base}/cancel"}


def submit_body(entry: Entry, public_url: str, ahead: int) -> dict[str, Any]:
    return {
        "status": "IN_QUEUE",
        "request_id": entry.id,
        "gateway_request_id": entry.gateway_id,
        "queue_position": ahead,
        **addresses(entry, public_url),
    }


def status_body(entry: Entry, queue: Queue, public_url: str, logs: list[dict[str, Any]] | None) -> dict[str, Any]:
    body: dict[str, Any] = {"status": entry.state, "request_id": entry.id, **addresses(entry, public_url), "logs": logs}
    if entry.state == "IN_QUEUE":
        body["queue_position"] = queue.position(entry)
    if entry.outcome is not None:
        seconds = entry.outcome.inference_seconds
        body["metrics"] = {} if seconds is None else {"inference_time": seconds}
        if entry.outcome.error is not None:
            body |= {"error": entry.outcome.error, "error_type": entry.outcome.error_type}
    return body


class Cut(Response):
    """Begins an answer and lets go of the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"999")]})


class Silence(Cut):
    """Says nothing until the client hangs up, or for so long."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message: Message = {}
        try:
            async with asyncio.timeout(self._seconds):
                while message.get("type") != "http.disconnect":
                    message = await receive()
        except TimeoutError:
            await super().__call__(scope, receive, send)
