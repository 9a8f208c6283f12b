"""Stored files as HTTP answers: bytes that a browser may show as a picture or save, and do nothing else with."""

import mimetypes
import re
from urllib.parse import quote

from obstore.exceptions import BaseError
from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse

from service.artifacts.storage import Storage
from service.errors import Unavailable

SHOWN = {"image/png", "image/jpeg", "image/webp", "image/gif"}
# Handed out under their own names, to be saved; a browser runs nothing of them.
SAVED = re.compile(
    r"(?:audio|video)/[\w.+-]+|image/(?:bmp|tiff|avif|heic|heif)|text/(?:plain|csv)|application/(?:json|pdf|zip)",
    re.ASCII,
)
OCTETS = "application/octet-stream"
# First bytes of what is shown: (offset, bytes, type).
_SHOWN_BY = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
)
LONGEST_NAME = 128
# What a hash names never changes.
FOR_GOOD = "private, max-age=31536000, immutable"
# Longer numbers than any file has are no range at all, and are never handed to int().
_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


class RangeNotSatisfiable(Exception):
    """The range begins after the end of the file."""


async def file_response(
    storage: Storage,
    sha256: str,
    content_type: str,
    file_name: str,
    size: int,
    request_headers: Headers,
    method: str,
) -> Response:
    """Answer GET and HEAD for one blob; opened before the first header goes out, so that a lost one is a 503."""
    etag = f'"{sha256}"'
    headers = {"accept-ranges": "bytes", **harmless(content_type, file_name), "cache-control": FOR_GOOD, "etag": etag}
    if names(etag, request_headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    if method == "HEAD":
        return Response(headers=headers | {"content-length": str(size)})
    try:
        # A validator that is not exactly ours is about another file, and the client then wants all of this one.
        asked = request_headers.get("range", "") if request_headers.get("if-range", etag) == etag else ""
        part = parse_range(asked, size)
    except RangeNotSatisfiable:
        return Response(status_code=416, headers=headers | {"content-range": f"bytes */{size}"})
    try:
        body = await (storage.read(sha256, *part) if part else storage.read(sha256))
    except (OSError, BaseError) as error:
        raise Unavailable("The stored file cannot be read.") from error
    if part is None:
        return StreamingResponse(body, headers=headers | {"content-length": str(size)})
    start, end = part
    headers |= {"content-length": str(end - start), "content-range": f"bytes {start}-{end - 1}/{size}"}
    return StreamingResponse(body, 206, headers)


def harmless(content_type: str, file_name: str) -> dict[str, str]:
    """Headers that keep a browser from doing with a file anything but to show it as a picture or to save it."""
    shown = content_type in SHOWN
    return {
        "content-disposition": content_disposition("inline" if shown else "attachment", file_name),
        "content-security-policy": "sandbox; default-src 'none'",
        "content-type": content_type if shown or SAVED.fullmatch(content_type) else OCTETS,
        "x-content-type-options": "nosniff",
    }


def type_of_bytes(data: bytes, claimed: str) -> str:
    """What a file is served as: a picture by its first bytes, anything else as it was called if that is harmless."""
    for offset, start, content_type in _SHOWN_BY:
        if data.startswith(start, offset):
            return content_type
    return type_as_called(claimed)


def type_served(found: str, called: str) -> str:
    """What a stored file is served as: what its bytes were found to be, else as this holder of it calls it."""
    return type_as_called(called) if found == OCTETS else found


def type_of_name(file_name: str) -> str:
    return mimetypes.guess_type(file_name)[0] or OCTETS


def type_as_called(claimed: str) -> str:
    plain = claimed.split(";")[0].strip().lower()
    return plain if SAVED.fullmatch(plain) else OCTETS


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """The bytes asked for, half open; None for the whole file, as for every form that is malformed or multiple."""
    found = _RANGE.fullmatch(header)
    if found is None or size == 0:
        return None
    first, last = found.groups()
    if not first:
        if not last:
            return None
        if int(last) == 0:
            raise RangeNotSatisfiable
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise RangeNotSatisfiable
    return int(first), min(int(last) + 1, size) if last else size


def names(etag: str, if_none_match: str) -> bool:
    return any(tag.strip().removeprefix("W/") in {etag, "*"} for tag in if_none_match.split(","))


def content_disposition(kind: str, file_name: str) -> str:
    """RFC 6266, with a plain fallback for readers that do not know `filename*`."""
    name = clean_name(file_name)
    plain = re.sub(r'[^ -~]|["%\\]', "_", name)
    header = f'{kind}; filename="{plain}"'
    return header if plain == name else f"{header}; filename*=UTF-8''{quote(name, safe='')}"


def clean_name(file_name: str) -> str:
    """The last part of a stranger's path, without anything invisible or that a file system takes specially."""
    last = re.split(r"[/\\]", file_name)[-1]
    visible = "".join(c for c in last if c.isprintable())  # which bidi marks and zero-width characters are not
    name = re.sub(r'[<>:"|?*]', "_", visible).strip(" .")
    if len(name) > LONGEST_NAME:
        stem, dot, ending = name.rpartition(".")
        ending = dot + ending if stem and len(ending) <= 16 else ""
        name = name[: LONGEST_NAME - len(ending)].rstrip(" .") + ending
    return f"_{name}"[:LONGEST_NAME] if _RESERVED.fullmatch(name) else name or "file"
