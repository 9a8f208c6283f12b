"""The one way out over HTTP: httpx's API on aiohttp's connections, and the guard for addresses that strangers name."""

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache, partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from time import time
from typing import Any, Protocol

import aiohttp
import httpx
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult
from httpx_aiohttp import AiohttpTransport

from service import __version__
from service.names import NobodyToAsk, StrangersResolver, literal_address

MAX_URL_LENGTH = 2048
UNREACHABLE = "must be reachable from the internet (ROUNDTRIP_ALLOW_PRIVATE_NETWORKS lets private addresses in)"
NOBODYS = "must not be a link-local, multicast or otherwise reserved address"

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
SocketAddress = tuple[int, int, int, str, tuple[str | int, ...]]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(names: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(name) for name in names.split())


# This host and site networks: ROUNDTRIP_ALLOW_PRIVATE_NETWORKS opens these and no others.
PRIVATE = _networks(
    """0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 172.16.0.0/12 192.168.0.0/16
    ::/128 ::1/128 fc00::/7"""
)
# Never a place for a client's webhook or a provider's file: link-local, multicast, documentation, benchmarks, relays,
# reserved. A cloud's own agents, which tell secrets to whoever asks, are among link-local addresses, public-looking
# ones (168.63.129.16 of Azure) and site ones (100.100.100.200 of Alibaba, fd00:ec2:: of AWS, fd20:ce:: of Google).
FORBIDDEN = _networks(
    """100.100.100.200/32 168.63.129.16/32 169.254.0.0/16 192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24
    192.88.99.0/24 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
    2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20
    fd00:ec2::/32 fd20:ce::/32"""
)
# All of IPv6 that is handed out for the public lies in here, so everything outside needs no list.
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# An interface that tunnels to the IPv4 address in its last 32 bits.
ISATAP = {0x00005EFE, 0x02005EFE}

# Ports below 1024 belong to services that are not the web's; a POST to one of them is mischief.
WEB_PORTS = {80, 443}
FIRST_FREE_PORT = 1024


class AddressRefused(OSError):
    """The guard does not let anybody connect there."""


class NotTried(httpx.ConnectError):
    """No connection was tried, for a reason of our own: it says nothing about who was to be reached."""


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """Which addresses may be reached.

    `trusted_hosts` are what the operator configured himself, as `host` or, better, `host:port` (see `authority`);
    they may resolve to anything.
    """

    allow_private: bool = False
    trusted_hosts: frozenset[str] = frozenset()

    def trusts(self, host: str, port: int) -> bool:
        host = host.lower().rstrip(".")
        name = f"[{host}]" if ":" in host else host
        return not self.trusted_hosts.isdisjoint({name, f"{name}:{port}"})

    def allows(self, address: str) -> bool:
        try:
            return all(self._allows(each) for each in _led_to(ipaddress.ip_address(address)))
        except ValueError:
            return False

    def _allows(self, address: IPAddress) -> bool:
        if any(address in network for network in FORBIDDEN):
            return False
        if any(address in network for network in PRIVATE):
            return self.allow_private
        return address.version == 4 or address in GLOBAL_UNICAST


def _led_to(address: IPAddress) -> tuple[IPAddress, ...]:
    """Where an address really leads: a mapped or a NAT64 one to an IPv4 address, an ISATAP one possibly to both.

    Teredo and 6to4 are forbidden whole.
    """
    if not isinstance(address, ipaddress.IPv6Address):
        return (address,)
    inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped is not None or address in NAT64:
        return (inner,)
    return (address, inner) if (int(address) >> 32) & 0xFFFFFFFF in ISATAP else (address,)


def authority(url: str) -> str:
    """`host:port` of an address, as `AddressGuard.trusted_hosts` takes it."""
    parsed = yarl.URL(url)
    host = (parsed.raw_host or "").rstrip(".")
    return f"[{host}]:{parsed.port}" if ":" in host else f"{host}:{parsed.port}"


