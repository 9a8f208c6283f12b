"""A port of ours: taken before anything starts, and kept while the process that serves it is started again."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from service.local.errors import Refused


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Port 0 is any free one."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Refused(f"cannot listen on {host}: {error.strerror}") from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
            listener.listen(2048)
        except OSError as error:
            raise Refused(f"cannot listen on {host} port {port}: {error.strerror}") from None
        yield listener


def address(listener: socket.socket) -> str:
    """The HTTP address under which this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
