"""Lifting facts out of an output by its shape: what does not fit is left out, and nothing raises."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, repeat
from math import isfinite
from typing import Any

from service.catalog.base import FileKind, Lifted, LiftedFile
from service.catalog.text import is_storable

TEXT_KEYS = ("output", "caption", "text")
FILE_SCHEMES = ("http://", "https://", "data:")
# What PostgreSQL counts them with: smallint, bigint, integer.
MAX_FILES = 2**15
MAX_FILE_SIZE = 2**63 - 1
MAX_SIDE = 2**31 - 1

Labelled = tuple[str | None, Any]


def lift(output: Any, mask_labels: Sequence[str | None] = ()) -> Lifted:
    """`mask_labels` name the masks of a list, in order; the masks of an object have its keys as labels."""
    if not isinstance(output, dict):
        return Lifted()
    return Lifted(
        text=next((output[key] for key in TEXT_KEYS if isinstance(output.get(key), str)), None),
        files=(
            *islice(_files("image", _images(output.get("image"), output.get("images"))), MAX_FILES),
            *islice(_files("mask", _masks(output.get("masks"), mask_labels)), MAX_FILES),
        ),
        seed=output["seed"] if type(output.get("seed")) is int else None,
        usage=dict(_numbers(output.get("usage"))),
        timings={name: float(number) for name, number in _numbers(output.get("timings"))},
    )


def _images(image: Any, images: Any) -> Iterator[Labelled]:
    return ((None, each) for each in (image, *(images if isinstance(images, list) else ())))


def _masks(masks: Any, labels: Sequence[str | None]) -> Iterable[Labelled]:
    if isinstance(masks, dict):
        return masks.items()
    if isinstance(masks, list):
        return zip(chain(labels, repeat(None)), masks, strict=False)
    return ()


def _files(kind: FileKind, candidates: Iterable[Labelled]) -> Iterator[LiftedFile]:
    index = 0
    for label, candidate in candidates:
        image = {"url": candidate} if isinstance(candidate, str) else candidate
        if isinstance(image, dict) and _is_file_url(image.get("url")):
            yield LiftedFile(
                kind=kind,
                index=index,
                url=image["url"],
                label=label,
                content_type=_string(image.get("content_type")),
                file_name=_string(image.get("file_name")),
                file_size=_size(image.get("file_size"), MAX_FILE_SIZE),
                width=_size(image.get("width"), MAX_SIDE),
                height=_size(image.get("height"), MAX_SIDE),
            )
            index += 1


def _is_file_url(value: Any) -> bool:
    return isinstance(value, str) and value[:8].lower().startswith(FILE_SCHEMES) and is_storable(value)


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _size(value: Any, most: int) -> int | None:
    return value if type(value) is int and 0 <= value <= most else None


def _numbers(value: Any) -> Iterator[tuple[str, int | float]]:
    if isinstance(value, dict):
        for name, number in value.items():
            if is_storable(name) and _is_finite(number):
                yield name, number


def _is_finite(value: Any) -> bool:
    # By exact type, because a bool is an int; and an int can be too large for any float.
    try:
        return type(value) in (int, float) and isfinite(value)
    except OverflowError:
        return False
