"""What a model is: an ID, the exact schemas of its input and output, and a way to lift facts out of its output."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

FileKind = Literal["mask", "image"]
# Field, message and type, as in a validation error.
Problem = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class LiftedFile:
    """A file named in an output, with the provider's claims about it (any of them may be wrong)."""

    kind: FileKind
    index: int
    url: str
    label: str | None = None
    content_type: str | None = None
    file_name: str | None = None
    file_size: int | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Lifted:
    """Facts lifted out of one output. Timings are in seconds under the model's own names."""

    text: str | None = None
    files: tuple[LiftedFile, ...] = ()
    seed: int | None = None
    usage: Mapping[str, int | float] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)


def marks_in(prompt: str, *marks: str) -> list[Problem]:
    """For models that find their pictures by marks in the prompt, which a client's own must not hold."""
    found = [mark for mark in marks if mark in prompt]
    return [("prompt", f"Input should not hold {mark!r}, which stands for a picture", "value_error") for mark in found]


def no_limits(_: Any) -> list[Problem]:
    return []


@dataclass(frozen=True)
class Model:
    """`Input` is None for a model that an operator registered without code: its jobs pass through.

    `limits` tells why a GPU of one's own can never run an input that fits the schema; the provider may know better.
    """

    id: str
    title: str
    lift: Callable[[Any], Lifted]
    Input: type[BaseModel] | None = None
    Output: type[BaseModel] | None = None
    example: Mapping[str, Any] = field(default_factory=dict)
    limits: Callable[[Any], list[Problem]] = no_limits
