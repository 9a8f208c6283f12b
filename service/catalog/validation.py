"""Checking a client's input: that it can be kept and sent on, and that it fits its model's schema."""

import json
from math import isfinite
from typing import Any

from pydantic import ValidationError

from service.catalog.base import Model, Problem
from service.catalog.text import DIGITS_AFTER, DIGITS_BEFORE, is_storable, number_of
from service.errors import Invalid

MAX_DEPTH = 64
MAX_PROBLEMS = 20
MAX_KEY_LENGTH = 100

Location = tuple[str | int, ...]


def check_input(model: Model, value: Any, loc: Location = ("body", "input")) -> None:
    """Raises Invalid. `value` is parsed JSON, found at `loc` of the request."""
    if not isinstance(value, dict):
        raise _invalid(loc, "Input should be an object", "dict_type")
    check_content(value, loc)
    if model.Input is None:
        return
    try:
        model.Input.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise Invalid(
            [{"loc": [*loc, *each["loc"]], "msg": each["msg"], "type": each["type"]} for each in details[:MAX_PROBLEMS]]
        ) from None


def problems_of(model: Model, value: Any) -> list[Problem]:
    """Why a GPU of one's own could never run this input, which fits the schema."""
    return [] if model.Input is None else model.limits(model.Input.model_validate(value))


def check_content(container: dict[str, Any] | list[Any], loc: Location, depth: int = 1) -> None:
    """Refuse, at any depth and also in fields that no schema knows, what JSON or PostgreSQL cannot hold."""
    if depth > MAX_DEPTH:
        raise _invalid(loc, f"Input should be nested at most {MAX_DEPTH} levels deep", "too_deep")
    if isinstance(container, dict) and not all(map(is_storable, container)):
        raise _invalid(loc, "Keys should hold neither NUL nor lone surrogates", "string_unicode")
    for key, value in container.items() if isinstance(container, dict) else enumerate(container):
        if isinstance(value, str):
            if not is_storable(value):
                raise _invalid((*loc, key), "Input should hold neither NUL nor lone surrogates", "string_unicode")
        elif isinstance(value, (dict, list)):
            check_content(value, (*loc, key), depth + 1)
        elif isinstance(value, float) and not isfinite(value):
            raise _invalid((*loc, key), "Input should be a finite number", "finite_number")


def check_numbers(text: str, loc: Location) -> None:
    """Refuse the numbers of a JSON text that `jsonb` cannot hold; once they are parsed they look like others."""

    def held(number: str) -> float:
        if number_of(number) is None:
            words = f"at most {DIGITS_BEFORE:,} digits before the point and {DIGITS_AFTER:,} after it"
            raise _invalid(loc, f"Numbers should have {words}", "finite_number")
        return float(number)

    json.loads(text, parse_float=held)


def _invalid(loc: Location, msg: str, kind: str) -> Invalid:
    # The keys on the way are the client's, of any length; the answer need not repeat them in full.
    return Invalid.at(*(part[:MAX_KEY_LENGTH] if isinstance(part, str) else part for part in loc), msg=msg, kind=kind)
