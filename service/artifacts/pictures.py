"""What is known of a picture or a mask, found out in a child process: nothing is decoded in one that holds secrets."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.artifacts.decoders import Starved, ask

# Children at a time in one process, each of which may take all the memory that it is given.
DECODERS = asyncio.Semaphore(2)
MEASURING = str(Path(__file__).with_name("measuring.py"))
OCTETS = "application/octet-stream"
PICTURES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
}


@dataclass(frozen=True, slots=True)
class Picture:
    content_type: str
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True)
class Mask:
    area_fraction: float
    bbox: tuple[int, int, int, int] | None


async def measure_in_child(path: Path, mask: bool, pauses: Sequence[float] = ()) -> tuple[Picture, Mask | None]:
    """Measure a file that a stranger made; the mask is None unless asked for and a picture. Raises PictureRefused.

    One that the machine had no time or memory for is looked at again after each of the `pauses`.
    """
    found = json.loads(await _found_in(path, "mask" if mask else "picture", pauses))
    area = found["mask"]
    return Picture(**found["picture"]), area and Mask(area["area_fraction"], area["bbox"] and tuple(area["bbox"]))


async def _found_in(path: Path, kind: str, pauses: Sequence[float]) -> bytes:
    for pause in pauses:
        with suppress(Starved):
            async with DECODERS:
                return await ask(MEASURING, kind, str(path))
        await asyncio.sleep(pause)
    async with DECODERS:
        return await ask(MEASURING, kind, str(path))
