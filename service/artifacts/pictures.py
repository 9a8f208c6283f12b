"""What is known of a picture or a mask, found out in a child process: nothing is decoded in one that holds secrets."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from service.artifacts.decoders import ask

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


async def measure_in_child(path: Path, mask: bool) -> tuple[Picture, Mask | None]:
    """Measure a file that a stranger made; the mask is None unless asked for and a picture. Raises PictureRefused."""
    async with DECODERS:
        found = json.loads(await ask(MEASURING, "mask" if mask else "picture", str(path)))
    area = found["mask"]
    return Picture(**found["picture"]), area and Mask(area["area_fraction"], area["bbox"] and tuple(area["bbox"]))
