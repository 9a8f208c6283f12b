"""A picture that cannot be had or read is fal's 422 at the field that named it."""

from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from tests.sandbox.pictures import bomb, data_uri, encoded, shapes
from tests.sandbox.receiver import Receiver
from tests.sandbox.running import Sandbox, running_sandbox

LLAVA = "fal-ai/llava-next"


def problem(sandbox: Sandbox, url: str) -> dict[str, Any]:
    problem = sandbox.problem(LLAVA, image_url=url, prompt="describe")
    assert problem["loc"] == ["body", "image_url"]
    return problem


def refused(sandbox: Sandbox, url: str) -> str:
    return str(problem(sandbox, url)["type"])


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_common_formats_are_read(sandbox: Sandbox, form: str) -> None:
    url = data_uri(encoded(shapes(), form), f"image/{form.lower()}")
    assert "600 by 400" in sandbox.run(LLAVA, image_url=url, prompt="describe")["output"]


def test_other_formats_are_refused(sandbox: Sandbox) -> None:
    assert refused(sandbox, data_uri(encoded(shapes(), "TIFF"), "image/tiff")) == "image_load_error"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(7000, 6000), (12_000, 10_000), (65_000, 65_000)])
def test_a_decompression_bomb_is_refused(sandbox: Sandbox, width: int, height: int) -> None:
    told = problem(sandbox, data_uri(bomb(width, height)))
    assert told["type"] == "image_load_error"
    assert "pixels" in told["msg"]


@pytest.mark.parametrize("data", [b"", b"no picture", encoded(shapes())[:300], bomb(50, 50)])
def test_bytes_that_are_no_picture_are_refused(sandbox: Sandbox, data: bytes) -> None:
    assert refused(sandbox, data_uri(data)) == "image_load_error"


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,%%%",
        "data:image/png,abc",
        "file:///etc/passwd",
        "picture.png",
        "http://127.0.0.1:1/a.png",
    ],
)
def test_an_address_that_leads_nowhere_is_refused(sandbox: Sandbox, url: str) -> None:
    assert refused(sandbox, url) == "file_download_error"


def test_a_missing_file_is_refused(sandbox: Sandbox, receiver: Receiver) -> None:
    assert refused(sandbox, f"{receiver.url}/pictures/missing") == "file_download_error"


def test_a_file_over_the_limit_is_refused(receiver: Receiver) -> None:
    url = receiver.serve("large", bytes(3000), "image/png")
    with running_sandbox(fetch_max_bytes=2000) as small:
        assert refused(small, url) == "file_too_large"
        assert refused(small, data_uri(bytes(3000))) == "file_too_large"


def test_transparency_counts_as_white(sandbox: Sandbox) -> None:
    clear = data_uri(encoded(Image.new("RGBA", (20, 20), (255, 0, 0, 0))))
    assert "white (100%)" in sandbox.run(LLAVA, image_url=clear, prompt="describe")["output"]


def test_a_picture_is_turned_upright(sandbox: Sandbox) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = BytesIO()
    shapes().save(buffer, "JPEG", exif=exif)
    url = data_uri(buffer.getvalue(), "image/jpeg")
    assert "400 by 600" in sandbox.run(LLAVA, image_url=url, prompt="describe")["output"]
