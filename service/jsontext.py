"""JSON in and out: strict where a stranger sends it, byte for byte where a model gave it."""

import json
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


def parse_once(data: bytes) -> Any:
    """As `parse`, and no name stands twice in an object: the next reader might take the other value."""
    value = parse(data)
    try:
        json.loads(data, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise NotJSON(str(error)) from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def parse_loosely(data: bytes) -> Any:
    """Read what a provider gave with Python's own lenient parser. Raises NotJSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotJSON(str(error)) from None


def is_json(data: bytes) -> bool:
    try:
        parse(data)
    except NotJSON:
        return False
    return True


encode = msgspec.json.encode
