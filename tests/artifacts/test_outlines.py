"""Masks as numbers, compared with the pixels themselves."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from service.artifacts import outlines
from service.artifacts.decoders import ask
from service.artifacts.outlines import Box, polygons, run_lengths

Pixels = NDArray[np.uint8]


@st.composite
def some_pixels(draw: st.DrawFn) -> Pixels:
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    bits = draw(st.lists(st.integers(0, 1), min_size=height * width, max_size=height * width))
    return np.array(bits, np.uint8).reshape(height, width)


def box_of(pixels: Pixels) -> Box | None:
    rows, columns = np.nonzero(pixels)
    if len(rows) == 0:
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def covered_by(rings: list[list[list[float]]], height: int, width: int) -> NDArray[np.bool_]:
    """Of each pixel whether its centre lies within, by counting the edges to the right of it."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    inside = np.zeros((height, width), bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in pairwise(ring):
            if y0 != y1:
                crosses = ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
                inside ^= crosses
    return inside


def rings_of(shape: dict[str, Any]) -> list[list[list[float]]]:
    return [ring for part in shape["coordinates"] for ring in part]


def circles(width: int, height: int) -> Image.Image:
    """Two discs and a ring that is partly outside."""
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 30, 160, 150), fill=255)
    draw.ellipse((60, 60, 100, 100), fill=0)
    draw.ellipse((200, 100, 260, 170), fill=255)
    draw.ellipse((250, -60, 380, 60), outline=255, width=9)
    return image


@given(some_pixels())
def test_run_lengths_are_read_back_by_coco(pixels: Pixels) -> None:
    encoded = json.loads(json.dumps(run_lengths(pixels, box_of(pixels))))
    assert encoded["size"] == list(pixels.shape)
    assert np.array_equal(coco.decode(encoded), pixels)
    assert coco.area(encoded) == np.count_nonzero(pixels)


@given(some_pixels())
def test_the_centre_of_a_pixel_is_in_a_polygon_exactly_if_the_pixel_is_in_the_mask(pixels: Pixels) -> None:
    shape = polygons(pixels, box_of(pixels))
    assert np.array_equal(covered_by(rings_of(shape), *pixels.shape), pixels > 0)


@given(some_pixels())
def test_polygons_reach_just_as_far_as_the_box(pixels: Pixels) -> None:
    box, points = box_of(pixels), [point for ring in rings_of(polygons(pixels, box_of(pixels))) for point in ring]
    if box is None:
        assert points == []
    else:
        (left, top), (right, bottom) = np.min(points, axis=0), np.max(points, axis=0)
        assert (left, top, right, bottom) == box


@given(some_pixels())
def test_rings_are_closed_and_have_no_needless_point(pixels: Pixels) -> None:
    for ring in rings_of(polygons(pixels, box_of(pixels))):
        assert ring[0] == ring[-1]
        corners = [ring[-2], *ring]
        for (x0, y0), (x1, y1), (x2, y2) in zip(corners[:-2], corners[1:-1], corners[2:], strict=True):
            assert (x1 - x0) * (y2 - y1) != (y1 - y0) * (x2 - x1)


def test_polygons_drawn_by_another_program_cover_the_same() -> None:
    mask = np.asarray(circles(320, 200)) > 0
    shape = polygons(mask.astype(np.uint8), box_of(mask.astype(np.uint8)))
    canvas = Image.new("L", (320 * 4, 200 * 4))
    for outer, *holes in shape["coordinates"]:
        for ring, value in ((outer, 255), *((hole, 0) for hole in holes)):
            ImageDraw.Draw(canvas).polygon([(x * 4, y * 4) for x, y in ring], fill=value)
    drawn = np.asarray(canvas.resize((320, 200), Image.Resampling.BOX)) > 127
    assert np.count_nonzero(drawn & mask) / np.count_nonzero(drawn | mask) >= 0.98
    assert [len(part) for part in shape["coordinates"]].count(2) == 1, "the disc has its hole"


@pytest.mark.parametrize("kind", ["rle", "polygons"])
async def test_a_child_says_the_same_and_the_area_and_the_box(tmp_path: Path, kind: str) -> None:
    circles(320, 200).save(tmp_path / "mask.png")
    pixels = (np.asarray(circles(320, 200)) > 0).astype(np.uint8)
    await ask(outlines.__file__, kind, str(tmp_path / "result"), f"7:{tmp_path / 'mask.png'}")
    said = json.loads((tmp_path / "result").read_text())
    expected = outlines.MAKE[kind](pixels, box_of(pixels))
    assert said == {**expected, "area": np.count_nonzero(pixels), "bbox": list(box_of(pixels) or ())}


@pytest.mark.parametrize("kind", ["rle", "polygons"])
async def test_an_empty_mask_has_no_box(tmp_path: Path, kind: str) -> None:
    Image.new("L", (5, 4)).save(tmp_path / "mask.png")
    await ask(outlines.__file__, kind, str(tmp_path / "result"), f"0:{tmp_path / 'mask.png'}")
    said = json.loads((tmp_path / "result").read_text())
    assert (said["size"], said["area"], said["bbox"]) == ([4, 5], 0, None)
