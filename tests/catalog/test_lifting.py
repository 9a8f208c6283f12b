"""The lift by shape: it keeps what fits, leaves out what does not and never raises."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalog import Catalog, Lifted, LiftedFile
from service.catalog.lifting import lift

URL = "https://example.com/a.png"
LIFTS = [model.lift for model in Catalog(["acme/any"]).models]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from([URL, "data:,", "http://", 10**400, -1, math.nan, "<p> a </p> [SEG]", "\x00"])
)
TOP_KEYS = ["image", "images", "masks", "seed", "usage", "timings", "output", "caption", "text"]
FILE_KEYS = ["url", "content_type", "file_name", "file_size", "width", "height"]
keys = st.sampled_from(TOP_KEYS + FILE_KEYS) | st.text(st.characters(), max_size=3)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6))
outputs = anything | st.dictionaries(keys, anything, max_size=12)


def only_file(image: Any) -> LiftedFile | None:
    files = lift({"image": image}).files
    assert len(files) <= 1
    return files[0] if files else None


@given(outputs)
def test_no_output_makes_a_lift_raise(output: Any) -> None:
    for each in LIFTS:
        lifted = each(output)
        for kind in ("image", "mask"):
            indexes = [file.index for file in lifted.files if file.kind == kind]
            assert indexes == list(range(len(indexes)))
        assert all(type(number) is float and math.isfinite(number) for number in lifted.timings.values())
        json.dumps(dict(lifted.usage), allow_nan=False)


@given(outputs)
def test_lifting_leaves_the_output_as_it_is(output: Any) -> None:
    before = repr(output)
    for each in LIFTS:
        each(output)
    assert repr(output) == before


@pytest.mark.parametrize("output", [None, [], "text", 1, 1.5, True, [{"text": "a"}]])
def test_nothing_is_lifted_from_what_is_no_object(output: Any) -> None:
    assert [each(output) for each in LIFTS] == [Lifted()] * len(LIFTS)


@pytest.mark.parametrize("key", ["output", "caption", "text"])
def test_text_is_lifted_as_it_is(key: str) -> None:
    assert lift({key: " a\x00<b> "}).text == " a\x00<b> "


def test_the_first_key_that_holds_text_wins() -> None:
    assert lift({"text": "t", "caption": "c", "output": "o"}).text == "o"
    assert lift({"text": "t", "caption": "c", "output": ["o"]}).text == "c"


@pytest.mark.parametrize("value", [None, 1, True, ["a"], {"a": "b"}])
def test_text_that_is_no_string_is_left_out(value: Any) -> None:
    assert lift({"output": value}).text is None


@pytest.mark.parametrize(
    ("value", "seed"), [(42, 42), (-1, -1), (2**70, 2**70), (True, None), (4.0, None), ("4", None)]
)
def test_a_seed_is_an_integer(value: Any, seed: int | None) -> None:
    assert lift({"seed": value}).seed == seed


def test_usage_keeps_finite_numbers_under_their_names() -> None:
    hostile = {
        "s": "1",
        "b": True,
        "n": None,
        "nan": math.nan,
        "inf": math.inf,
        "huge": 10**400,
        "o": {"a": 1},
        "\0": 1,
    }
    usage = lift({"usage": {"tokens": 12, "cost": 0.5, "big": 2**70, **hostile}}).usage
    assert usage == {"tokens": 12, "cost": 0.5, "big": 2**70}
    assert type(usage["tokens"]) is int


def test_timings_are_floats() -> None:
    timings = lift({"timings": {"a": 2, "b": 0.5, "c": {"d": 1}, "e": 10**400, "f": "1", "g": -math.inf}}).timings
    assert timings == {"a": 2.0, "b": 0.5}
    assert all(type(number) is float for number in timings.values())


@pytest.mark.parametrize("value", [None, [], ["a", 1], "usage", 1])
def test_usage_and_timings_that_are_no_objects_are_left_out(value: Any) -> None:
    assert lift({"usage": value, "timings": value}) == Lifted()


def test_an_image_has_all_that_was_claimed_of_it() -> None:
    claims: dict[str, Any] = {
        "content_type": "image/png",
        "file_name": "a.png",
        "file_size": 9,
        "width": 3,
        "height": 2,
    }
    assert only_file({"url": URL, **claims}) == LiftedFile(kind="image", index=0, url=URL, **claims)


@pytest.mark.parametrize("claim", ["file_size", "width", "height"])
@pytest.mark.parametrize("value", [-1, 2**63, 1.5, "3", True, None, [3]])
def test_a_size_that_cannot_be_one_is_left_out(claim: str, value: Any) -> None:
    assert only_file({"url": URL, claim: value}) == LiftedFile(kind="image", index=0, url=URL)


@pytest.mark.parametrize("claim", ["content_type", "file_name"])
@pytest.mark.parametrize("value", [1, True, None, ["a"], {}])
def test_a_name_that_is_no_string_is_left_out(claim: str, value: Any) -> None:
    assert only_file({"url": URL, claim: value}) == LiftedFile(kind="image", index=0, url=URL)


@pytest.mark.parametrize("url", [URL, "http://example.com", "HTTPS://EXAMPLE.COM", "data:image/png;base64,AAAA"])
def test_an_image_may_be_a_bare_url(url: str) -> None:
    assert only_file(url) == only_file({"url": url}) == LiftedFile(kind="image", index=0, url=url)


@pytest.mark.parametrize("url", [None, 1, "", "a.png", "file:///etc/passwd", "ftp://a/b", [URL], URL + "\0", "\ud800"])
def test_a_file_without_a_url_is_left_out(url: Any) -> None:
    assert only_file(url) is None
    assert only_file({"url": url, "width": 3}) is None


def test_files_are_counted_by_kind_without_those_left_out() -> None:
    output = {
        "image": "https://a/0",
        "images": [None, {"url": "https://a/1"}],
        "masks": [{}, "https://a/2", "https://a/3"],
    }
    assert [(file.kind, file.index, file.url) for file in lift(output).files] == [
        ("image", 0, "https://a/0"),
        ("image", 1, "https://a/1"),
        ("mask", 0, "https://a/2"),
        ("mask", 1, "https://a/3"),
    ]


def test_more_files_than_can_be_counted_are_left_out() -> None:
    files = lift({"images": [URL] * 40_000, "masks": [URL] * 40_000}).files
    assert [(file.kind, file.index) for file in files[2**15 - 1 :: 2**15]] == [
        ("image", 2**15 - 1),
        ("mask", 2**15 - 1),
    ]


@pytest.mark.parametrize("value", [None, 1, "https://a/0", {"url": "https://a/0"}])
def test_images_that_are_no_list_are_left_out(value: Any) -> None:
    assert lift({"images": value}) == Lifted()
