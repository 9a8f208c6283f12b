"""What the HTTP server itself takes from strangers: uvicorn sets no limit to headers."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD = 64 * 1024
MOST_HEADERS = 100

# Connections at a time, those of waiting clients and open streams among them; more are answered 503.
MOST_CONNECTIONS = 4_000


class HeadTooLarge(Exception):
    """Ends the request with a 400."""


class LimitedProtocol(HttpToolsProtocol):
    """Counts a request's head while it comes."""

    _head_bytes = 0
    _head_lines = 0

    def on_message_begin(self) -> None:
        self._head_bytes = self._head_lines = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_lines += 1
        self._count(name + value)
        super().on_header(name, value)

    def _count(self, part: bytes) -> None:
        self._head_bytes += len(part)
        if self._head_bytes > LARGEST_HEAD or self._head_lines > MOST_HEADERS:
            raise HeadTooLarge
