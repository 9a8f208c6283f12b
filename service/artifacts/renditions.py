"""What is made of a job's masks when somebody asks for it, each time anew, in a child process with limits."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import structlog
from obstore.exceptions import BaseError

from service.artifacts.decoders import PictureRefused, Starved, ask
from service.artifacts.storage import Storage
from service.errors import NotDrawable, Unavailable

log = structlog.get_logger()

Kind = Literal["cutout", "overlay", "rle", "polygons"]
# Run in children and named only, so that no server process loads what they need.
_DRAWING, _OUTLINES = (str(Path(__file__).with_name(name)) for name in ("drawing.py", "outlines.py"))
PROGRAMS: dict[Kind, str] = {"cutout": _DRAWING, "overlay": _DRAWING, "rle": _OUTLINES, "polygons": _OUTLINES}
# Counted up when the same masks and picture are to give something else than before.
EDITION = 1

# Children at a time in one process, and requests that wait for one.
RENDERERS = asyncio.Semaphore(2)
MOST_WAITING = 16

_waiting = 0


@dataclass(frozen=True, slots=True)
class Rendition:
    """`masks` are an index and a SHA-256 each; `picture` is a SHA-256, or None where it does not matter."""

    kind: Kind
    masks: tuple[tuple[int, str], ...]
    picture: str | None = None

    @property
    def etag(self) -> str:
        said = f"{EDITION} {self.kind} {self.masks} {self.picture}"
        return f'"{hashlib.sha256(said.encode()).hexdigest()}"'


async def render(storage: Storage, wanted: Rendition) -> IO[bytes]:
    """The finished file, open and without a name. Raises NotDrawable or Unavailable."""
    async with _turn(), AsyncExitStack() as stack:
        try:
            given = [str(await stack.enter_async_context(storage.at_hand(wanted.picture)))] if wanted.picture else []
            for index, sha256 in wanted.masks:
                given.append(f"{index}:{await stack.enter_async_context(storage.at_hand(sha256))}")
            result = stack.enter_context(storage.scratch())
            await ask(PROGRAMS[wanted.kind], wanted.kind, str(result), *given)
            return await asyncio.to_thread(result.open, "rb")
        except Starved as error:
            raise Unavailable("It could not be drawn in time; try again shortly.") from error
        except PictureRefused as error:
            log.warning("a mask was not drawn", kind=wanted.kind, reason=str(error))
            raise NotDrawable from None
        except (OSError, BaseError) as error:
            raise Unavailable("A stored file cannot be read.") from error


@asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    global _waiting
    if _waiting >= MOST_WAITING:
        raise Unavailable("Too many pictures are being drawn; try again shortly.")
    _waiting += 1
    try:
        async with RENDERERS:
            yield
    finally:
        _waiting -= 1
