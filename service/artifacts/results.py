"""What a job ended with, as its client gets it: the files at their stored copies."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from service.artifacts.links import FileLinks
from service.errors import Gone

Made = TypeVar("Made")

# A result of so many bytes is read and written anew on the event loop.
SMALL_BODY = 256 * 1024


class Facts(Protocol):
    """A row of the record, or a dictionary in its place."""

    def __getitem__(self, name: str, /) -> Any: ...


async def made_of(row: Facts, make: Callable[[], Made]) -> Made:
    """What is made of a job's result: of a large one on a thread, so that nobody else waits for it."""
    size = len(row["body"] or b"") + len(row["files"] or "")
    return await asyncio.to_thread(make) if size > SMALL_BODY else make()


def body_of(row: Facts, links: FileLinks) -> bytes:
    """The body that the job ended with; to the byte, if none of its files has a stored copy. Raises Gone."""
    if row["body"] is None:
        raise Gone("The result of this job was removed, as its tenant wanted.", request_id=str(row["id"]))
    return links.rewritten(row["body"], files_of(row))


def files_of(row: Facts) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = json.loads(row["files"]) if row["files"] else []
    return sorted(files, key=lambda file: (file["kind"], file["index"]))
