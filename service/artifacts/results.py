"""What a job ended with, as its client gets it: the files at their stored copies."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from service.artifacts.links import FileLinks
from service.catalog import with_stored_files
from service.jsontext import parse_loosely


class Facts(Protocol):
    """A row of the record, or a dictionary in its place."""

    def __getitem__(self, name: str, /) -> Any: ...


def body_of(row: Facts, links: FileLinks) -> bytes:
    """The body that the job ended with; to the byte, if none of its files has a stored copy."""
    body: bytes = row["body"]
    stored = {file["source_url"]: address_of(file, links) for file in files_of(row) if file["sha256"]}
    if not stored:
        return body
    return json.dumps(with_stored_files(parse_loosely(body), stored), separators=(",", ":")).encode()


def files_of(row: Facts) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = json.loads(row["files"]) if row["files"] else []
    return sorted(files, key=lambda file: (file["kind"], file["index"]))


def address_of(file: Mapping[str, Any], links: FileLinks) -> str:
    if not file["sha256"]:
        return str(file["source_url"])
    return links.url(file["sha256"], file["file_name"] or f"{file['kind']}-{file['index']}")
