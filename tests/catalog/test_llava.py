"""LLaVA's input and output."""

import pytest

from service.catalog import Catalog, Lifted, check_input
from service.catalog.llava import LlavaInput, LlavaOutput
from service.errors import Invalid

MODEL = Catalog().find("fal-ai/llava-next")
REQUIRED = {"image_url": "https://example.com/dog.png", "prompt": "Hello"}


def refusals(**fields: object) -> list[tuple[str, str]]:
    try:
        check_input(MODEL, {**REQUIRED, **fields})
    except Invalid as refusal:
        return [(problem["loc"][-1], problem["type"]) for problem in refusal.detail]
    return []


def test_the_schema_shows_the_providers_fields_and_defaults() -> None:
    schema = LlavaInput.model_json_schema()
    assert schema["required"] == ["image_url", "prompt"]
    assert {name: each.get("default") for name, each in schema["properties"].items()} == {
        "image_url": None,
        "prompt": None,
        "max_tokens": 64,
        "temperature": 0.2,
        "top_p": 1,
    }


@pytest.mark.parametrize("fields", [{"max_tokens": 1}, {"temperature": 0}, {"temperature": 1.5}, {"top_p": 0.1}])
def test_sampling_settings_are_accepted(fields: dict[str, object]) -> None:
    assert refusals(**fields) == []


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("max_tokens", 0, "greater_than_equal"),
        ("max_tokens", 64.0, "int_type"),
        ("max_tokens", "64", "int_type"),
        ("temperature", "0.2", "float_type"),
        ("temperature", True, "float_type"),
        ("top_p", None, "float_type"),
        ("prompt", None, "string_type"),
    ],
)
def test_what_does_not_fit_is_refused_at_its_field(field: str, value: object, kind: str) -> None:
    assert refusals(**{field: value}) == [(field, kind)]


def test_every_problem_is_told_at_once() -> None:
    assert refusals(max_tokens=0, temperature="hot", image_url="dog.png") == [
        ("image_url", "url_scheme"),
        ("max_tokens", "greater_than_equal"),
        ("temperature", "float_type"),
    ]


def test_the_seeds_output_is_lifted() -> None:
    assert MODEL.lift({"output": "Leonardo da Vinci", "partial": False}) == Lifted(text="Leonardo da Vinci")


def test_the_output_has_text_and_whether_it_is_partial() -> None:
    assert LlavaOutput(output="Leonardo").model_dump() == {"output": "Leonardo", "partial": False}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_tokens": 3521}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"prompt": "an <image> in it"}, "prompt"),
    ],
)
def test_what_the_provider_may_take_and_the_model_cannot_is_a_limit(fields: dict[str, object], field: str) -> None:
    assert refusals(**fields) == []
    assert [problem[0] for problem in MODEL.limits(LlavaInput.model_validate({**REQUIRED, **fields}))] == [field]


def test_the_longest_answer_that_leaves_room_for_an_image_is_within_the_limits() -> None:
    assert MODEL.limits(LlavaInput.model_validate({**REQUIRED, "max_tokens": 3520})) == []
