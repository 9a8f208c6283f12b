"""The FLUX upscaler's input and output."""

from typing import Any

import pytest

from service.catalog import Catalog, Lifted, LiftedFile, check_input
from service.catalog.flux_upscaler import FluxUpscalerInput, FluxUpscalerOutput
from service.errors import Invalid

MODEL = Catalog().find("fal-ai/flux-vision-upscaler")
LIMITS = {"upscale_factor": (1, 4), "creativity": (0, 1), "guidance": (0, 20), "steps": (4, 50)}

SEED: dict[str, Any] = {
    "image": {
        "height": 2048,
        "file_size": 8842156,
        "file_name": "20TZeUQtQ8oKgsCKXSL81_StableSR_00002_.png",
        "content_type": "image/png",
        "url": "https://v3b.fal.media/files/b/panda/20TZeUQtQ8oKgsCKXSL81_StableSR_00002_.png",
        "width": 2048,
    },
    "seed": 42,
    "timings": {"inference": 52.8},
    "caption": "A detailed photograph.",
}


def refusals(**fields: object) -> list[tuple[str, str]]:
    try:
        check_input(MODEL, {"image_url": "https://example.com/dog.png", **fields})
    except Invalid as refusal:
        return [(problem["loc"][-1], problem["type"]) for problem in refusal.detail]
    return []


def test_the_schema_shows_the_providers_defaults_and_limits() -> None:
    schema = FluxUpscalerInput.model_json_schema()
    assert schema["required"] == ["image_url"]
    properties = schema["properties"]
    assert {name: (properties[name]["minimum"], properties[name]["maximum"]) for name in LIMITS} == LIMITS
    defaults = {name: each["default"] for name, each in properties.items() if name not in ("image_url", "seed")}
    assert defaults == {
        "upscale_factor": 2,
        "creativity": 0.3,
        "guidance": 1,
        "steps": 20,
        "enable_safety_checker": True,
    }


@pytest.mark.parametrize(("field", "limits"), LIMITS.items())
def test_the_limits_themselves_are_accepted(field: str, limits: tuple[int, int]) -> None:
    assert [refusals(**{field: limit}) for limit in limits] == [[], []]


@pytest.mark.parametrize(("field", "limits"), LIMITS.items())
def test_what_is_beyond_the_limits_is_refused(field: str, limits: tuple[int, int]) -> None:
    assert refusals(**{field: limits[0] - 1}) == [(field, "greater_than_equal")]
    assert refusals(**{field: limits[1] + 1}) == [(field, "less_than_equal")]


@pytest.mark.parametrize("field", ["upscale_factor", "creativity", "guidance"])
def test_a_float_may_be_a_fraction_but_not_text(field: str) -> None:
    assert refusals(**{field: 1.0}) == []
    assert refusals(**{field: "1"}) == [(field, "float_type")]


@pytest.mark.parametrize("value", [0, 42, -1, 2**64, None])
def test_a_seed_is_any_integer_or_none(value: int | None) -> None:
    assert refusals(seed=value) == []


@pytest.mark.parametrize("value", [True, "42", 42.0])
def test_a_seed_is_nothing_else(value: object) -> None:
    assert refusals(seed=value) == [("seed", "int_type")]


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_the_safety_checker_is_a_boolean(value: object) -> None:
    assert refusals(enable_safety_checker=False) == []
    assert refusals(enable_safety_checker=value) == [("enable_safety_checker", "bool_type")]


def test_steps_are_whole() -> None:
    assert refusals(steps=20.0) == [("steps", "int_type")]


def test_the_seeds_output_is_lifted() -> None:
    assert MODEL.lift(SEED) == Lifted(
        text="A detailed photograph.",
        files=(LiftedFile(kind="image", index=0, **SEED["image"]),),
        seed=42,
        timings={"inference": 52.8},
    )


def test_the_output_schema_takes_the_seeds_output() -> None:
    assert FluxUpscalerOutput.model_validate(SEED).model_dump() == SEED
