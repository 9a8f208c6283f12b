"""What a file really is, and how much of the picture a mask covers; decoded in a child process that runs this file."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from service.artifacts.decoders import PictureRefused, answer
from service.artifacts.pictures import OCTETS, PICTURES, Mask, Picture

# A twelve-megapixel photograph enlarged four times; the memory limit is what really holds.
MAX_PIXELS = 200_000_000

LUMINOUS = 128
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


def measure(path: Path) -> Picture:
    """Decode a picture to the end, or name what else the file is; raises PictureRefused."""
    try:
        with opened(path) as image:
            return Picture(PICTURES[str(image.format)], image.width, image.height)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return Picture(_sniffed(path), None, None)


def measure_mask(path: Path) -> Mask:
    """Count the pixels that are in the mask; raises ValueError or OSError for what is not a picture."""
    mask = opened_mask(path)
    return Mask(mask.histogram()[255] / (mask.width * mask.height), mask.getbbox())


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture of a kind that is taken, decoded to the end. Raises PictureRefused, OSError or ValueError."""
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=list(PICTURES)) as image:
                image.load()
                yield image
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as bomb:
            raise PictureRefused(str(bomb)) from bomb


def opened_mask(path: Path) -> Image.Image:
    """One byte a pixel: 255 in the mask, 0 outside. Raises PictureRefused, OSError or ValueError."""
    with opened(path) as image:
        return _plane(image).point([0] * LUMINOUS + [255] * (256 - LUMINOUS))


def _plane(image: Image.Image) -> Image.Image:
    """One byte a pixel: the luminance, or the alpha channel where that alone tells pixels apart."""
    if image.mode.startswith("I"):
        return upper_half(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        *colours, alpha = image.split()
        if all(map(_is_flat, colours)) and alpha.getextrema() != (255, 255):
            return alpha
    return image if image.mode == "L" else image.convert("RGB").convert("L")


def upper_half(image: Image.Image) -> Image.Image:
    """Eight of sixteen bits."""
    return image.convert("I").point([value >> 8 for value in range(1 << 16)], "L")


def _is_flat(band: Image.Image) -> bool:
    low, high = band.getextrema()
    return low == high


def _sniffed(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(32)
    return next((kind for offset, magic, kind in OTHERS if head.startswith(magic, offset)), OCTETS)


def main(kind: str, name: str) -> str:
    picture = measure(Path(name))
    mask = measure_mask(Path(name)) if kind == "mask" and picture.width is not None else None
    return json.dumps({"picture": asdict(picture), "mask": mask and asdict(mask)})


if __name__ == "__main__":
    answer(main)
