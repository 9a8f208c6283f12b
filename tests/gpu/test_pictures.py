"""Pictures of inputs: what the service has is waited for, what others have is not; and how much is too much."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from PIL import Image

from service.artifacts import decoders
from service.gpu import pictures
from service.gpu.pictures import Pictures
from service.gpu.runtimes.base import InputRefused, RuntimeFailure
from service.network import AddressGuard, authority, open_http
from tests.gpu.working import picture


def png(width: int, height: int) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (width, height), "#102030").save(written, "PNG")
    return written.getvalue()


@dataclass
class Host:
    """Answers 503 so many times, then with a picture."""

    failures: int
    content: bytes = field(default_factory=lambda: png(8, 16))
    url: str = ""
    asked: int = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        status, body = ("200 OK", self.content) if self.asked > self.failures else ("503 Away", b"")
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def host(failures: int = 0, **options: bytes) -> AsyncIterator[Host]:
    host = Host(failures, **options)
    server = await asyncio.start_server(host.answer, "127.0.0.1", 0)
    async with server:
        host.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield host


@asynccontextmanager
async def loading(service_url: str) -> AsyncIterator[Pictures]:
    guard = AddressGuard(allow_private=True, trusted_hosts=frozenset({authority(service_url)}))
    async with open_http(guard=guard) as http:
        yield Pictures(http, service_url)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PAUSE_SECONDS", 0.01)


async def test_a_service_that_is_away_for_a_while_loses_no_picture() -> None:
    async with host(failures=pictures.TRIES + 2) as service, loading(service.url) as loader:
        [found] = await loader.of({"image_url": f"{service.url}/files/a.png"})
        assert found.size == (8, 16)
        assert service.asked == pictures.TRIES + 3


async def test_a_service_that_stays_away_is_no_fault_of_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PATIENCE_SECONDS", 0.1)
    async with host(failures=1_000) as service, loading(service.url) as loader:
        with pytest.raises(RuntimeFailure) as raised:
            await loader.of({"image_url": f"{service.url}/files/a.png"})
        assert not isinstance(raised.value, InputRefused)


async def test_anybody_else_is_asked_three_times() -> None:
    async with host(failures=pictures.TRIES) as other, loading("http://127.0.0.1:9") as loader:
        with pytest.raises(InputRefused, match="cannot be had"):
            await loader.of({"image_url": other.url})
        assert other.asked == pictures.TRIES


async def test_several_come_in_the_inputs_order_each_from_a_child_of_its_own() -> None:
    async with loading("http://127.0.0.1:9") as loader:
        found = await loader.of({"image_urls": [picture(side) for side in (3, 1, 2, 5, 4)]})
    assert [each.width for each in found] == [3, 1, 2, 5, 4]


async def test_what_one_picture_breaks_is_whole_for_the_next() -> None:
    async with loading("http://127.0.0.1:9") as loader:
        for _ in range(2):
            with pytest.raises(InputRefused, match="cannot be used"):
                await loader.of({"image_url": "data:image/png;base64,AAAA"})
            assert len(await loader.of({"image_url": picture()})) == 1


async def test_a_machine_that_is_short_of_time_is_no_fault_of_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    async with loading("http://127.0.0.1:9") as loader:
        with monkeypatch.context() as starving:
            starving.setattr(decoders, "WALL_SECONDS", 0.0)
            with pytest.raises(RuntimeFailure) as raised:
                await loader.of({"image_url": picture()})
        assert not isinstance(raised.value, InputRefused)
        assert len(await loader.of({"image_url": picture()})) == 1


async def test_more_pictures_than_anybody_looks_at_are_not_even_fetched() -> None:
    async with host() as other, loading("http://127.0.0.1:9") as loader:
        with pytest.raises(InputRefused, match="at most 64 items"):
            await loader.of({"image_urls": [other.url] * (pictures.MOST_PICTURES + 1)})
        assert other.asked == 0


async def test_pictures_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_PIXELS_TOGETHER", 2 * 8 * 16)
    async with loading("http://127.0.0.1:9") as loader:
        assert len(await loader.of({"image_urls": [picture()] * 2})) == 2
        with pytest.raises(InputRefused, match="Together"):
            await loader.of({"image_urls": [picture()] * 3})


@pytest.mark.parametrize("odd", [None, 5, {"url": "x"}, [None, 5, {}]])
async def test_what_is_no_address_is_no_picture(odd: object) -> None:
    async with loading("http://127.0.0.1:9") as loader:
        assert await loader.of({"image_url": odd, "image_urls": odd}) == []
