"""The way out: what it sends, what it keeps, what its errors mean, and where it never goes."""

import datetime
import ipaddress
import socket
import ssl
from pathlib import Path

import httpx
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from service import __version__
from service.network import (
    AddressGuard,
    AddressRefused,
    GuardedResolver,
    TooMuch,
    authority,
    check_webhook_url,
    guarded_socket,
    open_http,
    retry_after,
)
from tests.artifacts.canned import answer, answering

PUBLIC = "93.184.215.14"
STRICT = AddressGuard()
LENIENT = AddressGuard(allow_private=True)

# First and last address of every range, written out by hand: taking a range off the list turns this red.
SITE = """0.0.0.0 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.0 127.255.255.255
172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255 :: ::1 fc00:: fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff
fd00:ec3::254 ::ffff:127.0.0.1 ::ffff:10.1.2.3 64:ff9b::7f00:1 64:ff9b::192.168.0.1""".split()  # noqa: SIM905
NEVER = """169.254.0.0 169.254.169.254 169.254.255.255 192.0.0.0 192.0.0.192 192.0.0.255 192.0.2.0 192.0.2.255
192.31.196.1 192.52.193.1 192.88.99.0 192.88.99.255 192.175.48.1 198.18.0.0 198.19.255.255 198.51.100.0
198.51.100.255 203.0.113.0 203.0.113.255 224.0.0.0 239.255.255.255 240.0.0.0 255.255.255.255 168.63.129.16
100.100.100.200 fd00:ec2::254 fd20:ce::254 2a00:1450::5efe:a9fe:a9fe 2a00:1450::200:5efe:a9fe:a9fe
fe80::5efe:808:808 ::127.0.0.1 ::8.8.8.8
::ffff:169.254.169.254 ::ffff:0:127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1
2001:0:4136:e378:8000:63bf:80ff:fffe 2001:10::1 2001:20::1 2001:1ff:ffff::1 2001:db8::1 2002:7f00:1::1
2002:808:808::1 2620:4f:8000::1 3fff::1 3fff:fff:ffff::1 4000::1 5f00::1 fe80::1 fe80::1%2 febf::1 fec0::1 feff::1
ff02::1 ff0e::1 nonsense 127.1 2130706433""".split()  # noqa: SIM905
OPEN = """1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 172.15.255.255
172.32.0.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 2606:4700::1111 2a00:1450::1
2001:4860:4860::8888 2003::1 ::ffff:8.8.8.8 64:ff9b::808:808
2a00:1450::5efe:808:808""".split()  # noqa: SIM905


