"""Cut-outs and overlays, pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.artifacts import drawing
from service.artifacts.decoders import PictureRefused, ask
from service.artifacts.drawing import NothingToCut, colour_of, cut_out, overlay
from tests.artifacts.test_pictures import bomb

WIDTH, HEIGHT = 60, 40
BOX = (10, 5, 30, 25)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    noise(WIDTH, HEIGHT).save(path)
    return path


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    return saved_mask(tmp_path / "mask.png")


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def saved_mask(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), box: tuple[int, int, int, int] = BOX) -> Path:
    image = Image.new("L", size)
    image.paste(255, box)
    image.paste(0, (box[0] + 5, box[1] + 5, box[0] + 8, box[1] + 8))
    image.save(path)
    return path


def pixels(image: Path | Image.Image) -> NDArray[np.uint8]:
    return np.asarray(Image.open(image) if isinstance(image, Path) else image)


def test_a_cut_out_is_the_picture_where_the_mask_is_and_nothing_elsewhere(picture: Path, mask: Path) -> None:
    cut = pixels(cut_out(picture, mask))
    left, top, right, bottom = BOX
    inside = pixels(mask)[top:bottom, left:right] > 127
    assert cut.shape == (20, 20, 4)
    assert np.array_equal(cut[..., 3] > 0, inside)
    assert set(cut[..., 3].ravel()) == {0, 255}
    assert np.array_equal(cut[inside][:, :3], pixels(picture)[top:bottom, left:right][inside])


def test_what_was_transparent_stays_so_in_a_cut_out(tmp_path: Path, mask: Path) -> None:
    image = noise(WIDTH, HEIGHT).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((WIDTH, HEIGHT)))
    image.save(tmp_path / "see-through.png")
    left, top, right, bottom = BOX
    expected = np.minimum(pixels(image)[..., 3], pixels(mask))[top:bottom, left:right]
    assert np.array_equal(pixels(cut_out(tmp_path / "see-through.png", mask))[..., 3], expected)


def test_of_an_empty_mask_there_is_nothing_to_cut(tmp_path: Path, picture: Path) -> None:
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "empty.png")
    with pytest.raises(NothingToCut):
        cut_out(picture, tmp_path / "empty.png")


def test_an_overlay_leaves_all_outside_its_masks_as_it_was(picture: Path, mask: Path) -> None:
    drawn, inside = pixels(overlay(picture, [(0, mask)])), pixels(mask) > 127
    assert np.array_equal(drawn[~inside], pixels(picture)[~inside])
    assert not np.array_equal(drawn[inside], pixels(picture)[inside])


def test_within_its_outline_a_mask_is_tinted_evenly(picture: Path, mask: Path) -> None:
    drawn, before = pixels(overlay(picture, [(3, mask)])), pixels(picture)
    x, y = 25, 20  # Away from every edge.
    share = drawing.TINT / 255
    expected = before[y, x] * (1 - share) + np.array(colour_of(3)) * share
    assert np.abs(drawn[y, x] - expected).max() <= 2
    assert tuple(drawn[BOX[1], BOX[0]]) == (255, 255, 255), "the outline"


def test_each_mask_has_a_colour_of_its_own(tmp_path: Path, picture: Path) -> None:
    other = saved_mask(tmp_path / "other.png", box=(40, 10, 58, 30))
    one = saved_mask(tmp_path / "one.png")
    both = pixels(overlay(picture, [(0, one), (1, other)]))
    assert np.array_equal(both[:, :35], pixels(overlay(picture, [(0, one)]))[:, :35])
    assert np.array_equal(both[:, 35:], pixels(overlay(picture, [(1, other)]))[:, 35:])
    assert len({colour_of(index) for index in range(256)}) > 200


def test_an_empty_mask_lays_nothing_over_the_picture(tmp_path: Path, picture: Path) -> None:
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "empty.png")
    assert np.array_equal(pixels(overlay(picture, [(0, tmp_path / "empty.png")])), pixels(picture))


@pytest.mark.parametrize("factor", [2, 3])
def test_a_mask_of_another_size_is_scaled_by_whole_pixels(tmp_path: Path, mask: Path, factor: int) -> None:
    large = noise(WIDTH * factor, HEIGHT * factor)
    large.save(tmp_path / "large.png")
    cut = pixels(cut_out(tmp_path / "large.png", mask))
    left, top, right, bottom = BOX
    inside = np.kron(pixels(mask)[top:bottom, left:right] > 127, np.ones((factor, factor))) > 0
    assert np.array_equal(cut[..., 3] > 0, inside)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path, orientation: int) -> None:
    lying, exif = noise(WIDTH, HEIGHT), Image.Exif()
    exif[0x0112] = orientation
    lying.save(tmp_path / "turned.png", exif=exif)
    upright = lying.rotate({3: 180, 6: -90, 8: 90}[orientation], expand=True)
    whole = saved_mask(tmp_path / "mask.png", upright.size, (0, 0, *upright.size))
    cut = pixels(cut_out(tmp_path / "turned.png", whole))
    kept = cut[..., 3] > 0
    assert np.array_equal(cut[kept][:, :3], pixels(upright)[kept])


def test_a_picture_is_not_turned_when_the_mask_is_of_the_lying_one(tmp_path: Path, mask: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(WIDTH, HEIGHT).save(tmp_path / "turned.png", exif=exif)
    noise(WIDTH, HEIGHT).save(tmp_path / "lying.png")
    assert np.array_equal(pixels(cut_out(tmp_path / "turned.png", mask)), pixels(cut_out(tmp_path / "lying.png", mask)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "CMYK", "RGBA"])
def test_any_mode_can_be_drawn_on(tmp_path: Path, mask: Path, mode: str) -> None:
    image = Image.new("I;16", (WIDTH, HEIGHT), 40_000) if mode == "I;16" else noise(WIDTH, HEIGHT).convert(mode)
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    image.save(path)
    drawn = overlay(path, [(0, mask)])
    assert (drawn.size, cut_out(path, mask).size) == ((WIDTH, HEIGHT), (20, 20))
    if mode == "I;16":
        assert pixels(drawn)[0, 0].tolist() == [40_000 >> 8] * 3


async def test_a_child_writes_what_is_drawn(tmp_path: Path, picture: Path, mask: Path) -> None:
    result = tmp_path / "result"
    await ask(drawing.__file__, "overlay", str(result), str(picture), f"2:{mask}")
    assert np.array_equal(pixels(result), pixels(overlay(picture, [(2, mask)])))
    await ask(drawing.__file__, "cutout", str(result), str(picture), f"2:{mask}")
    assert np.array_equal(pixels(result), pixels(cut_out(picture, mask)))


@pytest.mark.parametrize("content", [b"no picture", bomb(15_000, 14_000)], ids=["text", "bomb"])
async def test_a_child_refuses_what_it_cannot_draw_on(tmp_path: Path, mask: Path, content: bytes) -> None:
    (tmp_path / "picture").write_bytes(content)
    with pytest.raises(PictureRefused):
        await ask(drawing.__file__, "overlay", str(tmp_path / "result"), str(tmp_path / "picture"), f"0:{mask}")
