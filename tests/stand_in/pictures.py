"""Masks and pictures whose figures follow from how they were drawn, never from reading pixels back."""

import io
from dataclasses import dataclass

from PIL import Image, ImageDraw

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, half open."""


@dataclass(frozen=True)
class Mask:
    """White boxes on black. The boxes must not overlap, so that their areas add up."""

    label: str
    size: tuple[int, int]
    boxes: tuple[Box, ...]
    mode: str = "L"

    @property
    def area_fraction(self) -> float:
        covered = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in self.boxes)
        return covered / (self.size[0] * self.size[1])

    @property
    def bbox(self) -> list[int] | None:
        if not self.boxes:
            return None
        lefts, tops, rights, bottoms = zip(*self.boxes, strict=True)
        return [min(lefts), min(tops), max(rights), max(bottoms)]

    def png(self) -> bytes:
        picture = Image.new("L", self.size, 0)
        for x0, y0, x1, y1 in self.boxes:
            ImageDraw.Draw(picture).rectangle((x0, y0, x1 - 1, y1 - 1), fill=255)
        return encode(picture.convert(self.mode))


def photograph(width: int, height: int) -> bytes:
    """A PNG of that size with some colour in it."""
    picture = Image.linear_gradient("L").resize((width, height))
    return encode(Image.merge("RGB", (picture, picture.rotate(180), picture)))


def encode(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


TRUCK = Mask("A white pickup truck", (180, 120), ((20, 30, 110, 90), (110, 60, 150, 90)))
BUILDING = Mask("the red building", (180, 120), ((0, 0, 180, 20), (160, 20, 180, 120)), mode="RGB")
LANTERN = Mask("a lantern", (180, 120), ((179, 119, 180, 120),), mode="1")
