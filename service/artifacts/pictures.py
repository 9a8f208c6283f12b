"""What a file really is, and how much of the picture a mask covers; decoded in a child process with tight limits.

The child runs this file itself, alone: it imports nothing of the service and inherits nothing of its environment.
"""

import asyncio
import json
import resource
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 40_000_000
MEMORY_BYTES = 1 << 30
CPU_SECONDS = 10
WALL_SECONDS = 20
LUMINOUS = 128
OCTETS = "application/octet-stream"
PICTURES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
}
# First bytes of what else a model may hand out: (offset, bytes, type).
OTHERS = (
    (4, b"ftypisom", "video/mp4"),
    (4, b"ftypiso2", "video/mp4"),
    (4, b"ftypmp4", "video/mp4"),
    (4, b"ftypavc1", "video/mp4"),
    (0, b"\x1a\x45\xdf\xa3", "video/webm"),
    (8, b"WAVEfmt ", "audio/wav"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"%PDF-", "application/pdf"),
)


class PictureRefused(Exception):
    """Looking at it would take more pixels, memory or time than a picture is given."""


@dataclass(frozen=True, slots=True)
class Picture:
    content_type: str
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True)
class Mask:
    area_fraction: float
    bbox: tuple[int, int, int, int] | None


def measure(path: Path) -> Picture:
    """Decode a picture to the end, or name what else the file is; raises PictureRefused."""
    try:
        with _opened(path) as image:
            return Picture(PICTURES[str(image.format)], image.width, image.height)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return Picture(_sniffed(path), None, None)


def measure_mask(path: Path) -> Mask:
    """Count the pixels that are in the mask; raises ValueError or OSError for what is not a picture."""
    with _opened(path) as image:
        plane = _mask_plane(image)
        inside = sum(plane.histogram()[LUMINOUS:])
        box = plane.point([0] * LUMINOUS + [255] * (256 - LUMINOUS)).getbbox()
        return Mask(inside / (image.width * image.height), box)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=list(PICTURES)) as image:
                image.load()
                yield image
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as bomb:
            raise PictureRefused(str(bomb)) from bomb


def _mask_plane(image: Image.Image) -> Image.Image:
    """One byte a pixel: the luminance, or the alpha channel where only that one tells pixels apart."""
    if image.mode.startswith("I"):
        image = image.convert("I").point([value >> 8 for value in range(65536)], "L")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        *colours, alpha = image.split()
        if alpha.getextrema() != (255, 255) and all(low == high for low, high in map(_extrema, colours)):
            return alpha
    if image.mode != "L":
        image = image.convert("RGB").convert("L")
    return image


async def measure_in_child(path: Path, mask: bool) -> tuple[Picture, Mask | None]:
    """Measure a file that a stranger made; raises PictureRefused."""
