"""Places in the order of jobs: their IDs begin with the time, so an ID is a place and a time is a range of them."""

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from service.errors import Invalid

# The time is in milliseconds, by the clock of the machine that made the ID; a minute's margin allows for clocks that
# differ.
MARGIN_MILLISECONDS = 60_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_OLDER, _NEWER = b"\1", b"\2"


@dataclass(frozen=True)
class Cursor:
    """Jobs on this side of a place; the job of that ID itself is not among them."""

    place: UUID
    newer: bool = False


def make_cursor(cursor: Cursor) -> str:
    side = _NEWER if cursor.newer else _OLDER
    return base64.urlsafe_b64encode(side + cursor.place.bytes).decode().rstrip("=")


def read_cursor(word: str) -> Cursor:
    """Raises Invalid."""
    try:
        content = base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))
        side, place = content[:1], UUID(bytes=content[1:])
    except (binascii.Error, ValueError):
        side = b""
    if side not in (_OLDER, _NEWER):
        raise Invalid.at("query", "cursor", msg="Not a cursor of this service.")
    return Cursor(place, newer=side == _NEWER)


def first_id(moment: datetime) -> UUID:
    """The smallest ID that a job of this moment can have."""
    return UUID(int=_milliseconds(moment, -MARGIN_MILLISECONDS) << 80)


def last_id(moment: datetime) -> UUID:
    """The largest one."""
    return UUID(int=((_milliseconds(moment, MARGIN_MILLISECONDS) + 1) << 80) - 1)


def _milliseconds(moment: datetime, margin: int) -> int:
    return min(max(0, int(moment.timestamp() * 1000) + margin), 2**48 - 1)


def moment_of(place: UUID) -> datetime:
    """When a job of this ID was made, to the millisecond. The latest time there is, for what was never made."""
    try:
        return EPOCH + timedelta(milliseconds=place.int >> 80)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
