"""What a job's page shows first: what went in and what came out, side by side, with the masks as layers."""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.artifacts import inputs, results, sources
from service.artifacts.colours import hsl_of
from service.artifacts.links import FileLinks
from service.dashboard.addresses import here
from service.db import Row
from service.jsontext import NotJSON, parse_loosely

# As many are drawn over the picture at once; the list has all.
MOST_LAYERS = 64
MOST_LISTED = 256
LONGEST_TEXT = 20_000

# What is made of a mask is shown by addresses that end; the same ones for an hour, so that a browser may keep it.
SHARED_SECONDS = 3_600
MADE = ("cutout", "overlay", "rle", "polygons")

# Under these names models have their text.
TEXTS = ("output", "caption", "text", "description", "transcription")

_SEGMENT = re.compile(r"<p>(.*?)</p>\s*\[SEG\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Mask:
    """`href` is None while there is no copy, and `problem` says why."""

    index: int
    label: str | None
    colour: str
    href: str | None
    problem: str | None
    remark: str | None
    area: float | None
    box: Sequence[int] | None
    width: int | None
    height: int | None
    made: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Image:
    href: str | None
    name: str | None
    problem: str | None
    width: int | None
    height: int | None
    size: int | None
    content_type: str | None


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a text; that of a mask has its index."""

    text: str
    mask: int | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """`picture` is whether the input names one; `pictures` how many."""

    picture: bool
    pictures: int
    prompt: str | None
    masks: Sequence[Mask]
    more_masks: int
    images: Sequence[Image]
    text: Sequence[Piece]
    cut: bool
    width: int | None
    height: int | None
    removed: Sequence[str]


def shown(row: Row, links: FileLinks) -> Shown:
    asked = _object(row["input"])
    files = results.files_of(row)
    masks = [_mask(row, file, links) for file in files if file["kind"] == "mask"]
    sized = next((mask for mask in masks if mask.width and mask.height), None)
    text, cut = _text(row)
    urls = asked.get("image_urls")
    removed = json.loads(row["removed"]) if row["removed"] else {}
    return Shown(
        picture=bool(row["input"]) and sources.named_in(row["input"]) is not None,
        pictures=len(urls) if isinstance(urls, list) else 1,
        prompt=_said(asked.get("prompt")),
        masks=masks[:MOST_LISTED],
        more_masks=max(0, len(masks) - MOST_LISTED),
        images=[_image(file, links) for file in files if file["kind"] == "image"],
        text=list(_pieces(text)),
        cut=cut,
        width=sized.width if sized else None,
        height=sized.height if sized else None,
        removed=sorted(removed),
    )


def _object(text: str | None) -> Mapping[str, Any]:
    try:
        value = parse_loosely(text.encode()) if text else {}
    except NotJSON:
        value = {}
    return value if isinstance(value, dict) else {}


def _said(value: Any) -> str | None:
    return value[:LONGEST_TEXT] if isinstance(value, str) else None


def _text(row: Row) -> tuple[str, bool]:
    """The text of an output, and whether there is more of it."""
    if row["status"] != "completed" or row["body"] is None:
        return "", False
    try:
        output = parse_loosely(row["body"])
    except NotJSON:
        return "", False
    said = next((output[name] for name in TEXTS if isinstance(output.get(name), str)), "") if _is(output) else ""
    return said[:LONGEST_TEXT], len(said) > LONGEST_TEXT


def _is(value: Any) -> bool:
    return isinstance(value, dict)


def _pieces(text: str) -> Iterator[Piece]:
    """Sa2VA says of each mask in its text where it stands, in order."""
    end = 0
    for index, found in enumerate(_SEGMENT.finditer(text)):
        if found.start() > end:
            yield Piece(text[end : found.start()])
        yield Piece(found[1].strip(), index)
        end = found.end()
    if end < len(text):
        yield Piece(text[end:])


def _mask(row: Row, file: Mapping[str, Any], links: FileLinks) -> Mask:
    index = int(file["index"])
    there = file["sha256"] is not None
    until = (int(time.time()) // SHARED_SECONDS + 2) * SHARED_SECONDS
    whats = {kind: f"jobs/{row['id']}/masks/{index}/{kind}" for kind in MADE} if there else {}
    return Mask(
        index=index,
        label=file["label"],
        colour=hsl_of(index),
        href=here(links.url_of(file)) if there else None,
        problem=None if there else _problem(file),
        remark=file["copy_error"] if there else None,
        area=file["area_fraction"],
        box=file["bbox"],
        width=file["width"],
        height=file["height"],
        made={kind: here(links.shared(what, until)) for kind, what in whats.items()},
    )


def _image(file: Mapping[str, Any], links: FileLinks) -> Image:
    there = file["sha256"] is not None
    return Image(
        href=here(links.url_of(file)) if there else None,
        name=file["file_name"],
        problem=None if there else _problem(file),
        width=file["width"],
        height=file["height"],
        size=file["file_size"],
        content_type=file["content_type"],
    )


def _problem(file: Mapping[str, Any]) -> str:
    if file["removed_at"] is not None:
        return "It was removed, as its tenant wanted."
    return str(file["copy_error"]) if file["copy_error"] else "Its copy is on the way."


def input_text(row: Row, links: FileLinks) -> str:
    """The input as its client sent it, with the addresses of the files that came in it."""
    return inputs.shown(row["input"], links)
