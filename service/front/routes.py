"""The door's URL map, under /fal. A request's own addresses come first: a model's ID may have any number of parts."""

from collections.abc import Callable
from typing import Any

from starlette.routing import Route

from service.front import cancelling, results, running, statuses, submitting, uploads
from service.front.addresses import PREFIX
from service.front.proxy import Proxy


def both(path: str, endpoint: Callable[..., Any], *methods: str) -> list[Route]:
    """fal answers with and without a slash at the end."""
    return [Route(f"{path}{end}", endpoint, methods=list(methods) or None) for end in ("", "/")]


REQUEST = "/queue/{app:path}/requests/{request_id}"
TICKET = "/cdn/uploads/{ticket}"
PARTS = "/cdn/files/{upload}/{name}/multipart/{ticket}"

# What fal's clients ask for ten times a second: under its whole path, before any other route is looked at.
status_routes = both(f"{PREFIX}{REQUEST}/status", statuses.show_status, "GET")

routes = [
    *both(f"{REQUEST}/status", statuses.show_status, "GET"),
    *both(f"{REQUEST}/status/stream", statuses.stream_status, "GET"),
    *both(f"{REQUEST}/cancel", cancelling.cancel, "PUT"),
    *both(f"{REQUEST}/response", results.show_result, "GET"),
    *both(REQUEST, results.show_result, "GET"),
    Route("/queue/{model:path}", submitting.submit, methods=["POST"]),
    *both("/run/{model:path}/stream", running.stream, "GET", "POST"),
    Route("/run/{model:path}", running.run, methods=["GET", "POST"]),
    *both("/rest/storage/upload/initiate", uploads.initiate, "POST"),
    *both("/rest/storage/upload/initiate-multipart", uploads.initiate, "POST"),
    *both("/rest/storage/auth/token", uploads.give_token, "POST"),
    Route(TICKET, uploads.receive, methods=["PUT"]),
    Route(f"{TICKET}/complete", uploads.complete, methods=["POST"]),
    Route(f"{TICKET}/{{part:int}}", uploads.receive_part, methods=["PUT"]),
    Route("/cdn/files/upload", uploads.upload, methods=["POST"]),
    Route("/cdn/files/upload/multipart", uploads.begin_multipart, methods=["POST"]),
    Route(f"{PARTS}/complete", uploads.complete, methods=["POST"]),
    Route(f"{PARTS}/{{part:int}}", uploads.receive_part, methods=["PUT"]),
    Route("/cdn/files/{upload}/{name}", uploads.serve, methods=["GET"]),
    *both("/proxy", Proxy()),
]
