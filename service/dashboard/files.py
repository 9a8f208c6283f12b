"""The dashboard's own style, scripts and pictures. Their address changes when they do, so a browser may keep them."""

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from service.artifacts.serving import names
from service.errors import NotFound

FOLDER = Path(__file__).parent / "static"
PREFIX = "/dashboard/static"

FOR_GOOD = "public, max-age=31536000, immutable"
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    content_type: str
    etag: str


def _read(path: Path) -> File:
    content = path.read_bytes()
    kind = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return File(content, kind, f'"{hashlib.sha256(content).hexdigest()}"')


FILES = {path.name: _read(path) for path in sorted(FOLDER.iterdir()) if path.is_file()}

# One for all of them, as scripts name one another beside themselves.
EDITION = hashlib.sha256("".join(f"{name} {file.etag}" for name, file in FILES.items()).encode()).hexdigest()[:16]


def address(name: str) -> str:
    return f"{PREFIX}/{EDITION}/{FILES[name] and name}"


async def show_file(request: Request) -> Response:
    """A page of another version may ask for its own files: it gets these, and is not to keep them under that name."""
    file = FILES.get(request.path_params["name"])
    if file is None:
        raise NotFound
    headers = {
        "cache-control": FOR_GOOD if request.path_params["edition"] == EDITION else "no-cache",
        "content-type": file.content_type,
        "etag": file.etag,
        "x-content-type-options": "nosniff",
    }
    if names(file.etag, request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers)
