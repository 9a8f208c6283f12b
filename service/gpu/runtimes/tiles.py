"""Cutting a large picture into tiles that overlap, and putting them together without a seam."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

# What the sides of a tile have to be a multiple of: eight pixels a latent, two latents a patch.
MULTIPLE = 16


@dataclass(frozen=True)
class TilePlan:
    """All tiles are of one size, so that they can share a batch, and lie in the picture; sizes in pixels."""

    width: int
    height: int
    tile: int = 1024
    overlap: int = 128

    def __post_init__(self) -> None:
        if self.tile < 1 or not 0 <= self.overlap < self.tile or min(self.width, self.height) < 1:
            raise ValueError(f"no plan for {self}")

    @cached_property
    def size(self) -> tuple[int, int]:
        return min(self.tile, self.width), min(self.tile, self.height)

    @cached_property
    def boxes(self) -> tuple[tuple[int, int, int, int], ...]:
        """Left, upper, right and lower, row by row."""
        width, height = self.size
        return tuple(
            (left, top, left + width, top + height)
            for top in _starts(self.height, self.tile, self.overlap)
            for left in _starts(self.width, self.tile, self.overlap)
        )

    def cut(self, picture: Image.Image) -> Iterator[Image.Image]:
        """The tiles, their edges repeated up to a multiple of 16."""
        for box in self.boxes:
            yield padded(picture.crop(box))

    def join(self, tiles: Sequence[Image.Image]) -> Image.Image:
        """Of tiles as `cut` gave them; where they overlap one fades into the next."""
        sums = np.zeros((self.height, self.width, 3), dtype=np.float32)
        weights = np.zeros((self.height, self.width, 1), dtype=np.float32)
        across = _weights(self.width, self.tile, self.overlap)
        down = _weights(self.height, self.tile, self.overlap)
        width, height = self.size
        for index, (tile, (left, top, right, bottom)) in enumerate(zip(tiles, self.boxes, strict=True)):
            row, column = divmod(index, len(across))
            weight = (down[row][:, None] * across[column][None, :])[:, :, None]
            pixels = np.asarray(tile.convert("RGB").crop((0, 0, width, height)), dtype=np.float32)
            sums[top:bottom, left:right] += pixels * weight
            weights[top:bottom, left:right] += weight
        sums /= weights
        return Image.fromarray(np.rint(sums, out=sums).astype(np.uint8))


def padded(tile: Image.Image) -> Image.Image:
    right, bottom = (-side % MULTIPLE for side in tile.size)
    if not right and not bottom:
        return tile
    pixels: Any = np.asarray(tile.convert("RGB"))
    return Image.fromarray(np.pad(pixels, ((0, bottom), (0, right), (0, 0)), mode="edge"))


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin: as few as cover the side with at least that overlap, spread evenly."""
    if side <= tile:
        return [0]
    count = -(-(side - overlap) // (tile - overlap))
    return [round(index * (side - tile) / (count - 1)) for index in range(count)]


def _weights(side: int, tile: int, overlap: int) -> list[Any]:
    """For the tiles along a side: 1, but for linear ramps where a neighbour overlaps."""
    starts = _starts(side, tile, overlap)
    length = min(tile, side)
    weights = [np.ones(length, dtype=np.float32) for _ in starts]
    for place in range(len(starts) - 1):
        shared = starts[place] + length - starts[place + 1]
        if shared > 0:
            ramp = ((np.arange(shared) + 1) / (shared + 1)).astype(np.float32)
            weights[place + 1][:shared] *= ramp
            weights[place][length - shared :] *= ramp[::-1]
    return weights
