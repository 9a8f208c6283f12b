"""Masks drawn on the picture that they are of: cut-outs and overlays, made in a child process, which runs this file."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

from PIL import Image, ImageChops, ImageColor, ImageOps

from service.artifacts.colours import hsl_of
from service.artifacts.decoders import answer
from service.artifacts.measuring import opened, opened_mask, upper_half

# How much of a mask's colour lies over the picture, of 255.
TINT = 110
# An outline is one pixel thick for so many pixels of the picture's shorter side.
OUTLINE_SHARE = 480
WHITE = (255, 255, 255, 255)
EXIF_ORIENTATION = 0x0112
PNG_EFFORT = 4


class NothingToCut(ValueError):
    """The mask covers nothing."""


def cut_out(picture: Path, mask: Path) -> Image.Image:
    """The picture where the mask is, transparent elsewhere, as large as the mask's box."""
    plane = opened_mask(mask)
    image = _like(_upright(picture, plane.size), with_alpha=True)
    plane = _scaled(plane, image.size)
    box = plane.getbbox()
    if box is None:
        raise NothingToCut("the mask covers nothing")
    image, plane = image.crop(box), plane.crop(box)
    image.putalpha(ImageChops.darker(image.getchannel("A"), plane))
    return image


def overlay(picture: Path, masks: Sequence[tuple[int, Path]]) -> Image.Image:
    """The picture with each mask over it, in the colour of its index, with an outline."""
    image: Image.Image | None = None
    for index, path in masks:
        plane = opened_mask(path)
        if image is None:
            image = _upright(picture, plane.size)
            image = _like(image, with_alpha=image.has_transparency_data)
        _lay(image, _scaled(plane, image.size), colour_of(index))
    assert image is not None
    return image


def colour_of(index: int) -> tuple[int, int, int]:
    red, green, blue, *_ = ImageColor.getrgb(hsl_of(index))
    return red, green, blue


def _lay(image: Image.Image, plane: Image.Image, colour: tuple[int, int, int]) -> None:
    box = plane.getbbox()
    if box is None:
        return
    plane = plane.crop(box)
    opaque = (*colour, 255) if image.mode == "RGBA" else colour
    image.paste(opaque, box, plane.point([value * TINT // 255 for value in range(256)]))
    thickness = max(1, min(image.size) // OUTLINE_SHARE)
    # White within the mask's own colour, so that one of the two stands out from whatever is below.
    image.paste(opaque, box, _outline(plane, 2 * thickness))
    image.paste(WHITE if image.mode == "RGBA" else WHITE[:3], box, _outline(plane, thickness))


def _outline(plane: Image.Image, thickness: int) -> Image.Image:
    """What of a mask lies at its edge: in it, and not so far inside that all its neighbours are."""
    width, height = plane.size
    framed = ImageOps.expand(plane, thickness, 0)
    steps = (0, thickness, 2 * thickness)
    shifted = (framed.crop((x, y, x + width, y + height)) for x in steps for y in steps)
    return ImageChops.subtract(plane, reduce(ImageChops.darker, shifted))


def _upright(path: Path, mask_size: tuple[int, int]) -> Image.Image:
    """The picture as it is to be looked at, unless the mask was made of it as it lies in its file."""
    with opened(path) as image:
        lying = image.size == mask_size and mask_size[0] != mask_size[1]
        turned = image.getexif().get(EXIF_ORIENTATION, 1) in {5, 6, 7, 8}
        if not (lying and turned):
            ImageOps.exif_transpose(image, in_place=True)
        return image


def _like(image: Image.Image, *, with_alpha: bool) -> Image.Image:
    if image.mode.startswith("I"):
        image = upper_half(image)
    mode = "RGBA" if with_alpha else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _scaled(plane: Image.Image, size: tuple[int, int]) -> Image.Image:
    return plane if plane.size == size else plane.resize(size, Image.Resampling.NEAREST)


def main(kind: str, result: str, picture: str, *masks: str) -> str:
    """`masks` are an index and a path each, `INDEX:PATH`."""
    numbered = [(int(index), Path(path)) for index, _, path in (mask.partition(":") for mask in masks)]
    drawn = cut_out(Path(picture), numbered[0][1]) if kind == "cutout" else overlay(Path(picture), numbered)
    drawn.save(result, "PNG", compress_level=PNG_EFFORT)
    return ""


if __name__ == "__main__":
    answer(main)
