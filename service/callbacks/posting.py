"""One try: a POST to an address that a stranger named, and what its answer means."""

import asyncio
from collections.abc import Mapping
from time import monotonic

import httpx

from service.callbacks.lifecycle import CallbackState
from service.callbacks.records import Tried
from service.callbacks.schedule import pause_after
from service.network import retry_after

LIMIT_SECONDS = 15.0

# An answer is only read so that its connection can be used again.
LARGEST_ANSWER = 64 * 1024
READING_SECONDS = 1.0

# A receiver that takes longer is served beside the others.
SLOW_SECONDS = 2.0

# What speaks against the receiver as a whole, and not against this one address of it.
RECEIVERS_FAULT = {408, 425, 429}

# Addresses that are not allowed, names that do not exist and hosts that are away read alike: nobody learns from it
# what there is in a network.
UNREACHED = "The receiver could not be reached."
SILENT = f"The receiver did not answer within {LIMIT_SECONDS:g} s."
BROKEN_OFF = "The receiver broke the connection off."


async def post(http: httpx.AsyncClient, url: str, body: bytes, headers: Mapping[str, str], tries: int) -> Tried:
    """Make the `tries + 1`th try."""
    begun = monotonic()
    status: int | None = None
    error: str | None = None
    asked: float | None = None
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            request = http.build_request(
                "POST", url, content=body, headers={**headers, "Content-Type": "application/json"}
            )
            response = await http.send(request, stream=True)
        status, asked = response.status_code, retry_after(response)
        await _read(response)
    except (
        httpx.ConnectError,
        httpx.ConnectTimeout,
        httpx.PoolTimeout,
        httpx.UnsupportedProtocol,
        httpx.InvalidURL,
        UnicodeError,
    ):
        error = UNREACHED
    except (httpx.TimeoutException, TimeoutError):
        error = SILENT
    except httpx.TransportError:
        error = BROKEN_OFF
    return meaning(status, monotonic() - begun, tries + 1, asked=asked, error=error)


async def _read(response: httpx.Response) -> None:
    """The status has decided; whatever happens to the rest of the answer changes nothing."""
    read = 0
    try:
        async with asyncio.timeout(READING_SECONDS):
            async for chunk in response.aiter_raw():
                read += len(chunk)
                if read > LARGEST_ANSWER:
                    break
    except (httpx.TransportError, TimeoutError):
        pass
    finally:
        await response.aclose()


def meaning(
    status: int | None, seconds: float, tries: int, *, asked: float | None = None, error: str | None = None
) -> Tried:
    """What follows from the answer to the `tries`th try: only a 2xx is a success, and a 410 ends it."""
    slow = seconds > SLOW_SECONDS
    if status is not None and 200 <= status < 300:
        return Tried(CallbackState.DELIVERED, seconds, status, slow=slow)
    if status is not None and error is None:
        error = "The receiver redirects, which is not followed." if 300 <= status < 400 else f"HTTP {status}"
    if status == 410:
        return Tried(CallbackState.GONE, seconds, status, error, slow=slow)
    blames = status is None or status >= 500 or status in RECEIVERS_FAULT
    pause = pause_after(tries, asked)
    state = CallbackState.GIVEN_UP if pause is None else CallbackState.PENDING
    return Tried(state, seconds, status, error, pause or 0.0, blames, slow)
