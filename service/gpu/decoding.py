"""A picture as a model wants it, upright and in RGB, decoded in a child process, which runs this file."""

import asyncio
from pathlib import Path

from PIL import Image, ImageOps

from service.artifacts.decoders import Ahead, PictureRefused, answer
from service.artifacts.measuring import opened, upper_half

# 8 bytes a pixel on the way, within the memory that a child is given.
MOST_PIXELS = 64_000_000


def open_decoder() -> Ahead:
    return Ahead(__file__)


async def decoded(decoder: Ahead, source: Path, raw: Path) -> Image.Image:
    """Raises PictureRefused; `raw` is a file to be written."""
    said = await decoder.ask(str(source), str(raw))
    width, height = map(int, said.split())
    return Image.frombytes("RGB", (width, height), await asyncio.to_thread(raw.read_bytes))


def write_upright(source: str, raw: str) -> str:
    with opened(Path(source)) as image:
        if image.width * image.height > MOST_PIXELS:
            raise PictureRefused(f"it has more than {MOST_PIXELS:,} pixels")
        upright = ImageOps.exif_transpose(upper_half(image) if image.mode.startswith("I") else image).convert("RGB")
    Path(raw).write_bytes(upright.tobytes())
    return f"{upright.width} {upright.height}"


if __name__ == "__main__":
    answer(write_upright)
