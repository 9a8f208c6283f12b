"""What a file is, and what a mask covers, by looking and never by being told."""

import io
import signal
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.artifacts import decoders, pictures
from service.artifacts.decoders import PictureRefused, Starved, ask
from service.artifacts.measuring import measure, measure_mask
from service.artifacts.pictures import Mask, Picture, measure_in_child

OCTETS = Picture("application/octet-stream", None, None)


def saved(tmp_path: Path, image: Image.Image, kind: str = "PNG") -> Path:
    path = tmp_path / f"picture.{kind.lower()}"
    image.save(path, kind)
    return path


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(width: int, height: int) -> bytes:
    """A black RGB picture, a thousandth of its decoded size."""
    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(1 + 3 * width)) for _ in range(height)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def covered(width: int, height: int, inside: list[bool]) -> Mask:
    """Count without Pillow: pixel by pixel."""
    hits = [(index % width, index // width) for index, is_in in enumerate(inside) if is_in]
    if not hits:
        return Mask(0.0, None)
    columns, rows = zip(*hits, strict=True)
    return Mask(len(hits) / (width * height), (min(columns), min(rows), max(columns) + 1, max(rows) + 1))


def luminance(red: int, green: int, blue: int) -> int:
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def measured(mode: str, width: int, height: int, raw: bytes) -> Mask:
    buffer = io.BytesIO()
    Image.frombytes(mode, (width, height), raw).save(buffer, "PNG")
    return measure_mask(buffer)  # type: ignore[arg-type]


@st.composite
def rasters(draw: st.DrawFn, channels: int) -> tuple[int, int, bytes]:
    width, height = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    size = width * height * channels
    few = st.lists(st.sampled_from([0, 127, 128, 255]), min_size=size, max_size=size).map(bytes)
    return width, height, draw(few | st.binary(min_size=size, max_size=size))


@given(rasters(1))
def test_a_grey_mask_is_counted_exactly(raster: tuple[int, int, bytes]) -> None:
    width, height, raw = raster
    assert measured("L", *raster) == covered(width, height, [value >= 128 for value in raw])


@given(rasters(3))
def test_a_coloured_mask_is_counted_by_its_luminance(raster: tuple[int, int, bytes]) -> None:
    width, height, raw = raster
    pixels = zip(raw[::3], raw[1::3], raw[2::3], strict=True)
    assert measured("RGB", *raster) == covered(width, height, [luminance(*pixel) >= 128 for pixel in pixels])


@given(rasters(2))
def test_a_sixteen_bit_mask_is_counted_by_its_upper_half(raster: tuple[int, int, bytes]) -> None:
    width, height, raw = raster
    assert measured("I;16", *raster) == covered(width, height, [high >= 128 for high in raw[1::2]])


@given(rasters(1), st.sampled_from([0, 90, 255]))
def test_alpha_is_the_mask_where_the_colour_says_nothing(raster: tuple[int, int, bytes], colour: int) -> None:
    width, height, alphas = raster
    opaque = set(alphas) == {255}
    expected = [(colour if opaque else alpha) >= 128 for alpha in alphas]
    grey = b"".join(bytes([colour, alpha]) for alpha in alphas)
    full = b"".join(bytes([colour, colour, colour, alpha]) for alpha in alphas)
    assert measured("LA", width, height, grey) == covered(width, height, expected)
    assert measured("RGBA", width, height, full) == covered(width, height, expected)


def test_a_colour_that_varies_is_the_mask_whatever_the_alpha_says() -> None:
    raw = bytes([255, 255, 255, 0, 0, 0, 0, 255])
    assert measured("RGBA", 2, 1, raw) == Mask(0.5, (0, 0, 1, 1))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_palette_and_bilevel_masks_are_counted(tmp_path: Path, kind: str) -> None:
    image = Image.new("1", (20, 10))
    image.paste(1, (5, 2, 15, 6))
    expected = Mask(0.2, (5, 2, 15, 6))
    assert measure_mask(saved(tmp_path, image, kind)) == expected
    assert measure_mask(saved(tmp_path, image.convert("RGB").convert("P"), kind)) == expected


def test_a_palette_with_a_transparent_colour_is_a_mask_by_alpha(tmp_path: Path) -> None:
    image = Image.new("P", (4, 1))
    image.putpalette([0, 0, 0] * 2)
    image.putpixel((3, 0), 1)
    path = tmp_path / "mask.png"
    image.save(path, transparency=0)
    assert measure_mask(path) == Mask(0.25, (3, 0, 4, 1))


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/gif"), ("BMP", "image/bmp")],
)
def test_a_picture_is_named_by_its_bytes_and_measured(tmp_path: Path, kind: str, content_type: str) -> None:
    path = saved(tmp_path, Image.new("RGB", (31, 17)), kind).rename(tmp_path / "liar.txt")
    assert measure(path) == Picture(content_type, 31, 17)


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "PPM", "EPS", "PDF", "TGA", "ICNS", "AVIF"])
def test_a_picture_of_another_kind_is_no_picture(tmp_path: Path, kind: str) -> None:
    assert measure(saved(tmp_path, Image.new("RGB", (32, 32)), kind)).width is None


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", OCTETS.content_type),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", OCTETS.content_type),
        (b"<!doctype html><script>", OCTETS.content_type),
        (b"\x89PNG\r\n\x1a\n", OCTETS.content_type),
        (b"\0\0\0\x18ftypmp42", "video/mp4"),
        (b"\0\0\0\x18ftypavif", OCTETS.content_type),
        (b"%PDF-1.7", "application/pdf"),
        (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"),
    ],
)
def test_anything_else_has_a_type_only_if_it_is_a_known_one(tmp_path: Path, content: bytes, content_type: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    assert measure(path) == Picture(content_type, None, None)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_half_a_picture_is_no_picture(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, Image.effect_noise((200, 200), 90).convert("RGB"), kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert measure(path) == OCTETS


def test_a_file_that_is_not_there_is_not_called_anything(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        measure(tmp_path / "nothing.png")


def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(15_000, 14_000))
    assert path.stat().st_size < 1_000_000
    for look in (measure, measure_mask):
        with pytest.raises(PictureRefused):
            look(path)


async def test_a_child_measures_the_same(tmp_path: Path) -> None:
    image = Image.new("L", (40, 20))
    image.paste(255, (10, 5, 20, 10))
    path = saved(tmp_path, image)
    assert await measure_in_child(path, mask=True) == (measure(path), measure_mask(path))
    assert await measure_in_child(path, mask=False) == (measure(path), None)


async def test_an_empty_mask_has_no_box_from_a_child_either(tmp_path: Path) -> None:
    _, mask = await measure_in_child(saved(tmp_path, Image.new("L", (3, 3))), mask=True)
    assert mask == Mask(0.0, None)


async def test_a_child_has_no_mask_of_what_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "name with spaces é.png"
    path.write_bytes(b"not a picture")
    assert await measure_in_child(path, mask=True) == (OCTETS, None)


async def test_a_child_refuses_a_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(15_000, 14_000))
    with pytest.raises(PictureRefused, match="210000000"):
        await measure_in_child(path, mask=True)


LESS = "from service.artifacts import decoders\n\n    decoders.CPU_SECONDS = 1\n    answer(main)"


# What a child does: note that it was started, and end as if from outside.
COUNTED = "looks = path / 'looks'; looks.open('a').write('x')"
KILLED = "__import__('os').kill(__import__('os').getpid(), 9)"


def looks(folder: Path) -> int:
    """How many children looked at it."""
    return (folder / "looks").stat().st_size


def child_with(measure: str, folder: Path) -> str:
    """The real child, but for its `measure`."""
    source = Path(pictures.MEASURING).read_text().replace("    answer(main)", f"    {LESS}")
    child = folder / "child.py"
    child.write_text(source.replace("def main(", f"def measure(path):\n    {measure}\n\n\ndef main("))
    return str(child)


PAUSES = (0.0, 0.0)


async def misbehaving(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> str:
    """Why a picture is refused that makes its decoder do that."""
    monkeypatch.setattr(pictures, "MEASURING", child_with(body, tmp_path))
    with pytest.raises(PictureRefused) as caught:
        await measure_in_child(tmp_path, mask=False, pauses=PAUSES)
    return str(caught.value)


async def test_a_child_may_not_take_all_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "MemoryError" in await misbehaving(monkeypatch, tmp_path, "bytearray(2 << 30)")


async def test_a_child_may_not_take_all_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = await misbehaving(monkeypatch, tmp_path, f"{COUNTED}; any(iter(int, 1))")
    assert reason == f"the decoder died of signal {signal.SIGXCPU.value}"
    assert looks(tmp_path) == 1, "that is the picture's fault"


async def test_a_child_may_not_take_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "WALL_SECONDS", 0.5)
    monkeypatch.setattr(pictures, "MEASURING", child_with("__import__('time').sleep(60)", tmp_path))
    with pytest.raises(Starved, match="not decoded within"):
        await ask(pictures.MEASURING, "picture", str(tmp_path))


async def test_a_picture_whose_decoder_was_killed_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the machine ran out of memory: the picture is as good as before."""
    body = f"{COUNTED}; looks.stat().st_size < 3 and {KILLED}; return Picture('image/png', 4, 3)"
    monkeypatch.setattr(pictures, "MEASURING", child_with(body, tmp_path))
    assert await measure_in_child(tmp_path, mask=False, pauses=PAUSES) == (Picture("image/png", 4, 3), None)
    assert looks(tmp_path) == 3


async def test_a_picture_whose_decoder_is_killed_each_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "killed" in await misbehaving(monkeypatch, tmp_path, f"{COUNTED}; {KILLED}")
    assert looks(tmp_path) == 1 + len(PAUSES)


async def test_a_child_inherits_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAL_KEY", "canary")
    reason = await misbehaving(monkeypatch, tmp_path, "raise ValueError(dict(__import__('os').environ))")
    assert "ValueError" in reason
    assert "canary" not in reason


async def test_a_child_that_cannot_start_is_our_fault_and_not_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MEASURING", str(tmp_path / "missing.py"))
    with pytest.raises(RuntimeError, match="could not run"):
        await measure_in_child(tmp_path, mask=False)