def check_webhook_url(url: str, allow_private: bool) -> None:
    """Refuse, in words for the client, what could never be called back; names are resolved only when called."""
    if len(url) > MAX_URL_LENGTH:
        raise ValueError(f"must be at most {MAX_URL_LENGTH:,} characters long")
    if not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("must not contain spaces, backslashes or control characters")
    try:
        parsed = httpx.URL(url)
        _ = parsed.host  # An `xn--` that spells no name shows only when it is read.
        target = yarl.URL(str(parsed))  # as aiohttp will read it
    except (httpx.InvalidURL, ValueError):
        raise ValueError("must be a valid address") from None
    host = (target.raw_host or "").rstrip(".")
    if target.scheme not in {"http", "https"}:
        raise ValueError("must be an http or https address")
    if not host or "%" in host or not target.port:
        raise ValueError("must name a host")
    if parsed.userinfo:
        raise ValueError("must not contain a user name or password")
    if not allow_private and target.port < FIRST_FREE_PORT and target.port not in WEB_PORTS:
        raise ValueError(f"must use port 80, port 443, or one from {FIRST_FREE_PORT} on")
    literal = literal_address(host)
    if literal is not None and not AddressGuard(allow_private=True).allows(literal):
        raise ValueError(NOBODYS)
    if literal is not None and not AddressGuard(allow_private).allows(literal):
        raise ValueError(UNREACHABLE)
    if not allow_private and (host == "localhost" or host.endswith(".localhost")):
        raise ValueError(UNREACHABLE)


class GuardedResolver(AbstractResolver):
    """Resolves once and answers only if every address is allowed, so that what was checked is what is connected."""

    def __init__(self, guard: AddressGuard, resolver: AbstractResolver) -> None:
        self._guard = guard
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        answers = await self._resolver.resolve(host, port, family)
        if not answers or not all(self._guard.allows(answer["host"]) for answer in answers):
            raise AddressRefused(f"{host} leads to an address that is not allowed")
        return answers

    async def close(self) -> None:
        await self._resolver.close()


def guarded_socket(guard: AddressGuard, address: SocketAddress) -> socket.socket:
    """The last word, where the socket is made: about an IP literal aiohttp asks no resolver."""
    family, kind, protocol, _, target = address
    if not guard.allows(str(target[0])):
        raise AddressRefused("the address is not allowed")
    return socket.socket(family, kind, protocol)


# The mapping of httpx_aiohttp calls a dropped connection ConnectTimeout. Whether a request may have arrived decides
# if it may be sent again, so: ConnectError and ConnectTimeout only when no connection ever stood.
_ERRORS: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (aiohttp.ClientConnectorError, httpx.ConnectError),
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout),
    (aiohttp.ClientConnectionError, httpx.ReadError),
    (aiohttp.ClientPayloadError, httpx.ReadError),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol),
    (aiohttp.NonHttpUrlClientError, httpx.UnsupportedProtocol),
    (aiohttp.ClientError, httpx.RemoteProtocolError),
)


@contextlib.contextmanager
def _honest_errors() -> Iterator[None]:
    try:
        yield
    except (httpx.TransportError, aiohttp.ClientError) as error:
        cause = error.__cause__ if isinstance(error, httpx.TransportError) else error
        if isinstance(cause, aiohttp.ClientConnectorError) and isinstance(cause.os_error, NobodyToAsk):
            raise NotTried(str(cause)) from cause
        for kind, honest in _ERRORS:
            if isinstance(cause, kind):
                raise honest(str(cause) or kind.__name__) from cause
        raise


