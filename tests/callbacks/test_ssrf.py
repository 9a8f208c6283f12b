"""No address that a stranger names leads to where he must not go, and no packet leaves the loopback to prove it."""

import re
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address

import httpx
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from service import network
from service.callbacks.posting import UNREACHED, post
from service.network import AddressGuard, check_webhook_url, open_http
from tests.artifacts.canned import answer, answering
from tests.callbacks.receiver import receiving
from tests.callbacks.spellings import HOSTS, LOOPBACK, NAMES, NEVER, PORTS_OF_OTHERS, SITE
from tests.packets import none_leaves
from tests.provider import Reply

STRICT = AddressGuard()
LENIENT = AddressGuard(allow_private=True)


class Names(AbstractResolver):
    """A name server in this process. Spelled-out addresses are read as the C library does."""

    def __init__(self) -> None:
        self.left = {name: [*answers] for name, answers in NAMES.items()}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        answers = self.left.get(host.rstrip(".").lower()) or [[spelled_out(host)]]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=each,
                port=port,
                family=socket.AF_INET6 if ":" in each else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for each in found
        ]

    async def close(self) -> None:
        return


def spelled_out(host: str) -> str:
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return "127.0.0.1"


def test_the_list_is_long_enough_and_says_nothing_twice() -> None:
    assert len({*HOSTS, *NAMES}) == len(HOSTS) + len(NAMES)
    assert len(HOSTS) + len(NAMES) >= 150


@pytest.mark.parametrize("host", HOSTS)
def test_no_spelling_is_taken_at_registration(host: str) -> None:
    with none_leaves(), pytest.raises(ValueError, match="must"):
        check_webhook_url(f"http://{host}:8080/hook", allow_private=False)


@pytest.mark.parametrize("host", NEVER)
def test_some_are_not_taken_whatever_the_operator_allows(host: str) -> None:
    with pytest.raises(ValueError, match="must"):
        check_webhook_url(f"http://{host}/hook", allow_private=True)


@pytest.fixture(scope="module")
async def strict() -> AsyncIterator[httpx.AsyncClient]:
    async with open_http(guard=STRICT, resolver=Names()) as http:
        yield http


@pytest.fixture(scope="module")
async def lenient() -> AsyncIterator[httpx.AsyncClient]:
    """Of an operator who lets callbacks go to private networks."""
    async with open_http(guard=LENIENT, resolver=Names()) as http:
        yield http


async def tried(http: httpx.AsyncClient, url: str) -> str | None:
    """What the client is told of a callback there. It was stored before anybody looked at it so closely."""
    with none_leaves():
        return (await post(http, url, b"{}", {}, 0)).error


@pytest.mark.parametrize("host", [*HOSTS, *NAMES])
async def test_no_spelling_and_no_name_is_connected_to(strict: httpx.AsyncClient, host: str) -> None:
    async with answering(answer(b"secret")) as server:
        assert await tried(strict, f"http://{host}:{server.port}/latest/meta-data") == UNREACHED
    assert server.connections == 0


@pytest.mark.parametrize("host", [*NEVER, "metadata.google.internal", "metadata.six.example"])
async def test_leave_to_reach_the_site_is_no_leave_to_reach_metadata(lenient: httpx.AsyncClient, host: str) -> None:
    assert await tried(lenient, f"http://{host}:8080/latest/meta-data") == UNREACHED


