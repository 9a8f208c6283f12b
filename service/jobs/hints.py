"""Headers by which a client of fal's says how its job is to be run; they go on to the provider as they came."""

import msgspec

START_TIMEOUT = "x-fal-request-timeout"
TAGS = "x-fal-tags"
SENT_ON = (
    "x-fal-runner-hint",
    "x-fal-object-lifecycle-preference",
    "x-fal-store-io",
    "x-fal-no-retry",
    "x-fal-retry-config",
    TAGS,
    "x-fal-disable-fallbacks",
    "x-app-fal-disable-fallback",
)

# fal takes no shorter one.
SHORTEST_START_TIMEOUT = 0.1


def left_of(hints: str, waited: float) -> dict[str, str] | None:
    """The headers for a submission now, of a job that waited so many seconds. None: its time to start is over."""
    headers = msgspec.json.decode(hints, type=dict[str, str])
    if START_TIMEOUT in headers:
        left = float(headers[START_TIMEOUT]) - waited
        if left <= 0:
            return None
        headers[START_TIMEOUT] = f"{max(SHORTEST_START_TIMEOUT, left):.3f}"
    return headers
