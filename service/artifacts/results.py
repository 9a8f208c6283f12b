"""What a job ended with, as its client gets it: the files at their stored copies."""

import json
from typing import Any, Protocol

from service.artifacts.links import FileLinks
from service.errors import Gone


class Facts(Protocol):
    """A row of the record, or a dictionary in its place."""

    def __getitem__(self, name: str, /) -> Any: ...


def body_of(row: Facts, links: FileLinks) -> bytes:
    """The body that the job ended with; to the byte, if none of its files has a stored copy. Raises Gone."""
    if row["body"] is None:
        raise Gone("The result of this job was removed, as its tenant wanted.", request_id=str(row["id"]))
    return links.rewritten(row["body"], files_of(row))


def files_of(row: Facts) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = json.loads(row["files"]) if row["files"] else []
    return sorted(files, key=lambda file: (file["kind"], file["index"]))