class _Body(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _honest_errors():
            async for chunk in self._stream:
                yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class TooMuch(Exception):
    """An answer that is larger than anybody should have to keep."""


class Answer(Protocol):
    """What is read of an answer; httpx's Response has it, too."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def content(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Read:
    """An answer that was read at once."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes


class _Transport(AiohttpTransport):
    def session_for(self, _: yarl.URL) -> aiohttp.ClientSession:
        if not isinstance(self.client, aiohttp.ClientSession):
            self.client = self.get_client()
        return self.client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.userinfo:  # httpx made a header of it, and aiohttp will not have both
            request.url = request.url.copy_with(userinfo=b"")
        with _honest_errors():
            response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Body(response.stream)
        return response


class _GuardedTransport(httpx.AsyncBaseTransport):
    """Two pools, so that a connection to a trusted host is never lent to anybody else."""

    def __init__(self, guard: AddressGuard, trusted: _Transport, guarded: _Transport) -> None:
        self._guard = guard
        self._trusted = trusted
        self._guarded = guarded

    def _pool(self, url: yarl.URL) -> _Transport:
        return self._trusted if self._guard.trusts(url.raw_host or "", url.port or 0) else self._guarded

    def session_for(self, url: yarl.URL) -> aiohttp.ClientSession:
        return self._pool(url).session_for(url)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            url = yarl.URL(str(request.url))  # read as aiohttp will read it, not as httpx did
        except ValueError as error:
            raise httpx.UnsupportedProtocol(str(error)) from error
        return await self._pool(url).handle_async_request(request)

    async def aclose(self) -> None:
        await self._trusted.aclose()
        await self._guarded.aclose()


class Client(httpx.AsyncClient):
    """httpx's client, and a leaner way over the same connections for what is sent and read whole, a thousand times."""

    def __init__(self, transport: _Transport | _GuardedTransport, **options: Any) -> None:
        super().__init__(transport=transport, **options)
        self._connections = transport
        self._always = dict(self.headers)
        self._limits = aiohttp.ClientTimeout(
            connect=self.timeout.pool, sock_connect=self.timeout.connect, sock_read=self.timeout.read
        )

    async def exchange(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None, limit: int
    ) -> Read:
        """One request and its whole answer, without cookies, redirects or httpx's own objects around it.

        Names of headers in small letters. Raises httpx.TransportError, or TooMuch beyond `limit` bytes.
        """
        sent = {**self._always, **headers}
        with _honest_errors():
            try:
                target = yarl.URL(url)
            except ValueError as error:
                raise httpx.UnsupportedProtocol(str(error)) from error
            if target.user is not None or target.password is not None:
                sent["authorization"] = aiohttp.encode_basic_auth(target.user or "", target.password or "")
                target = target.with_user(None)
            async with self._connections.session_for(target).request(
                method, target, headers=sent, data=content, allow_redirects=False, timeout=self._limits
            ) as answer:
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        raise TooMuch
        return Read(answer.status, answer.headers, bytes(body))


def retry_after(response: Answer) -> float | None:
    """Seconds that a `Retry-After` header asks for, as a number or as a date."""
    value = response.headers.get("retry-after", "")
    if value.isascii() and value.isdecimal():
        return min(float(value), 86_400.0)
    try:
        return min(max(parsedate_to_datetime(value).timestamp() - time(), 0.0), 86_400.0)
    except (TypeError, ValueError, OverflowError):
        return None  # It is no date, or one that no clock will see.


@cache
def trusted_certificates() -> ssl.SSLContext:
    """Of certifi and of this machine."""
    tls = httpx.create_ssl_context(trust_env=False)
    tls.load_default_certs()
    return tls


def open_http(
    *,
    guard: AddressGuard | None,
    resolver: AbstractResolver | None = None,
    connect_seconds: float = 10.0,
    read_seconds: float = 30.0,
    max_connections: int = 100,
    keepalive_seconds: float = 30.0,
) -> Client:
    """A client for the operator's own addresses (no guard) or for strangers' (a guard); close it when done."""
    tls = trusted_certificates()

    def session(guard: AddressGuard | None) -> aiohttp.ClientSession:
        names = resolver or (StrangersResolver() if guard else aiohttp.ThreadedResolver())
        connector = aiohttp.TCPConnector(
            resolver=GuardedResolver(guard, names) if guard else names,
            socket_factory=partial(guarded_socket, guard) if guard else None,
            ssl=tls,
            limit=max_connections,
            keepalive_timeout=keepalive_seconds,
        )
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)

    def transport(guard: AddressGuard | None) -> _Transport:
        return _Transport(verify=tls, client=partial(session, guard))

    return Client(
        _GuardedTransport(guard, transport(None), transport(guard)) if guard else transport(None),
        # aiohttp's time for a connection from its pool includes making it, so that limit is the connect limit.
        timeout=httpx.Timeout(read_seconds, connect=connect_seconds, pool=connect_seconds),
        headers={"User-Agent": f"roundtrip/{__version__}", "Accept-Encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
    )
