"""Files that come inside a job's input, as data URIs: kept in the store, named in the input, whole for the provider.

A kept file stands in the input as a string that begins with an escaped NUL, which no input of a client's may hold.
What follows it is the file's SHA-256 and the beginning of the data URI; the rest of the text is not touched.
"""

import asyncio
import base64
import binascii
import mimetypes
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from obstore.exceptions import BaseError

from service.artifacts.filing import file, spooled
from service.artifacts.links import FileLinks
from service.artifacts.records import Measured
from service.artifacts.serving import OCTETS, type_of_bytes
from service.artifacts.storage import Storage, Stored
from service.db import Database
from service.errors import Invalid, Unavailable

_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"(\s*:)?')  # with its colon, if it is the name of a field
_HEAD = re.compile(r"data:(?:[\w.+-]+/[\w.+-]+)?(?:;[\w-]+=[\w.%+-]*)*;base64,", re.ASCII | re.IGNORECASE)
_KEPT = re.compile(r'"\\u0000([0-9a-f]{64}) ([^",]*,)"')


# A small file is kept in the store like any other, unless there are many of them: then they stay in the row, where
# they cost least. More than so many larger ones are no input.
FEW = 8
SMALL = 4_096
MOST_FILES = 256
WRITES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class DataURI:
    """`head` ends with the comma; `literal` is all of it, as it stands in the text."""

    literal: str
    head: str
    data: bytes


async def keep_files(db: Database, storage: Storage, text: str) -> str:
    """The input with its data URIs in the store and their names in their place. Raises Invalid or Unavailable."""
    if not re.search("base64,", text, re.IGNORECASE):
        return text
    parts = await asyncio.to_thread(_split, text)
    named = await _keep(db, storage, [part for part in parts if isinstance(part, DataURI)])
    return "".join(part if isinstance(part, str) else named.get(part, part.literal) for part in parts)


async def _keep(db: Database, storage: Storage, found: Sequence[DataURI]) -> dict[DataURI, str]:
    """What stands in the input for each that is kept."""
    uris = {uri for uri in found if len(found) <= FEW or len(uri.data) > SMALL}
    if not uris:
        return {}
    if len(uris) > MOST_FILES:
        raise Invalid.at("body", msg=f"May hold at most {MOST_FILES} files as data URIs.", kind="too_long")
    at_once = asyncio.Semaphore(WRITES_AT_ONCE)

    async def put(uri: DataURI) -> Stored:
        async with at_once, spooled(storage, _once(uri.data), len(uri.data)) as received:
            measured = Measured(received.sha256, received.size, type_of_bytes(uri.data, OCTETS))
            return await file(db, storage, received, measured)

    ordered = list(uris)
    stored = await asyncio.gather(*map(put, ordered))
    return {uri: f'"\\u0000{each.sha256} {uri.head}"' for uri, each in zip(ordered, stored, strict=True)}


async def whole(storage: Storage, text: str) -> str:
    """The input as the client sent it. Raises Unavailable."""
    pieces, end = [], 0
    for found in _KEPT.finditer(text):
        try:
            data = b"".join([chunk async for chunk in await storage.read(found[1])])
        except (OSError, BaseError) as error:
            raise Unavailable("A file of the input cannot be read.") from error
        encoded = await asyncio.to_thread(base64.b64encode, data)
        pieces += [text[end : found.start()], f'"{found[2]}{encoded.decode()}"']
        end = found.end()
    return "".join([*pieces, text[end:]])


def shown(text: str, links: FileLinks) -> str:
    """The input with the addresses of its files."""

    def address(found: re.Match[str]) -> str:
        return f'"{links.url(found[1], "input" + (mimetypes.guess_extension(_type_of(found[2])) or ""))}"'

    return _KEPT.sub(address, text) if "\\u0000" in text else text


def _split(text: str) -> list[str | DataURI]:
    """The text's parts in order; a data URI that would not come back to the letter is left where it is."""
    parts: list[str | DataURI] = []
    end = 0
    for found in _STRING.finditer(text):
        uri = _read(found[0], found[1]) if found[1][:5].lower() == "data:" and not found[2] else None
        if uri is not None:
            parts += [text[end : found.start()], uri]
            end = found.end()
    return [*parts, text[end:]]


def _read(literal: str, text: str) -> DataURI | None:
    text = text.replace("\\/", "/")  # As PHP writes it; to every reader of JSON it is the same.
    head = _HEAD.match(text)
    if head is None:
        return None
    payload = text[head.end() :]
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        return None
    return DataURI(literal, head[0], data) if data and base64.b64encode(data).decode() == payload else None


def _type_of(head: str) -> str:
    return head[5:].split(";")[0].lower()


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
