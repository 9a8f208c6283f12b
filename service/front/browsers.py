"""Which pages of other origins may call the service from a browser."""

from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

METHODS = ("GET", "POST", "PUT", "DELETE")
HEADERS = (
    "accept",
    "authorization",
    "content-type",
    "idempotency-key",
    "last-event-id",
    "range",
    "x-app-fal-disable-fallback",
    "x-fal-client-proxy",
    "x-fal-disable-fallbacks",
    "x-fal-file-name",
    "x-fal-idempotency-key",
    "x-fal-no-retry",
    "x-fal-object-lifecycle",
    "x-fal-object-lifecycle-preference",
    "x-fal-queue-priority",
    "x-fal-request-start-timeout",
    "x-fal-request-timeout",
    "x-fal-retry-config",
    "x-fal-runner-hint",
    "x-fal-store-io",
    "x-fal-tags",
    "x-fal-target-url",
)
EXPOSED = ("etag", "retry-after", "x-fal-error-type", "x-fal-request-id", "x-fal-request-timeout-type")


def cross_origin(origins: Sequence[str]) -> list[Middleware]:
    """Nothing for no origins. Cookies are never meant: a page sends a key of its own."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=HEADERS,
            expose_headers=EXPOSED,
        )
    ]
