"""The pictures that an input names, fetched through the guard against addresses of strangers."""

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from service.artifacts import downloads
from service.artifacts.decoders import PictureRefused, Starved
from service.artifacts.downloads import DownloadFailed
from service.gpu.decoding import decoded, open_decoder
from service.gpu.runtimes.base import InputRefused, RuntimeFailure
from service.network import authority

# By these names the models' inputs have them, one or several.
FIELDS = ("image_url", "image_urls")
MOST_PICTURES = 64
LARGEST_PICTURE = 100 * 2**20
# Three bytes each.
MOST_PIXELS_TOGETHER = 512_000_000
FETCH_SECONDS = 60.0
TRIES = 3
PAUSE_SECONDS = 1.0

# What the service itself has is not lost because it is away for a while, when it is deployed anew for one.
PATIENCE_SECONDS = 300.0

# Pictures of one input that are fetched, and children that decode them, at a time.
FETCHES = 8
DECODERS = 2


class Pictures:
    """Made on the loop that it is used on, one in a process."""

    def __init__(self, http: httpx.AsyncClient, service_url: str) -> None:
        self._http = http
        self._service = authority(service_url)
        self._decoder = open_decoder()
        self._decoder.prepare()
        self._fetches, self._decoders = asyncio.Semaphore(FETCHES), asyncio.Semaphore(DECODERS)

    async def of(self, asked: Mapping[str, Any]) -> list[Image.Image]:
        """Upright and in RGB, in the input's order. Raises InputRefused, in the words of fal where it has some."""
        named = [(field, url) for field in FIELDS for url in _urls(asked.get(field))]
        if len(named) > MOST_PICTURES:
            raise InputRefused(named[-1][0], f"List should have at most {MOST_PICTURES} items", "too_long")
        pixels = _Count()
        tasks: list[asyncio.Task[Image.Image]] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks += [group.create_task(self._picture(field, url, pixels)) for field, url in named]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None  # It called the others off.
        return [task.result() for task in tasks]

    async def _picture(self, field: str, url: str, pixels: "_Count") -> Image.Image:
        with tempfile.TemporaryDirectory(prefix="roundtrip-picture-") as name:
            source = Path(name) / "source"
            async with self._fetches:
                await self._fetch(field, url, source)
            try:
                async with self._decoders:
                    picture = await decoded(self._decoder, source, Path(name) / "raw")
            except Starved as error:
                raise RuntimeFailure(f"a picture was not looked at: {error}") from error
            except PictureRefused as error:
                raise InputRefused(field, f"The picture cannot be used: {error}", "image_load_error") from error
        pixels.seen += picture.width * picture.height
        if pixels.seen > MOST_PIXELS_TOGETHER:
            words = f"Together the pictures have more than {MOST_PIXELS_TOGETHER:,} pixels"
            raise InputRefused(field, words, "image_too_large")
        return picture

    async def _fetch(self, field: str, url: str, target: Path) -> None:
        loop, tries, pause = asyncio.get_running_loop(), 0, PAUSE_SECONDS
        until = loop.time() + PATIENCE_SECONDS
        while True:
            tries += 1
            try:
                with target.open("wb") as file:
                    async for chunk in downloads.fetch(self._http, url, LARGEST_PICTURE, FETCH_SECONDS):
                        file.write(chunk)
            except DownloadFailed as error:
                ours = error.retryable and self._is_ours(url)
                if ours and loop.time() > until:
                    raise RuntimeFailure("the service, which has the picture, does not give it") from error
                if not ours and (tries == TRIES or not error.retryable):
                    words = f"The picture cannot be had: {error.reason}"
                    raise InputRefused(field, words, "file_download_error") from error
                await asyncio.sleep(pause)
                pause = min(2 * pause, 10.0) if ours else PAUSE_SECONDS
            else:
                return

    def _is_ours(self, url: str) -> bool:
        try:
            return authority(url) == self._service
        except ValueError:
            return False


class _Count:
    seen = 0


def _urls(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str)]
