"""Fetching what an output names: the whole file, within its bounds, from nowhere it should not go."""

import base64
from collections.abc import AsyncIterator

import httpx
import pytest

from service.artifacts.downloads import DownloadFailed, fetch
from service.network import AddressGuard, authority, open_http
from tests.artifacts.canned import answer, answering

ON_SITE = AddressGuard(allow_private=True)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with open_http(guard=ON_SITE, read_seconds=5) as http:
        yield http


async def whole(http: httpx.AsyncClient, url: str, max_bytes: int = 1_000_000, timeout: float = 5) -> bytes:
    return b"".join([chunk async for chunk in fetch(http, url, max_bytes, timeout)])


async def failure(http: httpx.AsyncClient, url: str, max_bytes: int = 1_000_000, timeout: float = 5) -> DownloadFailed:
    with pytest.raises(DownloadFailed) as caught:
        await whole(http, url, max_bytes, timeout)
    return caught.value


async def test_a_file_comes_whole(http: httpx.AsyncClient) -> None:
    content = bytes(range(256)) * 1000
    async with answering(answer(content)) as server:
        assert await whole(http, server.url) == content


async def test_a_file_of_just_the_largest_size_is_taken(http: httpx.AsyncClient) -> None:
    async with answering(answer(b"x" * 100)) as server:
        assert await whole(http, server.url, max_bytes=100) == b"x" * 100
        assert "larger than 99 bytes" in (await failure(http, server.url, max_bytes=99)).reason


async def test_a_file_that_hides_its_size_is_cut_off(http: httpx.AsyncClient) -> None:
    endless = answer(b"x" * 200_000, content_length="", connection="close")
    async with answering(endless) as server:
        assert "larger" in (await failure(http, server.url, max_bytes=100_000)).reason


async def test_half_a_file_is_no_file(http: httpx.AsyncClient) -> None:
    async with answering(answer(b"half", content_length="100", connection="close")) as server:
        assert (await failure(http, server.url)).retryable


async def test_a_compressed_answer_is_not_unpacked(http: httpx.AsyncClient) -> None:
    async with answering(answer(b"\x1f\x8b", content_encoding="gzip")) as server:
        assert "compressed" in (await failure(http, server.url)).reason


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_a_dead_link_is_gone(http: httpx.AsyncClient, status: int) -> None:
    async with answering(answer(status=f"{status} No")) as server:
        failed = await failure(http, server.url)
    assert (failed.gone, failed.retryable, failed.status) == (True, False, status)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_a_busy_host_is_worth_another_try(http: httpx.AsyncClient, status: int) -> None:
    async with answering(answer(status=f"{status} Later")) as server:
        failed = await failure(http, server.url)
    assert (failed.gone, failed.retryable, failed.status) == (False, True, status)


async def test_blocked_refused_and_silent_addresses_read_alike() -> None:
    async with answering(answer()) as closed:
        pass
    async with answering(answer(), pause=5) as silent, answering(answer()) as blocked:
        guard = AddressGuard(trusted_hosts=frozenset({authority(silent.url), authority(closed.url)}))
        async with open_http(guard=guard) as http:
            failures = [await failure(http, server.url, timeout=0.2) for server in (closed, silent, blocked)]
    assert len({failed.reason for failed in failures}) == 1
    assert all(failed.retryable and failed.__cause__ for failed in failures)
    assert blocked.connections == 0


async def test_the_deadline_is_for_the_whole_file(http: httpx.AsyncClient) -> None:
    async with answering(answer(b"part", content_length="100")) as server:
        assert (await failure(http, server.url, timeout=0.2)).retryable


async def test_redirects_are_followed_three_times(http: httpx.AsyncClient) -> None:
    hop = answer(status="302 Found", location="/next")
    async with answering(hop, hop, hop, answer(b"here")) as server:
        assert await whole(http, f"{server.url}/first") == b"here"
    async with answering(hop) as server:
        assert "more than 3" in (await failure(http, server.url)).reason
    assert len(server.requests) == 4


async def test_a_redirect_to_the_loopback_is_refused() -> None:
    async with answering(answer(b"secret")) as inside:
        redirect = answer(status="307 Temporary Redirect", location=inside.url)
        async with answering(redirect) as outside:
            guard = AddressGuard(trusted_hosts=frozenset({authority(outside.url)}))
            async with open_http(guard=guard) as http:
                await failure(http, outside.url)
    assert (len(outside.requests), inside.connections) == (1, 0)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://a:99999", "data:,x"])
async def test_a_redirect_to_anything_but_http_is_refused(http: httpx.AsyncClient, target: str) -> None:
    async with answering(answer(status="302 Found", location=target)) as server:
        assert not (await failure(http, server.url)).retryable


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///etc/passwd",
        "/etc/passwd",
        "http://",
        "http://[::1",
        "http://a:99999",
        "gopher://127.0.0.1",
        "http://xn--n3h.example/",
    ],
)
async def test_an_address_that_is_not_http_is_refused(http: httpx.AsyncClient, url: str) -> None:
    assert not (await failure(http, url)).retryable


async def test_a_data_uri_is_its_own_file(http: httpx.AsyncClient) -> None:
    content = b"\x89PNG\r\n\x1a\n\xfb\xff"
    encoded = base64.b64encode(content).decode()
    assert await whole(http, f"data:image/png;base64,{encoded}") == content
    assert await whole(http, f"DATA:;base64,{encoded.replace('+', '%2B').replace('/', '%2F')}") == content


@pytest.mark.parametrize(
    "url", ["data:image/png;base64", "data:,hello", "data:;base64,Q", "data:;base64,Q Q=", "data:;base64,é"]
)
async def test_a_data_uri_that_does_not_decode_is_refused(http: httpx.AsyncClient, url: str) -> None:
    assert not (await failure(http, url)).retryable


@pytest.mark.parametrize("size", [99, 100, 101, 102, 103, 1000])
async def test_a_data_uri_is_capped_like_any_file(http: httpx.AsyncClient, size: int) -> None:
    url = f"data:;base64,{base64.b64encode(bytes(size)).decode()}"
    if size <= 100:
        assert len(await whole(http, url, max_bytes=100)) == size
    else:
        assert "larger than 100 bytes" in (await failure(http, url, max_bytes=100)).reason


async def test_a_reader_may_take_its_time(http: httpx.AsyncClient) -> None:
    async with answering(answer(b"x" * 50_000)) as server:
        reading = fetch(http, server.url, 100_000, timeout=0.3)
        first = await anext(reading)
        rest = [chunk async for chunk in reading]
    assert len(first) + sum(map(len, rest)) == 50_000


async def test_a_reader_that_leaves_closes_the_connection(http: httpx.AsyncClient) -> None:
    async with answering(answer(b"x" * 500_000)) as server:
        reading = fetch(http, server.url, 1_000_000, timeout=5)
        await anext(reading)
        await reading.aclose()
        assert await whole(http, server.url) == b"x" * 500_000
    assert server.connections == 2