async def test_a_name_is_asked_for_once_and_what_was_checked_is_connected_to(lenient: httpx.AsyncClient) -> None:
    """Its second answer would be a public address; the connection goes to the first, which was allowed here."""
    async with receiving() as receiver:
        port = receiver.url.rpartition(":")[2]
        assert await tried(lenient, f"http://rebinding.example:{port}/") is None
    assert [call.headers["host"] for call in receiver.calls] == [f"rebinding.example:{port}"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/", "//127.0.0.1:{port}/", "http://[::1]:{port}/", "/in"])
async def test_a_redirect_leads_nowhere(lenient: httpx.AsyncClient, status: int, target: str) -> None:
    async with answering(answer(b"secret")) as secret:
        there = target.format(port=secret.port)
        async with receiving(Reply(status, b"", {"location": there})) as receiver:
            assert "redirect" in str(await tried(lenient, receiver.url))
        assert len(receiver.calls) == 1
    assert secret.connections == 0


@pytest.mark.parametrize("port", PORTS_OF_OTHERS)
def test_the_ports_of_other_services_are_refused(port: int) -> None:
    with pytest.raises(ValueError, match="port"):
        check_webhook_url(f"https://hooks.example:{port}/", allow_private=False)
    check_webhook_url(f"https://hooks.example:{port}/", allow_private=True)


@pytest.mark.parametrize("url", ["https://hooks.example/", "http://hooks.example:80/", "https://hooks.example:8443/x"])
def test_the_webs_own_ports_are_taken(url: str) -> None:
    check_webhook_url(url, allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "ftp://hooks.example/",
        "unix:///var/run/docker.sock",
        "http+unix://%2Fvar%2Frun%2Fdocker.sock/containers/json",
        "data:text/plain,x",
        "javascript:alert(1)",
        "http:127.0.0.1/",
        "http:/127.0.0.1/",
        "http:///127.0.0.1/",
        "//127.0.0.1/",
        "http://",
        "http://:8080/",
        "http://hooks.example:0/",
        "http://hooks.example:99999/",
        "http://hooks.example:8o8o/",
        "http://hooks.example:80:80/",
        "http://[::1/",
        "http://hooks.example\n127.0.0.1/",
        "http://127.0.0.1 hooks.example/",
        "http://hooks.example\t@127.0.0.1/",
        "http://[v1.127.0.0.1]/",
        "http://xn--n3h.example/",
    ],
)
async def test_what_is_no_address_of_the_web_is_refused_twice(strict: httpx.AsyncClient, url: str) -> None:
    with pytest.raises(ValueError, match="must"):
        check_webhook_url(url, allow_private=False)
    assert await tried(strict, url) == UNREACHED


def verdicts() -> dict[str, tuple[bool, bool]]:
    """Of every address of the list that is written plainly, what a strict and a lenient operator's guard say."""
    plain = {host.strip("[]") for host in HOSTS}
    return {host: (STRICT.allows(host), LENIENT.allows(host)) for host in plain if is_plain(host)}


def is_plain(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def test_every_plain_address_of_the_list_has_the_verdict_of_its_group() -> None:
    said = verdicts()
    assert len(said) > 70
    assert set(said.values()) == {(False, False), (False, True)}
    site = {host for host, pair in said.items() if pair == (False, True)}
    assert site <= {host.strip("[]") for host in (*LOOPBACK, *SITE)}


@pytest.mark.parametrize("kind", ["PRIVATE", "FORBIDDEN"])
def test_no_range_can_be_taken_off_a_list_unnoticed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them decides of an address above, so that the tests above turn red without it."""
    before = verdicts()
    ranges = getattr(network, kind)
    unnoticed = []
    for each in ranges:
        with monkeypatch.context() as patch:
            patch.setattr(network, kind, tuple(other for other in ranges if other != each))
            if verdicts() == before:
                unnoticed.append(str(each))
    assert unnoticed == []


@pytest.mark.parametrize(("name", "value"), [("GLOBAL_UNICAST", "::/0"), ("NAT64", "::/128"), ("ISATAP", None)])
def test_no_rule_of_ipv6_can_be_weakened_unnoticed(
    name: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = verdicts()
    monkeypatch.setattr(network, name, network.ipaddress.ip_network(value) if value else set())
    assert verdicts() != before


async def test_the_watch_over_packets_does_see_one() -> None:
    async def look() -> None:
        with none_leaves():
            async with open_http(guard=None, connect_seconds=2) as http:
                await post(http, "http://192.0.2.1/", b"{}", {}, 0)

    with pytest.raises(AssertionError, match=re.escape("192.0.2.1")):
        await look()
