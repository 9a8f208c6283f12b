"""Names that strangers give: who is asked for them, for how long, and what comes of it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from service import names
from service.names import NobodyToAsk, StrangersResolver
from service.network import AddressGuard, NotTried, open_http
from tests import making
from tests.artifacts.canned import answer, answering
from tests.nameserver import NameServer, answering_names

LENIENT = AddressGuard(allow_private=True)


@asynccontextmanager
async def resolving(server: NameServer) -> AsyncIterator[StrangersResolver]:
    resolver = StrangersResolver(["127.0.0.1"], server.port)
    try:
        yield resolver
    finally:
        await resolver.close()


async def addresses(resolver: StrangersResolver, host: str) -> set[str]:
    return {found["host"] for found in await resolver.resolve(host, 80)}


async def test_all_addresses_of_a_name_are_found() -> None:
    known = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    async with answering_names(two_example=known) as server, resolving(server) as resolver:
        assert await addresses(resolver, "two.example") == set(known)
        found = await resolver.resolve("two.example", 8080)
    assert {(each["hostname"], each["port"]) for each in found} == {("two.example", 8080)}
    assert {each["family"] for each in found} == {socket.AF_INET, socket.AF_INET6}


async def test_the_hosts_file_is_read_and_nobody_asked() -> None:
    async with answering_names() as server, resolving(server) as resolver:
        assert "127.0.0.1" in await addresses(resolver, "localhost")
    assert server.asked == []


@pytest.mark.parametrize("spelling", ["2130706433", "0x7f.1", "0177.1", "127.1"])
async def test_an_address_however_it_is_spelled_is_no_name(spelling: str) -> None:
    async with answering_names() as server, resolving(server) as resolver:
        assert await addresses(resolver, spelling) == {"127.0.0.1"}
    assert server.asked == []


@pytest.mark.parametrize("host", ["absent.example", "a" * 70, "a..b", "ⓛocalhost", "x.silent.example"])
async def test_what_is_not_found_is_an_os_error(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "LIMIT_SECONDS", 0.3)
    async with answering_names() as server, resolving(server) as resolver:
        with pytest.raises(OSError, match=r"could not be looked up|is no name"):
            await resolver.resolve(host, 80)


async def test_names_whose_server_is_silent_hold_up_nobody_else() -> None:
    async with answering(answer(b"here")) as web, answering_names(well_example=["127.0.0.1"]) as server:
        resolver = StrangersResolver(["127.0.0.1"], server.port)
        async with open_http(guard=LENIENT, resolver=resolver, max_connections=400) as http:
            waiting = [asyncio.create_task(http.get(f"http://{n}.silent.example/")) for n in range(200)]
            await making.until(lambda: asyncio.sleep(0, len(server.asked) >= 200))
            assert (await http.get(f"http://well.example:{web.port}/")).content == b"here"
            assert not any(task.done() for task in waiting)
            results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(result) for result in results} == {httpx.ConnectError}


async def test_name_servers_that_are_away_are_no_word_about_the_name() -> None:
    async with answering_names() as server:
        pass
    async with resolving(server) as resolver:
        with pytest.raises(NobodyToAsk):
            await resolver.resolve("well.example", 80)
        async with open_http(guard=LENIENT, resolver=resolver) as http:
            with pytest.raises(NotTried):
                await http.get("http://well.example/")
