"""The picture that a job was asked about: which of our files it is, or at which address it lies."""

import re
from typing import Any
from urllib.parse import urlsplit

from service.artifacts import tickets
from service.artifacts.links import PREFIX, FileLinks
from service.db import Database
from service.jsontext import parse

# By these names the models' inputs have it; of several pictures the first one.
FIELDS = ("image_url", "image_urls")

_KEPT = re.compile("\0([0-9a-f]{64}) ")
_KEPT_IN_TEXT = re.compile(r'"\\u0000([0-9a-f]{64}) ')
_OURS = re.compile(rf"(?:/.*)?{PREFIX}/([0-9a-f]{{64}}-[0-9a-f]{{32}})/[^/]*")
_UPLOADED = re.compile(r"(?:/.*)?/cdn/files/([A-Za-z0-9_-]{1,64})/[^/]*")


def named_in(text: str) -> str | None:
    """How an input names its picture: by an address, or as a kept file (see inputs.py)."""
    asked: Any = parse(text)
    for field in FIELDS:
        value = asked.get(field) if isinstance(asked, dict) else None
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, str) and first:
            return first
    return None


def kept_in(text: str) -> list[str]:
    """The SHA-256 of each file that came in an input."""
    return _KEPT_IN_TEXT.findall(text)


async def stored(db: Database, links: FileLinks, name: str) -> str | None:
    """The SHA-256 of a picture that lies in our own store; None: it lies elsewhere."""
    if kept := _KEPT.match(name):
        return kept[1]
    try:
        path = urlsplit(name).path
    except ValueError:
        return None
    # What we sealed is ours, under whatever name this service was reached then.
    if found := _OURS.fullmatch(path):
        return links.open(found[1])
    if links.is_ours(name) and (found := _UPLOADED.fullmatch(path)):
        upload = await tickets.find(db, found[1])
        return upload.sha256 if upload else None
    return None
