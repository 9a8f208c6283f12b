"""The five models work on the picture they are given: masks, sizes and figures are checked against the drawing."""

from io import BytesIO
from math import pi
from typing import Any

import pytest
from PIL import Image

from tests.sandbox.pictures import RED_DISC, SIZE, WHITE_BOX, data_uri, encoded, shapes
from tests.sandbox.receiver import Receiver
from tests.sandbox.running import Sandbox

SA2VA = "fal-ai/sa2va/8b/image"
NEMOTRON = "fal-ai/nemotron-diffusion-vlm"
UPSCALER = "fal-ai/flux-vision-upscaler"
LLAVA = "fal-ai/llava-next"


def fetch(sandbox: Sandbox, file: dict[str, Any]) -> Image.Image:
    data = sandbox.http.get(file["url"]).raise_for_status().content
    assert file["file_size"] == len(data)
    picture = Image.open(BytesIO(data))
    assert picture.size == (file["width"], file["height"])
    return picture


def covered(mask: Image.Image) -> int:
    counts = {value: count for count, value in mask.getcolors() or []}
    assert set(counts) <= {0, 255}
    return counts[255]


def shape_areas() -> dict[str, float]:
    left, top, right, bottom = WHITE_BOX
    white = (right - left) * (bottom - top)
    red = pi / 4 * (RED_DISC[2] - RED_DISC[0]) * (RED_DISC[3] - RED_DISC[1])
    return {
        "a blue region in the middle": SIZE[0] * SIZE[1] - white - red,
        "a white region at the left": white,
        "a red region at the right": red,
    }


def test_sa2va_cuts_a_mask_for_each_shape_in_the_order_of_its_text(sandbox: Sandbox, shapes_url: str) -> None:
    output = sandbox.run(SA2VA, image_url=shapes_url, prompt="segment")
    pieces = output["output"].split("<p>  ")[1:]
    labels = [piece.split("  </p>   [SEG] ")[0] for piece in pieces]
    areas = [covered(fetch(sandbox, mask)) for mask in output["masks"]]
    assert dict(zip(labels, areas, strict=True)) == pytest.approx(shape_areas(), rel=0.02)


def test_a_sa2va_mask_lies_exactly_on_its_shape(sandbox: Sandbox, shapes_url: str) -> None:
    output = sandbox.run(SA2VA, image_url=shapes_url, prompt="segment", sandbox={"masks": "object"})
    mask = fetch(sandbox, output["masks"]["a white region at the left"])
    assert mask.mode == "L"
    assert mask.size == SIZE
    assert mask.getbbox() == WHITE_BOX


def test_sa2va_text_has_the_models_own_form(sandbox: Sandbox, shapes_url: str) -> None:
    text = sandbox.run(SA2VA, image_url=shapes_url, prompt="segment")["output"]
    assert text.startswith("[sandbox]")
    assert "<p>  a white region at the left  </p>   [SEG] " in text
    assert text.endswith("<|im_end|>")


def test_sa2va_finds_one_region_in_a_plain_picture(sandbox: Sandbox) -> None:
    plain = data_uri(encoded(Image.new("RGB", (40, 30), "green")))
    [mask] = sandbox.run(SA2VA, image_url=plain, prompt="segment")["masks"]
    assert covered(fetch(sandbox, mask)) == 40 * 30


def test_sa2va_labels_are_unique_and_at_most_five(sandbox: Sandbox) -> None:
    picture = Image.new("RGB", (300, 300), "white")
    for x in range(0, 300, 60):
        picture.paste("black", (x, 0, x + 30, 300))
    output = sandbox.run(SA2VA, image_url=data_uri(encoded(picture)), prompt="all", sandbox={"masks": "object"})
    assert len(output["masks"]) == output["output"].count("[SEG]") == 5


@pytest.mark.parametrize("factor", [1, 1.5, 4])
def test_the_upscaler_enlarges_by_the_factor(sandbox: Sandbox, shapes_url: str, factor: float) -> None:
    output = sandbox.run(UPSCALER, image_url=shapes_url, upscale_factor=factor, seed=7)
    picture = fetch(sandbox, output["image"])
    assert picture.size == (round(SIZE[0] * factor), round(SIZE[1] * factor))
    assert picture.getpixel((0, 0)) == shapes().getpixel((0, 0))
    assert output["seed"] == 7
    assert output["timings"]["inference"] > 0
    assert output["caption"].startswith("[sandbox]")


