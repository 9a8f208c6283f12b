"""The proxy does to a connection what it says, and nothing when it is calm."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from faults.proxy import CALM, Edge, Trouble, corrupted, to_port

WORDS = b"to be carried, to the byte"


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    """It leads to a server that repeats what it hears."""

    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(100_000):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    server = await asyncio.start_server(repeat, "127.0.0.1", 0)
    edge = Edge("tested", to_port(server.sockets[0].getsockname()[1]))
    await edge.open()
    yield edge
    await edge.close()
    server.close()


async def said(edge: Edge, words: bytes = WORDS) -> bytes:
    """What comes back until the other side ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(words)
    writer.write_eof()
    heard = await reader.read()
    writer.close()
    return heard


async def test_a_calm_edge_carries_every_byte(edge: Edge) -> None:
    words = random.Random(1).randbytes(500_000)
    assert await said(edge, words) == words


async def test_a_slow_edge_carries_the_same(edge: Edge) -> None:
    await edge.suffer(Trouble(latency=0.01, jitter=0.01))
    assert await said(edge) == WORDS


async def test_a_cut_ends_a_connection_within_its_answer(edge: Edge) -> None:
    await edge.suffer(Trouble(cut_after=len(WORDS) + 5))
    with pytest.raises(OSError, match="reset"):
        await said(edge)


async def test_a_reset_ends_what_is_connected_and_nothing_more(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(WORDS)
    assert await reader.readexactly(len(WORDS)) == WORDS
    edge.reset()
    with pytest.raises(OSError, match="reset"):
        await reader.read()
    writer.close()
    assert await said(edge) == WORDS


async def test_a_black_hole_swallows_until_it_heals(edge: Edge) -> None:
    await edge.suffer(Trouble(blackhole=True))
    saying = asyncio.create_task(said(edge))
    done, _ = await asyncio.wait([saying], timeout=0.2)
    assert not done
    await edge.heal()
    assert await saying == WORDS


async def test_a_refusing_edge_is_not_there_and_gets_its_port_again(edge: Edge) -> None:
    port = edge.port
    await edge.suffer(Trouble(refuse=True))
    with pytest.raises(ConnectionRefusedError):
        await said(edge)
    await edge.suffer(CALM)
    assert edge.port == port
    assert await said(edge) == WORDS


async def test_a_corrupting_edge_changes_one_byte_of_a_chunk(edge: Edge) -> None:
    await edge.suffer(Trouble(corruption=1.0))
    heard = await said(edge)
    assert len(heard) == len(WORDS)
    assert 1 <= sum(a != b for a, b in zip(heard, WORDS, strict=True)) <= 2


def test_a_corrupted_chunk_differs_in_one_byte() -> None:
    for seed in range(50):
        changed = corrupted(WORDS, random.Random(seed))
        assert sum(a != b for a, b in zip(changed, WORDS, strict=True)) == 1
