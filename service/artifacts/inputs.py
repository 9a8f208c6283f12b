"""Files that come inside a job's input, as data URIs: kept in the store, named in the input, whole for the provider.

A kept file stands in the input as a string that begins with an escaped NUL, which no input of a client's may hold.
What follows it is the file's SHA-256 and the beginning of the data URI; the rest of the text is not touched.
"""

import asyncio
import base64
import binascii
import mimetypes
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from obstore.exceptions import BaseError

from service.artifacts import records
from service.artifacts.links import FileLinks
from service.artifacts.records import Measured
from service.artifacts.serving import type_of_bytes
from service.artifacts.storage import Storage
from service.db import Database
from service.errors import Unavailable

_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"(\s*:)?')  # with its colon, if it is the name of a field
_HEAD = re.compile(r"data:(?:[\w.+-]+/[\w.+-]+)?(?:;[\w-]+=[\w.%+-]*)*;base64,", re.ASCII | re.IGNORECASE)
_KEPT = re.compile(r'"\\u0000([0-9a-f]{64}) ([^",]*,)"')


@dataclass(frozen=True, slots=True)
class DataURI:
    """`head` ends with the comma."""

    head: str
    data: bytes

    @property
    def content_type(self) -> str:
        return _type_of(self.head)


async def keep_files(db: Database, storage: Storage, text: str) -> str:
    """The input with its data URIs in the store and their names in their place. Raises Unavailable."""
    if not re.search("base64,", text, re.IGNORECASE):
        return text
    parts = await asyncio.to_thread(_split, text)
    return "".join([part if isinstance(part, str) else await _keep(db, storage, part) for part in parts])


async def _keep(db: Database, storage: Storage, uri: DataURI) -> str:
    try:
        stored = await storage.put(_once(uri.data), len(uri.data))
    except (OSError, BaseError) as error:
        raise Unavailable("The files of the input cannot be stored.") from error
    content_type = type_of_bytes(uri.data, uri.content_type)
    await records.record_upload(db, Measured(stored.sha256, stored.size, content_type))
    return f'"\\u0000{stored.sha256} {uri.head}"'


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
        uri = _read(found[1]) if found[1][:5].lower() == "data:" and not found[2] else None
        if uri is not None:
            parts += [text[end : found.start()], uri]
            end = found.end()
    return [*parts, text[end:]]


def _read(literal: str) -> DataURI | None:
    literal = literal.replace("\\/", "/")  # As PHP writes it; to every reader of JSON it is the same.
    head = _HEAD.match(literal)
    if head is None:
        return None
    payload = literal[head.end() :]
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        return None
    return DataURI(head[0], data) if data and base64.b64encode(data).decode() == payload else None


def _type_of(head: str) -> str:
    return head[5:].split(";")[0].lower()


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
