"""Fetching a file that an output names: a capped stream, from a data URI or over HTTP, hop by hop."""

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from urllib.parse import unquote_to_bytes

import httpx

from service.network import AddressRefused

MAX_HOPS = 3
GONE = {403, 404, 410}
WORTH_ANOTHER_TRY = {408, 425, 429}


class DownloadFailed(Exception):
    """No file, or not the whole of it.

    The reason is fit for clients: blocked, refused and silent addresses read alike, so that nobody can map a
    network with it; the exception's cause says more to the log.
    """

    def __init__(
        self, reason: str, *, status: int | None = None, retryable: bool = False, refused: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.retryable = retryable
        self.refused = refused

    @property
    def gone(self) -> bool:
        """Whether the link is dead; a CDN may also say so about a file that it does not have yet."""
        return self.status in GONE


async def fetch(http: httpx.AsyncClient, url: str, max_bytes: int, timeout: float) -> AsyncGenerator[bytes]:
    """Yield the file's bytes; `timeout` is for all of it. What may be reached is the client's guard to say."""
    if url[:5].lower() == "data:":
        yield _decoded(url, max_bytes)
        return
    deadline = asyncio.get_running_loop().time() + timeout
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout_at(deadline):
                response = await _answer(http, url, stack)
            _check(response, max_bytes)
            received, body = 0, response.aiter_raw()
            while True:
                # The deadline is around each wait and never around a yield: the reader's time is not ours to cut.
                async with asyncio.timeout_at(deadline):
                    chunk = await anext(body, None)
                if chunk is None:
                    return
                received += len(chunk)
                if received > max_bytes:
                    raise _too_large(max_bytes)
                yield chunk
        except (httpx.TransportError, TimeoutError) as error:
            words = "the file could not be fetched from its address"
            raise DownloadFailed(words, retryable=True, refused=_is_refused(error)) from error


async def _answer(http: httpx.AsyncClient, url: str, stack: AsyncExitStack) -> httpx.Response:
    """Follow redirects by hand: each hop is looked at again, and carries nothing from the one before."""
    for _ in range(MAX_HOPS + 1):
        if not url.lower().startswith(("http://", "https://")):
            raise DownloadFailed("the file's address is not an http or https address")
        try:
            response = await http.send(http.build_request("GET", url), stream=True, follow_redirects=False)
        # Of the address, or of where it redirects to; an `xn--` that spells no name is a UnicodeError.
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise DownloadFailed("the file's address is not valid") from error
        stack.push_async_callback(response.aclose)
        if response.next_request is None:
            return response
        await response.aclose()
        url = str(response.next_request.url)
    raise DownloadFailed(f"the file's address redirects more than {MAX_HOPS} times")


def _check(response: httpx.Response, max_bytes: int) -> None:
    status = response.status_code
    if status != httpx.codes.OK:
        retryable = status >= 500 or status in WORTH_ANOTHER_TRY
        raise DownloadFailed(f"the file's host answered {status}", status=status, retryable=retryable)
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise DownloadFailed("the file came compressed, which was not asked for")
    length = response.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)


def _is_refused(error: BaseException | None) -> bool:
    """Whether it was our own guard that let nobody connect there."""
    return error is not None and (isinstance(error, AddressRefused) or _is_refused(error.__cause__))


def _decoded(url: str, max_bytes: int) -> bytes:
    head, comma, payload = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise DownloadFailed("the data URI is not base64")
    escaped = "%" in payload
    if len(payload) > 4 * -(-max_bytes // 3) * (3 if escaped else 1):  # four characters hold three bytes
        raise _too_large(max_bytes)
    try:
        content = base64.b64decode(unquote_to_bytes(payload) if escaped else payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DownloadFailed("the data URI is not valid base64") from error
    if len(content) > max_bytes:
        raise _too_large(max_bytes)
    return content


def _too_large(max_bytes: int) -> DownloadFailed:
    return DownloadFailed(f"the file is larger than {max_bytes:,} bytes")
