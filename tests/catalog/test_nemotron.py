"""Nemotron's input and above all its step rule, held against an oracle that counts instead of dividing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalog import Catalog, Lifted, check_input
from service.catalog.nemotron import NemotronInput
from service.errors import Invalid

MODEL = Catalog().find("fal-ai/nemotron-diffusion-vlm")
REQUIRED: dict[str, Any] = {"image_url": "https://example.com/dog.png", "prompt": "Hello"}


def refusals(**fields: Any) -> list[tuple[str, str]]:
    try:
        check_input(MODEL, {**REQUIRED, **fields})
    except Invalid as refusal:
        return [(problem["loc"][-1], problem["type"]) for problem in refusal.detail]
    return []


def count_blocks(max_tokens: int, block_length: int) -> int:
    return len(range(0, max_tokens, block_length))


def schedules(blocks: int, most: int) -> list[int]:
    return list(range(blocks, most + 1, blocks))


def test_the_defaults_are_the_providers() -> None:
    properties = NemotronInput.model_json_schema()["properties"]
    assert {name: schema["default"] for name, schema in properties.items() if "default" in schema} == {
        "max_tokens": 512,
        "num_inference_steps": 256,
        "inference_steps": 256,
        "block_length": 32,
        "threshold": 0.9,
    }


def test_only_the_alias_is_hidden() -> None:
    properties = NemotronInput.model_json_schema()["properties"]
    assert [name for name, schema in properties.items() if schema.get("x-hidden")] == ["inference_steps"]


@pytest.mark.parametrize("field", ["max_tokens", "num_inference_steps", "inference_steps", "block_length"])
@pytest.mark.parametrize("value", [True, "256", 256.0, None, [256]])
def test_an_integer_must_be_an_integer(field: str, value: object) -> None:
    assert refusals(**{field: value}) == [(field, "int_type")]


@pytest.mark.parametrize("field", ["max_tokens", "block_length"])
@pytest.mark.parametrize("value", [0, -1, -(10**100)])
def test_lengths_are_at_least_one(field: str, value: int) -> None:
    assert refusals(**{field: value}) == [(field, "greater_than_equal")]


@pytest.mark.parametrize("value", [0, 1, 0.5, -1, 2.5])
def test_the_threshold_is_any_number(value: float) -> None:
    assert refusals(threshold=value) == []


@pytest.mark.parametrize("value", [True, "0.9", None, 10**400])
def test_the_threshold_must_be_a_number(value: object) -> None:
    assert refusals(threshold=value) == [("threshold", "float_type")]


@pytest.mark.parametrize("value", [1, None, ["Hello"]])
def test_the_prompt_must_be_text(value: object) -> None:
    assert refusals(prompt=value) == [("prompt", "string_type")]


@pytest.mark.parametrize("name", ["num_inference_steps", "inference_steps"])
@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        (16, None),
        (256, None),
        (272, None),
        (15, "greater_than_equal"),
        (0, "greater_than_equal"),
        (-16, "greater_than_equal"),
        (17, "multiple_of"),
        (250, "multiple_of"),
    ],
)
def test_explicit_steps_fill_sixteen_default_blocks(name: str, steps: int, kind: str | None) -> None:
    assert refusals(**{name: steps}) == ([(name, kind)] if kind else [])


def test_the_default_sent_explicitly_is_explicit() -> None:
    assert refusals(max_tokens=192) == []
    assert refusals(max_tokens=192, num_inference_steps=256) == [("num_inference_steps", "multiple_of")]
    assert refusals(max_tokens=192, inference_steps=256) == [("inference_steps", "multiple_of")]


def test_both_names_may_be_sent_if_they_agree() -> None:
    assert refusals(num_inference_steps=32, inference_steps=32) == []
    assert refusals(num_inference_steps=32, inference_steps=48) == [("inference_steps", "value_error")]
    assert refusals(num_inference_steps=256, inference_steps=16) == [("inference_steps", "value_error")]


@pytest.mark.parametrize(
    ("max_tokens", "block_length", "steps"),
    [(512, 32, 256), (192, 32, 258), (96, 32, 258), (100, 32, 256), (1024, 24, 258), (8192, 8, 1024), (1, 32, 256)],
)
def test_omitted_steps_are_256_rounded_up_to_whole_blocks(max_tokens: int, block_length: int, steps: int) -> None:
    assert NemotronInput(**REQUIRED, max_tokens=max_tokens, block_length=block_length).steps == steps


@given(
    max_tokens=st.integers(1, 2000),
    block_length=st.integers(1, 200),
    steps=st.integers(-5, 3000),
    name=st.sampled_from(["num_inference_steps", "inference_steps"]),
)
def test_explicit_steps_are_accepted_exactly_if_they_fill_the_blocks(
    max_tokens: int, block_length: int, steps: int, name: str
) -> None:
    fits = steps in schedules(count_blocks(max_tokens, block_length), most=3000)
    accepted = not refusals(max_tokens=max_tokens, block_length=block_length, **{name: steps})
    assert accepted == fits


@given(max_tokens=st.integers(1, 2000), block_length=st.integers(1, 200))
def test_omitted_steps_are_the_first_schedule_from_256_on(max_tokens: int, block_length: int) -> None:
    blocks = count_blocks(max_tokens, block_length)
    resolved = NemotronInput(**REQUIRED, max_tokens=max_tokens, block_length=block_length).steps
    assert resolved == next(steps for steps in schedules(blocks, most=4000) if steps >= 256)
    assert refusals(max_tokens=max_tokens, block_length=block_length, num_inference_steps=resolved) == []


@given(first=st.integers(1, 600), second=st.integers(1, 600), max_tokens=st.integers(1, 300))
def test_two_names_are_judged_as_one_value(first: int, second: int, max_tokens: int) -> None:
    both = refusals(num_inference_steps=first, inference_steps=second, max_tokens=max_tokens)
    assert both == (
        refusals(num_inference_steps=first, max_tokens=max_tokens)
        if first == second
        else [("inference_steps", "value_error")]
    )


def test_the_steps_to_run_are_those_that_were_sent() -> None:
    assert NemotronInput(**REQUIRED, num_inference_steps=32).steps == 32
    assert NemotronInput(**REQUIRED, inference_steps=48).steps == 48


def test_an_output_is_lifted() -> None:
    usage = {"prompt_tokens": 310, "completion_tokens": 9, "num_function_evals": 21}
    output = {"output": "A dog.", "usage": usage, "timings": {"total_time": 1.25, "decode_time": 0}}
    assert MODEL.lift(output) == Lifted(text="A dog.", usage=usage, timings={"total_time": 1.25, "decode_time": 0.0})


def test_the_seeds_empty_usage_and_timings_are_lifted() -> None:
    assert MODEL.lift({"output": "A dog.", "usage": {}, "timings": {}}) == Lifted(text="A dog.")
