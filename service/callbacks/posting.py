"""One try: a POST to an address that a stranger named, and what its answer means."""

import asyncio
from collections.abc import Mapping
from time import monotonic

import httpx

from service.callbacks.lifecycle import CallbackState
from service.callbacks.records import Tried
from service.callbacks.schedule import pause_after
from service.network import NotTried, retry_after

LIMIT_SECONDS = 15.0

# An answer is only read so that its connection can be used again.
LARGEST_ANSWER = 64 * 1024
READING_SECONDS = 1.0

# A receiver that takes longer is served beside the others.
SLOW_SECONDS = 2.0

# What speaks against the receiver as a whole, and not against this one address of it.
RECEIVERS_FAULT = {408, 425, 429}

# What asks for a pause of everything that is sent there.
HOLDS = {429, 503}

# Own congestion is no word of the receiver's; it is asked again soon.
CONGESTED_SECONDS = 5.0

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
    except (httpx.PoolTimeout, NotTried):
        return Tried(CallbackState.PENDING, monotonic() - begun, again_in=CONGESTED_SECONDS, counts=False)
    except (
        httpx.ConnectError,
        httpx.ConnectTimeout,
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
    hold = asked or 0.0 if status in HOLDS else 0.0
    return failed(seconds, tries, error, status=status, asked=asked, blames=blames, slow=slow, hold=hold)


def failed(
    seconds: float,
    tries: int,
    error: str | None,
    *,
    status: int | None = None,
    asked: float | None = None,
    blames: bool = False,
    slow: bool = False,
    hold: float = 0.0,
) -> Tried:
    """What follows when the `tries`th try came to nothing."""
    pause = pause_after(tries, asked)
    state = CallbackState.GIVEN_UP if pause is None else CallbackState.PENDING
    return Tried(state, seconds, status, error, pause or 0.0, blames, slow, hold)