class Names(AbstractResolver):
    """Answers from a list, one entry a question, so that no test asks a real name server."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
        ]

    async def close(self) -> None:
        return


def is_refused(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, AddressRefused) or is_refused(error.__cause__))


@pytest.mark.parametrize("address", SITE)
def test_a_site_address_needs_the_operators_leave(address: str) -> None:
    assert not STRICT.allows(address)
    assert LENIENT.allows(address)


@pytest.mark.parametrize("address", NEVER)
def test_an_address_of_no_public_host_is_never_allowed(address: str) -> None:
    assert not STRICT.allows(address)
    assert not LENIENT.allows(address)


@pytest.mark.parametrize("address", OPEN)
def test_a_public_address_is_allowed(address: str) -> None:
    assert STRICT.allows(address)


@given(st.ip_addresses())
def test_whatever_the_standard_library_calls_private_is_not_allowed(address: ipaddress.IPv4Address) -> None:
    plain = getattr(address, "ipv4_mapped", None) or address
    if plain.is_private or plain.is_multicast or plain.is_reserved or plain.is_loopback or plain.is_link_local:
        assert not STRICT.allows(str(address)) or address in ipaddress.ip_network("64:ff9b::/96")


def test_a_trusted_host_is_trusted_by_its_name_and_port() -> None:
    guard = AddressGuard(
        trusted_hosts=frozenset({"queue.example", authority("http://[::1]:8000/x"), "here.example:80"})
    )
    assert guard.trusts("QUEUE.example.", 1234)
    assert guard.trusts("::1", 8000)
    assert not guard.trusts("::1", 6379)
    assert guard.trusts("here.example", 80)
    assert not guard.trusts("here.example", 81)
    assert authority("https://queue.fal.run") == "queue.fal.run:443"


async def test_one_bad_answer_among_good_ones_refuses_the_name() -> None:
    with pytest.raises(AddressRefused):
        await GuardedResolver(STRICT, Names([PUBLIC, "127.0.0.1"])).resolve("mixed.example", 80)


async def test_a_name_without_an_address_is_refused() -> None:
    with pytest.raises(AddressRefused):
        await GuardedResolver(STRICT, Names([])).resolve("empty.example", 80)


async def test_a_name_that_turns_to_the_loopback_is_refused_when_it_turns() -> None:
    resolver = GuardedResolver(STRICT, Names([PUBLIC], ["127.0.0.1"]))
    assert [found["host"] for found in await resolver.resolve("turncoat.example", 80)] == [PUBLIC]
    with pytest.raises(AddressRefused):
        await resolver.resolve("turncoat.example", 80)


async def test_the_connection_goes_to_the_answer_that_was_checked() -> None:
    names = Names(["127.0.0.1"], [PUBLIC])
    async with answering(answer(b"here")) as server, open_http(guard=LENIENT, resolver=names) as http:
        response = await http.get(f"http://rebinding.example:{server.port}/")
    assert (response.content, names.asked) == (b"here", ["rebinding.example"])
    assert "host: rebinding.example" in server.requests[0].lower()


def test_the_socket_itself_is_refused_to_a_denied_address() -> None:
    with pytest.raises(AddressRefused):
        guarded_socket(STRICT, (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("10.0.0.1", 80)))
    with guarded_socket(STRICT, (socket.AF_INET, socket.SOCK_STREAM, 0, "", (PUBLIC, 80))) as made:
        assert made.family == socket.AF_INET


SPELLINGS = """127.0.0.1 2130706433 0x7f000001 017700000001 0x7f.1 127.1 127.0.1 0 0.0.0.0 0x0 127.0.0.1. 127.0.0.1..
localhost localhost. LOCALHOST [::1] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:7f00:1] [::127.0.0.1] [::]
127。0。0。1 ⑫⑦.0.0.1 ⓛocalhost %31%32%37.0.0.1 user@127.0.0.1 127.0.0.1%00 127.0.0.1\\@127.0.0.1""".split()  # noqa: SIM905


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_spelling_of_the_loopback_reaches_it(host: str) -> None:
    async with answering(answer(b"secret")) as server, open_http(guard=STRICT) as http:
        with pytest.raises((httpx.TransportError, httpx.InvalidURL)):
            await http.get(f"http://{host}:{server.port}/")
    assert server.connections == 0


async def test_an_ip_literal_that_no_resolver_sees_is_refused_by_the_guard() -> None:
    names = Names([PUBLIC])
    async with answering(answer(b"secret")) as server, open_http(guard=STRICT, resolver=names) as http:
        with pytest.raises(httpx.ConnectError) as caught:
            await http.get(server.url)
    assert is_refused(caught.value)
    assert (names.asked, server.connections) == ([], 0)


async def test_a_trusted_origin_is_reached_and_its_neighbour_is_not() -> None:
    async with answering(answer(b"ours")) as ours, answering(answer(b"secret")) as other:
        guard = AddressGuard(trusted_hosts=frozenset({authority(ours.url)}))
        async with open_http(guard=guard) as http:
            assert (await http.get(ours.url)).content == b"ours"
            with pytest.raises(httpx.ConnectError):
                await http.get(other.url)
    assert other.connections == 0


async def test_connections_are_kept_and_cookies_are_not() -> None:
    async with answering(answer(b"x", set_cookie="a=b; Path=/")) as server, open_http(guard=None) as http:
        for _ in range(3):
            await http.get(server.url)
    assert server.connections == 1
    assert "cookie" not in server.requests[-1].lower()


async def test_a_request_says_who_asks_and_wants_plain_bytes() -> None:
    async with answering(answer()) as server, open_http(guard=None) as http:
        await http.get(server.url)
    said = server.requests[0].lower()
    assert f"user-agent: roundtrip/{__version__}\r\n" in said
    assert "accept-encoding: identity\r\n" in said


async def test_a_redirect_is_an_answer_like_any_other() -> None:
    async with answering(answer(status="302 Found", location="/next")) as server, open_http(guard=None) as http:
        assert (await http.get(server.url)).status_code == 302
    assert len(server.requests) == 1


async def test_the_environments_proxy_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(answer(b"proxy")) as proxy, answering(answer(b"server")) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        async with open_http(guard=None) as http:
            assert (await http.get(server.url)).content == b"server"


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    async with answering(answer(), tls=self_signed(tmp_path)) as server, open_http(guard=None) as http:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await http.get(f"https://127.0.0.1:{server.port}/")
    assert server.requests == []


async def test_a_closed_port_means_that_nothing_was_sent() -> None:
    async with answering(answer()) as server:
        closed = server.url
    async with open_http(guard=None) as http:
        with pytest.raises(httpx.ConnectError):
            await http.post(closed, json={})


async def test_a_dropped_connection_means_that_something_may_have_been_sent() -> None:
    async with answering(b"") as server, open_http(guard=None) as http:
        with pytest.raises(httpx.ReadError):
            await http.post(server.url)


async def test_an_answer_that_breaks_off_is_a_read_error() -> None:
    cut = answer(b"half", content_length="100", connection="close")
    async with answering(cut) as server, open_http(guard=None) as http:
        with pytest.raises(httpx.ReadError):
            await http.post(server.url)


async def test_a_slow_answer_is_a_read_timeout() -> None:
    async with answering(answer(), pause=1) as server, open_http(guard=None, read_seconds=0.05) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.get(server.url)


async def test_an_answer_that_is_not_http_is_a_protocol_error() -> None:
    async with answering(b"SSH-2.0-OpenSSH_9.9\r\n\r\n") as server, open_http(guard=None) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.get(server.url)


@pytest.mark.parametrize("host", [*SPELLINGS, "0177.0.0.1", "x.localhost", "169.254.169.254", "[fe80::1]", "10.1"])
def test_a_webhook_on_a_spelled_out_private_address_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="must"):
        check_webhook_url(f"http://{host}/hook", allow_private=False)


@pytest.mark.parametrize("host", ["127.0.0.1:8001", "localhost", "[::1]:9000", "192.168.1.5", "hooks.internal"])
def test_the_operator_may_let_webhooks_stay_on_site(host: str) -> None:
    check_webhook_url(f"http://{host}/hook", allow_private=True)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://hooks.example/", "http or https"),
        ("hooks.example/x", "http or https"),
        ("https:///x", "name a host"),
        ("https://user:secret@hooks.example/", "user name"),
        ("https://hooks.example/a b", "spaces"),
        ("https://hooks.example/\r\nx: y", "control"),
        ("https://hooks.example/\u202e", "control"),
        ("https://hooks.example:99999/", "valid address"),
        ("https://[::1/", "valid address"),
        ("https://hooks.example/" + "x" * 2048, "2,048"),
    ],
)
def test_a_webhook_address_is_refused_in_plain_words(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_webhook_url(url, allow_private=True)


@pytest.mark.parametrize("url", ["https://hooks.example/x?y=a@b#z", "http://8.8.8.8:8080", "https://münchen.example/"])
def test_an_ordinary_webhook_address_is_taken(url: str) -> None:
    check_webhook_url(url, allow_private=False)


@given(st.text(max_size=60))
def test_any_text_is_either_taken_or_refused_with_words(text: str) -> None:
    assert refusal_of(text).startswith(("must ", "taken"))
    assert refusal_of(f"http://{text}").startswith(("must ", "taken"))


def refusal_of(url: str) -> str:
    try:
        check_webhook_url(url, allow_private=False)
    except ValueError as refusal:
        return str(refusal)
    return "taken"


def self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "both.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-1",
        "1.5",
        "\u0663",
        "Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 99999 00:00:00 GMT",
        "Mon, 01 Jan 0000 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Sat, 01 Jan 0001 00:00:00 +2359",
    ],
)
def test_a_retry_after_that_says_nothing_is_none_or_within_a_day(value: str) -> None:
    asked = retry_after(httpx.Response(503, headers=[(b"retry-after", value.encode())]))
    assert asked is None or 0 <= asked <= 86_400


@given(st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,6} \d+:\d+:\d+ [+-]\d{1,25}"))
def test_no_retry_after_breaks_its_reader(value: str) -> None:
    asked = retry_after(httpx.Response(503, headers=[(b"retry-after", value.encode())]))
    assert asked is None or 0 <= asked <= 86_400


async def test_an_exchange_sends_and_reads_what_httpx_would() -> None:
    async with answering(answer(b"read", status="429 Slow", retry_after="7")) as server, open_http(guard=None) as http:
        read = await http.exchange("POST", f"{server.url}?a=b%20c", {"accept": "text/plain"}, b"sent", 100)
    assert (read.status_code, read.content, retry_after(read)) == (429, b"read", 7.0)
    said = server.requests[0].lower()
    assert said.startswith("post /?a=b%20c http/1.1\r\n") or "a=b+c" in said.split("\r\n")[0]
    assert f"user-agent: roundtrip/{__version__}\r\n" in said
    assert "accept-encoding: identity\r\n" in said
    assert "accept: text/plain\r\n" in said


async def test_an_exchange_follows_no_redirect_and_keeps_no_cookie() -> None:
    moved = answer(status="302 Found", location="/next", set_cookie="a=b; Path=/")
    async with answering(moved) as server, open_http(guard=None) as http:
        for _ in range(2):
            assert (await http.exchange("GET", server.url, {}, None, 100)).status_code == 302
    assert (len(server.requests), server.connections) == (2, 1)
    assert "cookie" not in server.requests[-1].lower()


async def test_an_exchange_reads_no_more_than_it_may() -> None:
    async with answering(answer(b"x" * 101)) as server, open_http(guard=None) as http:
        with pytest.raises(TooMuch):
            await http.exchange("GET", server.url, {}, None, 100)
        assert len((await http.exchange("GET", server.url, {}, None, 101)).content) == 101


async def test_an_exchange_with_a_user_in_its_address_says_so_in_a_header() -> None:
    async with answering(answer()) as server, open_http(guard=None) as http:
        await http.exchange("GET", f"http://me:secret@127.0.0.1:{server.port}/", {"authorization": "Key x"}, None, 100)
    assert "authorization: basic bwu6c2vjcmv0\r\n" in server.requests[0].lower()


async def test_an_exchange_is_guarded_as_any_other_request() -> None:
    async with answering(answer(b"secret")) as server, open_http(guard=STRICT) as http:
        with pytest.raises(httpx.ConnectError) as caught:
            await http.exchange("GET", server.url, {}, None, 100)
    assert is_refused(caught.value)
    assert server.connections == 0


@pytest.mark.parametrize("address", ["http://[::1/", "ftp://127.0.0.1/", "no address"])
async def test_an_exchange_with_no_address_is_an_error_of_the_transport(address: str) -> None:
    async with open_http(guard=None) as http:
        with pytest.raises(httpx.TransportError):
            await http.exchange("GET", address, {}, None, 100)


async def test_whether_an_exchange_may_have_been_sent_is_told_as_ever() -> None:
    async with answering(answer()) as server:
        closed = server.url
    async with open_http(guard=None) as http:
        with pytest.raises(httpx.ConnectError):
            await http.exchange("POST", closed, {}, b"x", 100)
    async with answering(b"") as server, open_http(guard=None) as http:
        with pytest.raises(httpx.TransportError) as caught:
            await http.exchange("POST", server.url, {}, b"x", 100)
    assert not isinstance(caught.value, httpx.ConnectError | httpx.ConnectTimeout)