def test_the_upscaler_draws_a_seed_when_none_is_given(sandbox: Sandbox, shapes_url: str) -> None:
    assert isinstance(sandbox.run(UPSCALER, image_url=shapes_url)["seed"], int)


def test_the_upscaler_refuses_an_output_of_too_many_pixels(sandbox: Sandbox) -> None:
    large = data_uri(encoded(Image.new("1", (2600, 2600))))
    problem = sandbox.problem(UPSCALER, image_url=large, upscale_factor=4)
    assert (problem["loc"], problem["type"]) == (["body", "image_url"], "image_too_large")


def test_llava_says_what_was_measured(sandbox: Sandbox, shapes_url: str) -> None:
    output = sandbox.run(LLAVA, image_url=shapes_url, prompt="describe", max_tokens=500)
    assert output["output"].startswith("[sandbox]")
    assert "600 by 400 pixels" in output["output"]
    assert "blue (68%), white (19%) and red (13%)" in output["output"]
    assert output["partial"] is False


def test_llava_stops_after_max_tokens(sandbox: Sandbox, shapes_url: str) -> None:
    output = sandbox.run(LLAVA, image_url=shapes_url, prompt="describe", max_tokens=3)
    assert output == {"output": "[sandbox] A landscape", "partial": True}


def test_mini_cpm_describes_each_of_its_pictures(sandbox: Sandbox, shapes_url: str) -> None:
    other = data_uri(encoded(Image.new("RGB", (30, 50), "black")))
    output = sandbox.run("fal-ai/mini-cpm", image_urls=[shapes_url, other], prompt="compare")["output"]
    assert output.startswith("[sandbox] Picture 1: A landscape picture of 600 by 400")
    assert "Picture 2: A portrait picture of 30 by 50" in output


def test_mini_cpm_names_the_picture_that_is_wrong(sandbox: Sandbox, shapes_url: str) -> None:
    problem = sandbox.problem("fal-ai/mini-cpm", image_urls=[shapes_url, "nothing"], prompt="compare")
    assert problem["loc"] == ["body", "image_urls", 1]


def test_nemotron_counts_its_tokens_and_steps(sandbox: Sandbox, shapes_url: str) -> None:
    output = sandbox.run(NEMOTRON, image_url=shapes_url, prompt="one two three", max_tokens=40, block_length=32)
    usage = output["usage"]
    assert usage["prompt_tokens"] == 3
    assert usage["completion_tokens"] == len(output["output"].split()) == 40
    assert usage["num_function_evals"] == 256


def test_nemotron_times_its_parts(sandbox: Sandbox, shapes_url: str) -> None:
    timings = sandbox.run(NEMOTRON, image_url=shapes_url, prompt="time")["timings"]
    total = timings.pop("total_time")
    assert set(timings) == {
        "image_validation_time",
        "preprocessing_time",
        "gpu_transfer_time",
        "generation_time",
        "decode_time",
    }
    assert 0 < sum(timings.values()) <= total


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        ({"num_inference_steps": 15}, "greater_than_equal"),
        ({"inference_steps": 17}, "multiple_of"),
        ({"num_inference_steps": 16, "inference_steps": 32}, "value_error"),
    ],
)
def test_nemotron_refuses_steps_that_do_not_fit_its_blocks(
    sandbox: Sandbox, shapes_url: str, steps: dict[str, int], kind: str
) -> None:
    problem = sandbox.problem(NEMOTRON, image_url=shapes_url, prompt="count", **steps)
    assert (problem["loc"], problem["type"]) == (["body", next(iter(steps))], kind)


@pytest.mark.parametrize(
    ("model", "input", "loc"),
    [
        (UPSCALER, {"upscale_factor": 5}, ["body", "upscale_factor"]),
        (LLAVA, {"max_tokens": 0, "prompt": "x"}, ["body", "max_tokens"]),
        (SA2VA, {}, ["body", "prompt"]),
    ],
)
def test_an_input_that_does_not_fit_is_a_422_that_names_the_field(
    sandbox: Sandbox, shapes_url: str, model: str, input: dict[str, Any], loc: list[str]
) -> None:
    assert sandbox.problem(model, image_url=shapes_url, **input)["loc"] == loc


def test_a_picture_can_be_fetched_over_http(sandbox: Sandbox, receiver: Receiver) -> None:
    url = receiver.serve("shapes.png", encoded(shapes()), "image/png")
    assert "600 by 400" in sandbox.run(LLAVA, image_url=url, prompt="describe")["output"]
