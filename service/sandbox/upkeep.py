"""What is not fal's queue: served files, signing keys, health, and what an operator or a test may ask."""

from collections import Counter
from dataclasses import asdict
from itertools import islice
from typing import Any

from starlette.responses import JSONResponse, Response

from service.sandbox.endpoints import SandboxRequest
from service.sandbox.failures import GatewayFailure
from service.sandbox.queue import Entry

LATEST = 100


async def healthz(request: SandboxRequest) -> Response:
    return JSONResponse({"status": "ok", **request.state["queue"].counts()})


async def jwks(request: SandboxRequest) -> Response:
    return JSONResponse(request.state["keys"].jwks())


async def rotate_keys(request: SandboxRequest) -> Response:
    request.state["keys"].rotate()
    return JSONResponse(request.state["keys"].jwks())


async def file(request: SandboxRequest) -> Response:
    stored = request.state["files"].get(request.path_params["path"])
    if stored is None:
        raise GatewayFailure(404, "not_found", "File not found")
    return Response(stored.data, media_type=stored.content_type, headers={"x-content-type-options": "nosniff"})


async def requests(request: SandboxRequest) -> Response:
    """Counts over all requests that are still held, and the latest of them one by one."""
    entries = request.state["queue"].entries
    by_webhook = Counter(entry.webhook_url for entry in entries.values() if entry.webhook_url)
    by_key = Counter(entry.knobs.key for entry in entries.values() if entry.knobs.key)
    by_model = Counter(entry.model for entry in entries.values())
    return JSONResponse(
        {
            "accepted": len(entries),
            **request.state["queue"].counts(),
            "accepted_by_model": by_model,
            "accepted_by_webhook": by_webhook,
            "accepted_by_key": by_key,
            "latest": [_told(entry) for entry in islice(reversed(entries.values()), LATEST)],
        }
    )


def _told(entry: Entry) -> dict[str, Any]:
    return {
        "request_id": entry.id,
        "gateway_request_id": entry.gateway_id,
        "model": entry.model,
        "status": entry.state,
        "submitted_at": entry.submitted_at,
        "webhook_url": entry.webhook_url,
        "knobs": entry.knobs.model_dump(exclude_defaults=True),
        "result_status": None if entry.outcome is None else entry.outcome.status,
        "deliveries": [asdict(delivery) for delivery in entry.deliveries],
    }
