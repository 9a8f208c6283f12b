"""Which processes there are, by what each of them writes down now and then: that it works, and what it has done.

A worker writes when it took a message, so that one which lives and consumes nothing is not seen. Beat writes nothing,
because it knows no database; the worker that carries out a sweep writes for the beat that asked for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from uuid import UUID

from service.condition.naming import Process
from service.condition.progress import Progress
from service.db import Database, Row
from service.jsontext import encode, parse

STAMP_SECONDS = 30.0

# Who has not been seen for so long is lost.
LOST_SECONDS = 95.0

# A process that is gone is shown for so long.
FORGOTTEN_SECONDS = 86_400.0
MOST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Shown:
    """A process as it was last seen. `counts` has what it does and nothing else."""

    kind: str
    version: str
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    ended_at: datetime | None
    counts: Mapping[str, int]
    progressed_at: datetime | None
    is_silent: bool
    is_replaced: bool

    @property
    def is_lost(self) -> bool:
        return self.is_silent and not self.is_replaced

    @property
    def state(self) -> str:
        if self.is_silent:
            return "replaced" if self.is_replaced else "lost"
        return "ended" if self.ended_at else "working"


_STAMP = """
INSERT INTO processes (id, kind, version, host, pid, started_at, counts)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::int4[], $6::timestamptz[], $7::jsonb[])
ON CONFLICT (id) DO UPDATE
SET seen_at = now(), ended_at = NULL, counts = excluded.counts,
    progressed_at = CASE WHEN processes.counts <> excluded.counts THEN now() ELSE processes.progressed_at END
"""
_END = "UPDATE processes SET ended_at = now(), counts = $2::jsonb WHERE id = $1"

# One that fell silent has been replaced when one of its kind began after it on its machine; beat, of which one is
# enough, on any. Each that began stands for one, so that of two that fell silent together one start replaces one.
_SHOWN = f"""
WITH placed AS (
    SELECT *, CASE kind WHEN 'beat' THEN '' ELSE host END AS place,
           ended_at IS NULL AND seen_at < now() - make_interval(secs => {LOST_SECONDS}) AS is_silent
    FROM processes
)
SELECT kind, version, host, pid, started_at, seen_at, ended_at, counts, progressed_at, is_silent,
       is_silent AND row_number() OVER (PARTITION BY kind, place, is_silent ORDER BY seen_at DESC) <= (
           SELECT count(*) FROM placed AS later
           WHERE later.kind = placed.kind AND later.place = placed.place AND later.started_at > placed.seen_at
       ) AS is_replaced
FROM placed ORDER BY ended_at IS NOT NULL, kind, started_at DESC LIMIT {MOST_SHOWN}
"""


class Stamper:
    """Writes down that a process works, at most every half minute."""

    def __init__(self, db: Database, kind: str, progress: Progress) -> None:
        self._db = db
        self._process = Process(kind)
        self._progress = progress
        self._stamped: float | None = None
        self._ended = False
        self._heard: dict[UUID, tuple[float, Process]] = {}

    def heard(self, other: Process) -> None:
        """A process that cannot write was at work just now."""
        self._heard[other.id] = (monotonic(), other)

    @property
    def is_due(self) -> bool:
        return not self._ended and (self._stamped is None or monotonic() - self._stamped >= STAMP_SECONDS)

    async def stamp(self) -> None:
        """Raises DatabaseAway."""
        now = monotonic()
        self._heard = {of: each for of, each in self._heard.items() if now - each[0] < STAMP_SECONDS}
        self._stamped = now
        await stamp(self._db, [self._process, *(each for _, each in self._heard.values())], self._progress)

    async def end(self) -> None:
        """It ends in order. Raises DatabaseAway."""
        self._ended = True
        if self._stamped is not None:
            counts = encode(self._progress.of(self._process.kind)).decode()
            await self._db.execute(_END, self._process.id, counts)


async def stamp(db: Database, processes: Sequence[Process], progress: Progress) -> None:
    await db.execute(
        _STAMP,
        [each.id for each in processes],
        [each.kind for each in processes],
        [each.version for each in processes],
        [each.host for each in processes],
        [each.pid for each in processes],
        [each.started_at for each in processes],
        [encode(progress.of(each.kind)).decode() for each in processes],
    )


async def shown(db: Database) -> list[Shown]:
    """Those that work first."""
    return [_shown(row) for row in await db.fetch(_SHOWN)]


def _shown(row: Row) -> Shown:
    return Shown(**{**row, "counts": parse(row["counts"].encode())})


async def tidy(db: Database) -> None:
    """Forget those that are long gone."""
    await db.execute("DELETE FROM processes WHERE seen_at < now() - make_interval(secs => $1)", FORGOTTEN_SECONDS)
