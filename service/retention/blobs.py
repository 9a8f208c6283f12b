"""Stored files that nothing refers to any more: their bytes are deleted, some time after the last reference went.

A file is first marked, then its bytes are deleted, then its row. Who finds the mark stores nothing under that name:
a store may carry out a deletion long after it was asked to.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from time import monotonic
from typing import NamedTuple

from service.db import Database
from service.errors import Unavailable

# A reference that is being made now was begun less long ago.
GRACE_SECONDS = 3_600.0

# A deletion that somebody else began is over by then, or he died; stores are asked again for three minutes at most.
AGAIN_SECONDS = 600.0
AT_A_TIME = 64

# So long whoever is about to store the same bytes waits for the end of their deletion.
PATIENCE_SECONDS = 10.0


class Unreferenced(NamedTuple):
    """A file that lost a reference at that time."""

    sha256: str
    since: datetime


_TAKE = """
UPDATE unreferenced_blobs SET since = now() - make_interval(secs => $1 - $2)
WHERE sha256 = ANY (ARRAY(
    SELECT sha256 FROM unreferenced_blobs WHERE since < now() - make_interval(secs => $1)
    ORDER BY since LIMIT $3 FOR UPDATE SKIP LOCKED
))
RETURNING sha256, since
"""

# OFFSET 0 has each looked up by its key, also by a plan that was made before there were any.
_REFERRED = """(
    blobs.uploaded
    OR EXISTS (SELECT FROM artifacts WHERE artifacts.sha256 = blobs.sha256 OFFSET 0)
    OR EXISTS (SELECT FROM input_files WHERE input_files.sha256 = blobs.sha256 OFFSET 0)
    OR EXISTS (SELECT FROM uploads WHERE uploads.sha256 = blobs.sha256 OFFSET 0)
)"""
# Who takes the last reference away writes the time of that into the mark. What is seen here was so before.
_SPARE = f"""
WITH spared AS MATERIALIZED (
    SELECT mark.sha256 FROM unnest($1::text[], $2::timestamptz[]) AS taken (sha256, since)
    JOIN unreferenced_blobs AS mark USING (sha256, since) JOIN blobs USING (sha256)
    WHERE NOT blobs.deleting AND {_REFERRED}
    FOR UPDATE OF mark SKIP LOCKED
)
DELETE FROM unreferenced_blobs USING spared WHERE unreferenced_blobs.sha256 = spared.sha256
RETURNING spared.sha256
"""


async def take_unreferenced(
    db: Database, grace_seconds: float = GRACE_SECONDS, at_most: int = AT_A_TIME
) -> list[Unreferenced]:
    """Files that lost a reference so long ago; they are taken again some minutes later, if they are still there."""
    rows = await db.fetch(_TAKE, grace_seconds, AGAIN_SECONDS, at_most)
    return [Unreferenced(row["sha256"], row["since"]) for row in rows]


async def spare(db: Database, taken: Sequence[Unreferenced]) -> list[Unreferenced]:
    """Take the marks from those that something refers to, as most are that came with an input. Returns the others."""
    rows = await db.fetch(_SPARE, [each.sha256 for each in taken], [each.since for each in taken])
    spared = {row["sha256"] for row in rows}
    return [each for each in taken if each.sha256 not in spared]


# Before anything else of a blob, so that nobody who does so waits for another who does.
_LOCK = "SELECT deleting FROM blobs WHERE sha256 = $1 FOR UPDATE"
# Its time begins anew: others that were taken with it may have had most of that.
_STILL = """
UPDATE unreferenced_blobs SET since = now() - make_interval(secs => $3) WHERE sha256 = $1 AND since = $2
RETURNING since
"""
# Nobody else changes the row before the end of the transaction that has it.
_FORGET = "DELETE FROM unreferenced_blobs WHERE sha256 = $1"


async def delete_unreferenced(db: Database, delete: Callable[[str], Awaitable[None]], taken: Unreferenced) -> bool:
    """`delete` the bytes, if nothing refers to them. Returns whether that was so."""
    sha256, since = taken
    async with db.transaction() as connection:
        await connection.execute(_LOCK, sha256)
        # Asked after the lock is had, so that what happened meanwhile is seen.
        still = await connection.fetchrow(_STILL, sha256, since, GRACE_SECONDS - AGAIN_SECONDS)
        if still is None:
            return False  # Somebody is about to refer to it.
        found = await connection.fetchrow(f"SELECT {_REFERRED} AS referred FROM blobs WHERE sha256 = $1", sha256)
        if found is None or found["referred"]:
            await connection.execute(_FORGET, sha256)
            return False
        await connection.execute("UPDATE blobs SET deleting = true WHERE sha256 = $1", sha256)
    await delete(sha256)
    await db.execute("DELETE FROM blobs WHERE sha256 = $1 AND deleting", sha256)
    return True


_RECLAIM = """
WITH locked AS MATERIALIZED (
    SELECT deleting FROM blobs WHERE sha256 = $1 FOR UPDATE
), spared AS (
    UPDATE unreferenced_blobs SET since = now()
    WHERE sha256 = $1 AND NOT EXISTS (SELECT FROM locked WHERE deleting)
)
SELECT FROM locked WHERE deleting
"""


async def reclaim(db: Database, sha256: str) -> None:
    """Let what is stored under this name from now on stay for as long as it takes to refer to it.

    Raises Unavailable.
    """
    last_look = monotonic() + PATIENCE_SECONDS
    while await db.fetchrow(_RECLAIM, sha256) is not None:
        if monotonic() > last_look:
            raise Unavailable("The same file is just being deleted; try again in some minutes.")
        await asyncio.sleep(0.2)
