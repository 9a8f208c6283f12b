"""What is read as JSON, and how much of the memory it may take."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.jsontext import MOST_VALUES, NotJSON, is_json, parse_once

NOT_JSON = [
    b"",
    b"{",
    b"[1,]",
    b"NaN",
    b"01",
    b'"\xff"',
    b'"\xff\xff"',
    b'"\\ud800"',
    b"\xef\xbb\xbf{}",
    b'"\x01"',
    b"[" * 100_000,
    b'{"a":1}x',
]

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def peak_of(work: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@given(values)
def test_what_was_written_is_read(value: Any) -> None:
    assert parse_once(json.dumps(value).encode()) == value


@pytest.mark.parametrize("data", NOT_JSON)
def test_what_is_no_json_is_neither_read_nor_called_so(data: bytes) -> None:
    assert not is_json(data)
    with pytest.raises(NotJSON):
        parse_once(data)


@pytest.mark.parametrize(
    "data",
    [b'{"a": 1, "a": 1}', b'{"a": 1, "b": 2, "\\u0061": 1}', b'[{"x": {"": 1, "": 2}}]', b'{"a":[{"b":1,"b":2}]}'],
)
def test_a_name_that_stands_twice_is_refused_wherever_it_stands(data: bytes) -> None:
    with pytest.raises(NotJSON, match="twice"):
        parse_once(data)


@pytest.mark.parametrize("data", [b"1e999", b"[-1e400]", b"9" * 5_000])
def test_a_number_that_nobody_can_keep_is_refused(data: bytes) -> None:
    with pytest.raises(NotJSON):
        parse_once(data)


@pytest.mark.parametrize("piece", [b"{},", b"[],", b"1,", b'{"":{}},', b"[[[[]]]],", b'"",'])
def test_many_small_values_are_refused_before_they_take_the_memory(piece: bytes) -> None:
    body = b"[" + piece * (8_000_000 // len(piece)) + b"1]"

    def refuse() -> None:
        with pytest.raises(NotJSON, match="100,000 values"):
            parse_once(body)

    assert peak_of(refuse) < 100_000


def test_as_many_values_as_are_allowed_are_read() -> None:
    assert parse_once(b"[" + b"1," * (MOST_VALUES - 2) + b"1]") == [1] * (MOST_VALUES - 1)


def test_a_large_file_in_a_string_is_read_and_takes_little_more_than_its_text() -> None:
    body = b'{"image_url": "data:image/png;base64,' + b"A" * 24_000_000 + b'"}'
    assert len(parse_once(body)["image_url"]) > 24_000_000
    assert peak_of(lambda: parse_once(body)) < 4 * len(body)


def test_whether_an_output_is_json_takes_no_tree() -> None:
    body = b"[" + b"{}," * 1_000_000 + b"1]"
    assert is_json(body)
    assert peak_of(lambda: is_json(body)) < 3 * len(body)
