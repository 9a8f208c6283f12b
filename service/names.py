"""Names that strangers give, looked up without a thread: a name server that is silent holds up its own names only."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import aiodns
import pycares
from aiodns.error import DNSError
from aiohttp.abc import AbstractResolver, ResolveResult

# A lookup that is not over by then has failed. A name server is asked twice within it.
LIMIT_SECONDS = 5.0
ASKED_TWICE_SECONDS = 1.5

# No name server of ours takes the question, which is no word about the name.
NOBODY_TO_ASK = {pycares.errno.ARES_ECONNREFUSED}


class NobodyToAsk(OSError):
    """The name servers of this machine are away."""


class StrangersResolver(AbstractResolver):
    """By this machine's hosts file and name servers, in the running loop; other sources of its own are not asked."""

    def __init__(self, servers: Sequence[str] | None = None, port: int | None = None) -> None:
        options: dict[str, Any] = {} if port is None else {"udp_port": port, "tcp_port": port}
        self._names = aiodns.DNSResolver(servers, timeout=ASKED_TWICE_SECONDS, tries=2, **options)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if (literal := literal_address(host)) is not None:
            return [_result(host, literal, port, socket.AF_INET6 if ":" in literal else socket.AF_INET)]
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                found = await self._names.getaddrinfo(host, family, port, type=socket.SOCK_STREAM)
        except DNSError as error:
            if error.args[0] in NOBODY_TO_ASK:
                raise NobodyToAsk(error.args[1]) from error
            raise OSError(f"{host} could not be looked up: {error.args[1]}") from error
        except TimeoutError as error:
            raise OSError(f"{host} could not be looked up in time") from error
        except UnicodeError as error:
            raise OSError(f"{host} is no name") from error
        return [_result(host, node.addr[0].decode(), port, socket.AddressFamily(node.family)) for node in found.nodes]

    async def close(self) -> None:
        await self._names.close()


def literal_address(host: str) -> str | None:
    """The address that a host spells, by the C library's reading too: `2130706433`, `0x7f.1`, `0177.1`."""
    if ":" in host:
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


def _result(name: str, address: str, port: int, family: socket.AddressFamily) -> ResolveResult:
    return ResolveResult(
        hostname=name,
        host=address,
        port=port,
        family=family,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
