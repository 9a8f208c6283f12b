"""MiniCPM-V's input and output."""

import pytest

from service.catalog import Catalog, Lifted, check_input
from service.catalog.minicpm import MiniCPMInput
from service.errors import Invalid

MODEL = Catalog().find("fal-ai/mini-cpm")
IMAGE = "https://example.com/dog.png"


def test_both_fields_are_required() -> None:
    assert MiniCPMInput.model_json_schema()["required"] == ["image_urls", "prompt"]


@pytest.mark.parametrize("count", [1, 2, 50])
def test_one_image_or_many_are_accepted(count: int) -> None:
    check_input(MODEL, {"image_urls": [IMAGE] * count, "prompt": "Hello"})


@pytest.mark.parametrize(
    ("image_urls", "loc", "kind"),
    [
        ([], ["image_urls"], "too_short"),
        (IMAGE, ["image_urls"], "list_type"),
        (None, ["image_urls"], "list_type"),
        ({"0": IMAGE}, ["image_urls"], "list_type"),
        ([IMAGE, None], ["image_urls", 1], "string_type"),
        ([[IMAGE]], ["image_urls", 0], "string_type"),
    ],
)
def test_anything_but_a_list_of_images_is_refused(image_urls: object, loc: list[str | int], kind: str) -> None:
    with pytest.raises(Invalid) as refusal:
        check_input(MODEL, {"image_urls": image_urls, "prompt": "Hello"})
    assert [(problem["loc"], problem["type"]) for problem in refusal.value.detail] == [(["body", "input", *loc], kind)]


def test_an_output_is_lifted() -> None:
    assert MODEL.lift({"output": "Mona Lisa"}) == Lifted(text="Mona Lisa")
    assert MODEL.lift({"output": ""}) == Lifted(text="")


@pytest.mark.parametrize(("count", "problems"), [(16, []), (17, ["image_urls"])])
def test_more_images_than_the_model_can_hold_are_a_limit(count: int, problems: list[str]) -> None:
    asked = MiniCPMInput.model_validate({"image_urls": [IMAGE] * count, "prompt": "Hello"})
    assert [problem[0] for problem in MODEL.limits(asked)] == problems
