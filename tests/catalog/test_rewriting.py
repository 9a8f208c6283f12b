"""Pointing an output at the stored copies of its files."""

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.catalog import with_stored_files

STORED = {"https://fal/1": "https://ours/1", "https://fal/2": "https://ours/2"}

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.sampled_from([*STORED])
keys = st.text(max_size=3) | st.sampled_from([*STORED])
outputs = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(keys, inner))


def paths(value: Any, *at: str | int) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value with its place; of a container, its type and order."""
    if isinstance(value, dict):
        yield at, ("object", *value)
        for key, inner in value.items():
            yield from paths(inner, *at, key)
    elif isinstance(value, list):
        yield at, ("list", len(value))
        for index, inner in enumerate(value):
            yield from paths(inner, *at, index)
    else:
        yield at, value


@given(outputs)
def test_only_stored_urls_are_changed(output: Any) -> None:
    before, after = list(paths(output)), list(paths(with_stored_files(output, STORED)))
    expected = [(at, STORED.get(value, value) if isinstance(value, str) else value) for at, value in before]
    assert after == expected
    assert [type(value) for _, value in after] == [type(value) for _, value in before]


@given(outputs)
def test_the_output_itself_is_left_as_it_is(output: Any) -> None:
    before = copy.deepcopy(output)
    with_stored_files(output, STORED)
    assert output == before


@given(outputs)
def test_rewriting_back_gives_the_output_again(output: Any) -> None:
    back = {ours: theirs for theirs, ours in STORED.items()}
    assert with_stored_files(with_stored_files(output, STORED), back) == output


def test_urls_are_replaced_at_any_depth() -> None:
    output = {"masks": {"truck": {"url": "https://fal/1", "width": 3}}, "images": [["https://fal/2"], "https://fal/3"]}
    assert with_stored_files(output, STORED) == {
        "masks": {"truck": {"url": "https://ours/1", "width": 3}},
        "images": [["https://ours/2"], "https://fal/3"],
    }


def test_an_output_that_is_a_url_is_replaced() -> None:
    assert with_stored_files("https://fal/1", STORED) == "https://ours/1"


def test_keys_and_parts_of_text_are_no_urls() -> None:
    output = {"https://fal/1": "See https://fal/1 for more"}
    assert with_stored_files(output, STORED) == output


def test_an_output_may_be_nested_deeper_than_the_stack() -> None:
    output: Any = "https://fal/1"
    for _ in range(100_000):
        output = [output]
    rewritten = with_stored_files(output, STORED)
    while isinstance(rewritten, list):
        rewritten = rewritten[0]
    assert rewritten == "https://ours/1"
