"""What a file really is, and how much of the picture a mask covers; decoded in a child process with tight limits.

The child runs this file itself, alone: it imports nothing of the service and inherits nothing of its environment.
"""

import asyncio
import json
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

# A twelve-megapixel photograph enlarged four times; the memory limit is what really holds.
MAX_PIXELS = 200_000_000
MEMORY_BYTES = 1 << 30
CPU_SECONDS = 20
WALL_SECONDS = 40

# Children at a time in one process, each of which may take all that memory.
DECODERS = asyncio.Semaphore(2)
REFUSED = 3
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
    """One byte a pixel: the luminance, or the alpha channel where that alone tells pixels apart."""
    if image.mode.startswith("I"):
        return image.convert("I").point([value >> 8 for value in range(1 << 16)], "L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        *colours, alpha = image.split()
        if all(map(_is_flat, colours)) and alpha.getextrema() != (255, 255):
            return alpha
    return image if image.mode == "L" else image.convert("RGB").convert("L")


def _is_flat(band: Image.Image) -> bool:
    low, high = band.getextrema()
    return low == high


def _sniffed(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(32)
    return next((kind for offset, magic, kind in OTHERS if head.startswith(magic, offset)), OCTETS)


async def measure_in_child(path: Path, mask: bool) -> tuple[Picture, Mask | None]:
    """Measure a file that a stranger made; the mask is None unless asked for and a picture. Raises PictureRefused."""
    async with DECODERS:
        return await _ask_child(path, mask)


async def _ask_child(path: Path, mask: bool) -> tuple[Picture, Mask | None]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", __file__, "mask" if mask else "picture", str(path)),
        env={},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(WALL_SECONDS):
            said, complaint = await child.communicate()
    except TimeoutError:
        raise PictureRefused(f"not decoded within {WALL_SECONDS} seconds") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        reason = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        if child.returncode in {REFUSED, -signal.SIGKILL, -signal.SIGXCPU, -signal.SIGSEGV, -signal.SIGABRT}:
            raise PictureRefused(reason or f"the decoder died of signal {-child.returncode}")
        raise RuntimeError(f"the picture decoder could not run: {reason}")
    found = json.loads(said)
    area = found["mask"]
    return Picture(**found["picture"]), area and Mask(area["area_fraction"], area["bbox"] and tuple(area["bbox"]))


def main(kind: str, path: Path) -> None:
    if sys.platform == "linux":  # elsewhere RLIMIT_AS cannot be set this low
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        picture = measure(path)
        mask = measure_mask(path) if kind == "mask" and picture.width is not None else None
    except Exception as error:  # a decoder fed by a stranger may raise anything; here is where that ends
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(REFUSED)
    print(json.dumps({"picture": asdict(picture), "mask": mask and asdict(mask)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
