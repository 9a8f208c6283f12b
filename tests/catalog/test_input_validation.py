"""What every model's input is held to, whatever its schema."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalog import Catalog, Model, all_models, check_input
from service.errors import Invalid

PASSTHROUGH = Catalog(["acme/any"]).find("acme/any")
EVERY_MODEL = pytest.mark.parametrize("model", [*all_models(), PASSTHROUGH], ids=lambda model: model.id)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)


def problems(model: Model, value: Any) -> list[dict[str, Any]]:
    with pytest.raises(Invalid) as refusal:
        check_input(model, value)
    assert refusal.value.status == 422
    return list(refusal.value.detail)


def nested(depth: int) -> Any:
    value: Any = "bottom"
    for level in range(depth):
        value = {"a": value} if level % 2 else [value]
    return value


@EVERY_MODEL
@pytest.mark.parametrize("value", [None, [], "text", 1, True, 0.5])
def test_an_input_that_is_no_object_is_refused(model: Model, value: Any) -> None:
    assert problems(model, value) == [
        {"loc": ["body", "input"], "msg": "Input should be an object", "type": "dict_type"}
    ]


@EVERY_MODEL
@pytest.mark.parametrize("bad", ["\x00", "a\x00b", "\ud800", "é\udfff"])
def test_text_that_cannot_be_stored_is_refused_where_it_stands(model: Model, bad: str) -> None:
    (problem,) = problems(model, {**model.example, "extra": [{"deep": [1, bad]}]})
    assert problem["loc"] == ["body", "input", "extra", 0, "deep", 1]
    assert problem["type"] == "string_unicode"


@EVERY_MODEL
@pytest.mark.parametrize("bad", ["\x00", "\ud800"])
def test_a_key_that_cannot_be_stored_is_refused_at_its_object(model: Model, bad: str) -> None:
    (problem,) = problems(model, {**model.example, "extra": {bad: 1}})
    assert problem["loc"] == ["body", "input", "extra"]
    assert problem["msg"].isascii()


@EVERY_MODEL
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_cannot_hold_is_refused(model: Model, bad: float) -> None:
    (problem,) = problems(model, {**model.example, "extra": [bad]})
    assert (problem["loc"], problem["type"]) == (["body", "input", "extra", 0], "finite_number")


@EVERY_MODEL
def test_sixty_four_levels_are_accepted_and_one_more_is_refused(model: Model) -> None:
    check_input(model, {**model.example, "extra": nested(63)})
    (problem,) = problems(model, {**model.example, "extra": nested(64)})
    assert problem["type"] == "too_deep"
    assert problem["loc"][:3] == ["body", "input", "extra"]


def test_a_hundred_thousand_levels_are_refused() -> None:
    assert problems(PASSTHROUGH, {"extra": nested(100_000)})[0]["type"] == "too_deep"


@EVERY_MODEL
def test_unknown_fields_are_no_business_of_the_schema(model: Model) -> None:
    check_input(model, {**model.example, "sync_mode": True, "future": {"any": [None, 1.5, "thing"]}})


@EVERY_MODEL
def test_other_scripts_and_emoji_are_text(model: Model) -> None:
    check_input(model, {**model.example, "note": "Опиши 图片 🛻 \u202e"})


@EVERY_MODEL
def test_checking_changes_nothing(model: Model) -> None:
    value = {**model.example, "extra": [1]}
    check_input(model, value)
    assert value == {**model.example, "extra": [1]}


@pytest.mark.parametrize("model", all_models(), ids=lambda model: model.id)
def test_an_empty_input_names_every_missing_field(model: Model) -> None:
    assert model.Input is not None
    required = [name for name, field in model.Input.model_fields.items() if field.is_required()]
    assert problems(model, {}) == [
        {"loc": ["body", "input", name], "msg": "Field required", "type": "missing"} for name in required
    ]


def test_a_passthrough_input_may_be_empty() -> None:
    check_input(PASSTHROUGH, {})


def test_the_place_of_the_input_is_the_callers_to_say() -> None:
    with pytest.raises(Invalid) as refusal:
        check_input(Catalog().find("fal-ai/llava-next"), {"prompt": "Hello"}, loc=("body", "jobs", 3, "input"))
    assert refusal.value.detail[0]["loc"] == ["body", "jobs", 3, "input", "image_url"]


def test_a_refusal_does_not_repeat_the_input() -> None:
    model = Catalog().find("fal-ai/mini-cpm")
    for value in ({"image_urls": ["x" * 10_000] * 10_000}, {"k" * 1_000_000: "\x00"}, {"prompt": ["x" * 1_000_000]}):
        assert len(str(problems(model, value))) < 5000


@given(json_values)
def test_any_json_is_accepted_or_refused_in_fals_form(value: Any) -> None:
    for model in (*all_models(), PASSTHROUGH):
        try:
            check_input(model, value)
        except Invalid as refusal:
            for problem in refusal.detail:
                assert problem.keys() == {"loc", "msg", "type"}
                assert problem["loc"][:2] == ["body", "input"]
                str(problem).encode()


@given(st.dictionaries(st.text(st.characters(exclude_characters="\0", codec="utf-8")), st.integers() | st.booleans()))
def test_a_passthrough_model_takes_any_object_that_can_be_stored(value: dict[str, Any]) -> None:
    check_input(PASSTHROUGH, value)
