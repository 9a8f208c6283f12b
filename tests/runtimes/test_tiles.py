"""Tiles: an identity in between gives the picture back, to the pixel, whatever the sizes."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.gpu.runtimes.tiles import MULTIPLE, TilePlan, padded

SIDES = st.integers(1, 180)


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    tile = draw(st.integers(1, 90))
    return TilePlan(draw(SIDES), draw(SIDES), tile, draw(st.integers(0, tile - 1)))


def noise(plan: TilePlan) -> Image.Image:
    pixels = np.random.default_rng(plan.width * 1000 + plan.height).integers(0, 256, (plan.height, plan.width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@given(plans())
def test_tiles_that_nothing_was_done_to_are_the_picture(plan: TilePlan) -> None:
    # A side of two thousand tiles of a pixel would show no more than one of twenty.
    if len(plan.boxes) > 400:
        return
    picture = noise(plan)
    assert plan.join(list(plan.cut(picture))).tobytes() == picture.tobytes()


@given(plans())
def test_tiles_are_of_one_size_lie_inside_and_cover_everything(plan: TilePlan) -> None:
    covered = np.zeros((plan.height, plan.width), dtype=bool)
    for left, top, right, bottom in plan.boxes:
        assert 0 <= left < right <= plan.width
        assert 0 <= top < bottom <= plan.height
        assert (right - left, bottom - top) == plan.size
        covered[top:bottom, left:right] = True
    assert covered.all()


@given(plans())
def test_neighbours_share_at_least_the_overlap(plan: TilePlan) -> None:
    lefts = sorted({box[0] for box in plan.boxes})
    assert all(before + plan.size[0] - after >= plan.overlap for before, after in pairwise(lefts))


@pytest.mark.parametrize(
    ("size", "count"), [((1024, 1024), 1), ((1800, 1200), 4), ((2048, 2048), 9), ((4096, 4096), 25), ((300, 40), 1)]
)
def test_no_more_tiles_than_needed(size: tuple[int, int], count: int) -> None:
    assert len(TilePlan(*size).boxes) == count


@given(SIDES, SIDES)
def test_padding_repeats_the_edge_up_to_what_the_model_divides_by(width: int, height: int) -> None:
    picture = noise(TilePlan(width, height))
    large = padded(picture)
    assert [side % MULTIPLE for side in large.size] == [0, 0]
    assert max(large.width - width, large.height - height) < MULTIPLE
    assert large.crop((0, 0, width, height)).tobytes() == picture.tobytes()
    assert large.getpixel((large.width - 1, large.height - 1)) == picture.getpixel((width - 1, height - 1))


def test_where_tiles_differ_one_fades_into_the_next() -> None:
    plan = TilePlan(150, 16, 100, 50)
    row = np.asarray(plan.join([Image.new("RGB", (112, 16), colour) for colour in ("black", "white")]))[8, :, 0]
    assert (row[:50] == 0).all()
    assert (row[100:] == 255).all()
    assert (np.diff(row[50:100].astype(int)) > 0).all()


@pytest.mark.parametrize("plan", [(0, 5, 10, 2), (5, 5, 0, 0), (5, 5, 10, 10), (5, 5, 10, -1)])
def test_a_plan_that_would_never_end_is_not_made(plan: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="no plan"):
        TilePlan(*plan)
