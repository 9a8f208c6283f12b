"""Masks as numbers: COCO's run lengths and polygons, made in a child process, which runs this file."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from pycocotools import mask as coco

from service.artifacts.decoders import answer
from service.artifacts.measuring import opened_mask

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]
Rings = tuple[list[Points], list[NDArray[np.uint32]]]
Box = tuple[int, int, int, int]


def run_lengths(pixels: Pixels, _: Box | None) -> dict[str, Any]:
    """As pycocotools takes and gives it; `counts` is its compressed form as text."""
    encoded = coco.encode(np.asfortranarray(pixels))
    return {"size": list(pixels.shape), "counts": encoded["counts"].decode("ascii")}


def polygons(pixels: Pixels, box: Box | None) -> dict[str, Any]:
    """A GeoJSON MultiPolygon: of each part its outer ring and those of its holes, points in pixels from the left top.

    The rings run between the pixels that are in the mask and those that are not, and cut the corners of single pixels:
    the centre of a pixel is in a polygon exactly if the pixel is in the mask.
    """
    left, top, right, bottom = box or (0, 0, 0, 0)
    framed = np.pad(pixels[top:bottom, left:right], 1)
    # Pixels' values stand at their centres; the frame is one pixel wide.
    x, y = (start - 0.5 + np.arange(side) for start, side in zip((left, top), framed.shape[::-1], strict=True))
    generator = contour_generator(x, y, framed, fill_type=FillType.OuterOffset)
    points, offsets = cast(Rings, generator.filled(0.5, 2))
    parts = [
        [_ring(points_of[start:end]) for start, end in pairwise(offset)]
        for points_of, offset in zip(points, offsets, strict=True)
    ]
    return {"type": "MultiPolygon", "coordinates": parts, "size": list(pixels.shape)}


def _ring(points: Points) -> list[list[float]]:
    """Without the points that lie on a straight line between their neighbours; its last is its first."""
    points = points[:-1]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    kept = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    closed: list[list[float]] = np.vstack([kept, kept[:1]]).tolist()
    return closed


MAKE = {"rle": run_lengths, "polygons": polygons}


def main(kind: str, result: str, numbered: str) -> str:
    """`numbered` is an index and a path, `INDEX:PATH`."""
    mask = opened_mask(Path(numbered.partition(":")[2]))
    pixels = (np.asarray(mask) // 255).astype(np.uint8)
    box = mask.getbbox()
    facts = {"area": int(np.count_nonzero(pixels)), "bbox": list(box) if box else None}
    with Path(result).open("w") as file:
        json.dump({**MAKE[kind](pixels, box), **facts}, file, separators=(",", ":"))
    return ""


if __name__ == "__main__":
    answer(main)
