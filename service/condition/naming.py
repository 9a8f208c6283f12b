"""How a process names itself, and how one that knows no database lets itself be named by others."""

import os
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID, uuid4

import msgspec

from service import __version__

# Of a message: who sent it.
BEAT_HEADER = "roundtrip_beat"


@dataclass(frozen=True, slots=True)
class Process:
    """A process as it names itself."""

    kind: str
    id: UUID = field(default_factory=uuid4)
    version: str = __version__
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))


class _Named(msgspec.Struct):
    """A process in a header."""

    id: UUID
    version: str
    host: str
    pid: Annotated[int, msgspec.Meta(gt=0, lt=2**31)]
    started_at: datetime


def as_header() -> str:
    """This process, one that cannot write, for the messages that it sends."""
    process = Process("beat")
    return msgspec.json.encode(
        _Named(process.id, process.version, process.host, process.pid, process.started_at)
    ).decode()


def from_header(header: object) -> Process | None:
    """Whoever can send a message can write anything in it; what is not of the form is nobody."""
    if not isinstance(header, str):
        return None
    try:
        named = msgspec.json.decode(header, type=_Named)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
    if named.started_at.tzinfo is None:
        return None
    return Process("beat", named.id, _plain(named.version), _plain(named.host), named.pid, named.started_at)


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:200])
