"""JSON in and out: strict where a stranger sends it, byte for byte where a model gave it."""

import json
from math import isfinite
from typing import Any

import msgspec

Raw = msgspec.Raw


class NotJSON(ValueError):
    """The bytes are not JSON: malformed, not UTF-8, NaN, a lone surrogate, a number out of range, too deep."""


def parse(data: bytes | str) -> Any:
    """Raises NotJSON."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise NotJSON(str(error)) from None


# A tree of small values takes a hundred times the room of its text, and long to make. Counted is what may begin a
# value, in strings too, so that one look at the bytes does.
MOST_VALUES = 100_000


def parse_once(data: bytes) -> Any:
    """As `parse`, and no name stands twice in an object: the next reader might take the other value.

    Not more than `MOST_VALUES`. The tree is Python's own parser's, after msgspec, which is stricter, has read the text.
    """
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) >= MOST_VALUES:
        raise NotJSON(f"it has {MOST_VALUES:,} values or more")
    try:
        msgspec.json.decode(data, type=Raw)
        return json.loads(data.decode(), object_pairs_hook=_unique, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise NotJSON(str(error)) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError("a number is out of range")
    return number


def parse_loosely(data: bytes) -> Any:
    """Read what a provider gave with Python's own lenient parser. Raises NotJSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotJSON(str(error)) from None


def is_json(data: bytes) -> bool:
    """Without a tree, which of a large output would be larger by far."""
    try:
        msgspec.json.decode(data, type=Raw)
        data.decode()
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True


encode = msgspec.json.encode
