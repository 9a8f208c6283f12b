"""Statements about files: which copies are owed, and what came of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from service.artifacts.expiry import LINK_SECONDS, OWED_UNTIL, TRIED_SECONDS
from service.db import Database
from service.jobs.guards import CHANNEL


@dataclass(frozen=True, slots=True)
class OwedCopy:
    """A file named in an output whose copy is not stored yet.

    `content_type` and `file_name` are what the provider calls it. With the first mask comes the job's `input`.
    `seconds_left` are those until its link ends, or until it is taken to have ended.
    """

    job_id: UUID
    kind: str
    index: int
    source_url: str
    tries: int
    content_type: str | None = None
    file_name: str | None = None
    input: str | None = None
    seconds_left: float = field(default=0.0, compare=False)


# A link of which nobody knows when it ends is tried for longer than it is taken to last.
_ENDS = f"""least(
    source_expires_at,
    expires_at + CASE WHEN source_expires_at IS NULL
                      THEN make_interval(secs => {TRIED_SECONDS - LINK_SECONDS}) ELSE interval '0' END
)"""

# Files that were never tried come before those whose host failed once, and these before those whose host stays away;
# then those whose links end first.
_TAKE = f"""
WITH taken AS (
    UPDATE copies SET tries = least(tries + 1, 32767), due_at = now() + make_interval(secs => $2)
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM copies WHERE due_at <= now()
        ORDER BY least(tries, 5), expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ))
    RETURNING copies.*
)
SELECT taken.job_id, taken.kind, taken.index, source_url, taken.tries, content_type, file_name, input,
       extract(epoch FROM {_ENDS} - now())::float8 AS seconds_left
FROM taken CROSS JOIN LATERAL (
    -- Each looked up by its key, also by a plan that was made before there were artifacts.
    SELECT source_url, source_expires_at, content_type, file_name FROM artifacts
    WHERE job_id = taken.job_id AND kind = taken.kind AND index = taken.index OFFSET 0
) AS file
LEFT JOIN LATERAL (
    SELECT body AS input FROM inputs WHERE job_id = taken.job_id AND taken.kind = 'mask' AND taken.index = 0 OFFSET 0
) AS asked ON true
"""


async def take_owed(db: Database, limit: int, lease_seconds: float) -> list[OwedCopy]:
    """Take copies to make now; one that is not recorded in time is owed to somebody else again."""
    return [OwedCopy(**dict(row)) for row in await db.fetch(_TAKE, limit, lease_seconds)]


async def renew_lease(db: Database, owed: OwedCopy, lease_seconds: float) -> None:
    await db.execute(
        "UPDATE copies SET due_at = now() + make_interval(secs => $4) WHERE job_id = $1 AND kind = $2 AND index = $3",
        owed.job_id,
        owed.kind,
        owed.index,
        lease_seconds,
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """A stored copy and what was measured in it. Sizes in bytes and pixels; `bbox` half open.

    `remark` says what is odd about it; the provider's claims of its size are then not believed either.
    """

    sha256: str
    size: int
    content_type: str
    width: int | None = None
    height: int | None = None
    area_fraction: float | None = None
    bbox: Sequence[int] | None = None
    remark: str | None = None


# The last copy of a job lets its callback go, which waited to name it. It is counted down in the callback's own row,
# since of two last copies that are recorded at once neither sees that the other is.
_COUNTED = """counted AS (
    UPDATE callbacks
    SET files_owed = files_owed - 1,
        due_at = CASE WHEN files_owed = 1 AND body IS NULL AND NOT leased THEN least(due_at, now()) ELSE due_at END
    FROM done WHERE callbacks.job_id = done.job_id AND files_owed > 0
    RETURNING files_owed
)"""
# Its last copy is the end of a phase. Locked by each copy, so that it is not counted before the last is recorded.
_TO_COUNT = """to_count AS (
    INSERT INTO uncounted (job_id, part) SELECT job_id, 'copy' FROM done
    ON CONFLICT (job_id, part) DO UPDATE SET part = excluded.part
)"""
# Who waits for the job is told of every copy: of two last ones that are recorded at once neither knows that it is last.
_TO_CALL = f"""SELECT EXISTS (SELECT FROM counted WHERE files_owed = 0) AS to_call,
       (SELECT pg_notify('{CHANNEL}', waiters.job_id::text) FROM waiters JOIN done USING (job_id)) AS told"""

# Whoever removes parts of a job locks it before its rows, too.
_JOB_FIRST = "job AS MATERIALIZED (SELECT id FROM jobs WHERE id = $1 FOR KEY SHARE)"
_AFTER_IT = "(SELECT count(*) FROM job) >= 0"

# The blob before its mark, as by who announces or deletes it.
_STORED = f"""
WITH {_JOB_FIRST}, blob AS MATERIALIZED (
    SELECT sha256 FROM blobs WHERE sha256 = $4 FOR KEY SHARE
), artifact AS (
    UPDATE artifacts
    SET sha256 = $4, content_type = $6, file_size = $5, area_fraction = $9, bbox = $10, copy_error = $11::text,
        width = CASE WHEN $11::text IS NULL THEN coalesce($7, width) ELSE $7 END,
        height = CASE WHEN $11::text IS NULL THEN coalesce($8, height) ELSE $8 END, stored_at = clock_timestamp()
    WHERE job_id = $1 AND kind = $2 AND index = $3 AND sha256 IS NULL AND removed_at IS NULL AND {_AFTER_IT}
      AND (SELECT count(*) FROM blob) >= 0
    RETURNING job_id
), spared AS (
    -- Not if the file, or all of its job, was removed while it was copied.
    DELETE FROM unreferenced_blobs WHERE sha256 = $4 AND EXISTS (SELECT FROM artifact)
), done AS (
    DELETE FROM copies WHERE job_id = $1 AND kind = $2 AND index = $3 AND {_AFTER_IT} RETURNING job_id
), {_COUNTED}, {_TO_COUNT}
{_TO_CALL}
"""


async def record_copy(db: Database, owed: OwedCopy, copy: Measured) -> bool:
    """Of a file that was announced. What was measured takes the place of what the provider claimed.

    Returns whether a callback waited for this.
    """
    row = await db.fetchrow(
        _STORED,
        owed.job_id,
        owed.kind,
        owed.index,
        copy.sha256,
        copy.size,
        copy.content_type,
        copy.width,
        copy.height,
        copy.area_fraction,
        list(copy.bbox) if copy.bbox else None,
        copy.remark,
    )
    return row is not None and bool(row["to_call"])


_FAILED = f"""
WITH {_JOB_FIRST}, again AS (
    UPDATE copies SET due_at = now() + make_interval(secs => $5), tries = greatest(0, tries - $6::int4)
    WHERE job_id = $1 AND kind = $2 AND index = $3 AND $5::float8 IS NOT NULL AND {_AFTER_IT}
), artifact AS (
    UPDATE artifacts SET copy_error = $4
    WHERE job_id = $1 AND kind = $2 AND index = $3 AND sha256 IS NULL AND {_AFTER_IT}
), done AS (
    DELETE FROM copies WHERE job_id = $1 AND kind = $2 AND index = $3 AND $5::float8 IS NULL AND {_AFTER_IT}
    RETURNING job_id
), {_COUNTED}, {_TO_COUNT}
{_TO_CALL}
"""


async def record_failure(
    db: Database, owed: OwedCopy, reason: str, again_in: float | None, *, counts: bool = True
) -> bool:
    """Say why the copy failed, and when it is tried again: never, when `again_in` is None.

    Returns whether a callback waited for this.
    """
    back = 0 if counts else 1
    row = await db.fetchrow(_FAILED, owed.job_id, owed.kind, owed.index, reason, again_in, back)
    return row is not None and bool(row["to_call"])


# Those whose link is known to have ended, and what came in the output itself, would fail again.
_GIVEN_UP = "sha256 IS NULL AND copy_error IS NOT NULL AND removed_at IS NULL"
_OWE_AGAIN = f"""
WITH {_JOB_FIRST}, owed AS (
    INSERT INTO copies (job_id, kind, index, expires_at)
    SELECT job_id, kind, index, {OWED_UNTIL} FROM artifacts
    WHERE job_id = $1 AND {_GIVEN_UP} AND source_url ~* '^https?:' AND (source_expires_at > now()) IS NOT FALSE
      AND EXISTS (SELECT FROM job)
    ON CONFLICT DO NOTHING RETURNING job_id
)
SELECT count(*) AS files FROM owed
"""
_LOSERS = f"""
SELECT DISTINCT job_id FROM artifacts JOIN outcomes USING (job_id)
WHERE {_GIVEN_UP} AND job_id > $1 AND completed_at >= $2 AND completed_at < coalesce($3, now())
ORDER BY job_id LIMIT $4
"""
LOSERS_AT_A_TIME = 500


async def owe_again(db: Database, job_id: UUID) -> int:
    """Owe the copies of a job's files that were given up and whose links may still live. Returns how many.

    Their links have the time of those of a job that ends now.
    """
    row = await db.fetchrow(_OWE_AGAIN, job_id)
    return int(row["files"]) if row else 0


async def owe_all_again(db: Database, since: datetime, until: datetime | None) -> int:
    """As `owe_again`, for all jobs that ended in that time."""
    number, last = 0, UUID(int=0)
    while rows := await db.fetch(_LOSERS, last, since, until, LOSERS_AT_A_TIME):
        for row in rows:
            number += await owe_again(db, row["job_id"])
        last = rows[-1]["job_id"]
    return number


async def type_of(db: Database, sha256: str) -> tuple[str, int] | None:
    """What its bytes say that a stored file is, and its size."""
    row = await db.fetchrow("SELECT content_type, size FROM blobs WHERE sha256 = $1", sha256)
    return (row["content_type"], row["size"]) if row else None


async def tenant_of(db: Database, job_id: UUID) -> UUID | None:
    row = await db.fetchrow("SELECT tenant_id FROM jobs WHERE id = $1", job_id)
    return row["tenant_id"] if row else None


# Locked before anything else of it, also where it is there, as by who deletes it: hence an update that changes nothing,
# unless nobody could look at it before.
# The mark is what keeps it for a while, and ends it if nothing refers to it by then.
_ANNOUNCE = """
WITH blob AS (
    INSERT INTO blobs (sha256, size, content_type, width, height)
    VALUES ($1, $2::int8, $3::text, $4::int4, $5::int4)
    ON CONFLICT (sha256) DO UPDATE SET
        content_type = CASE blobs.content_type WHEN 'application/octet-stream' THEN excluded.content_type
                                               ELSE blobs.content_type END,
        width = coalesce(blobs.width, excluded.width), height = coalesce(blobs.height, excluded.height)
    RETURNING sha256, deleting
), mark AS (
    INSERT INTO unreferenced_blobs (sha256) SELECT sha256 FROM blob WHERE NOT deleting
    ON CONFLICT (sha256) DO UPDATE SET since = excluded.since
)
SELECT deleting FROM blob
"""


async def announce(db: Database, file: Measured) -> bool:
    """A file that something is going to refer to; if nothing does, it goes like one whose last reference went.

    False: it is just being deleted.
    """
    row = await db.fetchrow(_ANNOUNCE, file.sha256, file.size, file.content_type, file.width, file.height)
    return row is not None and not row["deleting"]


_UPLOADED = """
WITH spared AS (
    DELETE FROM unreferenced_blobs WHERE sha256 = $1
)
UPDATE blobs SET uploaded = true WHERE sha256 = $1 AND NOT uploaded
"""


async def record_upload(db: Database, sha256: str) -> None:
    """It stays, whether or not a job refers to it."""
    await db.execute(_UPLOADED, sha256)


async def kept_picture(db: Database, job_id: UUID, came: Sequence[str]) -> str | None:
    """The picture of an input that was kept from elsewhere; `came` are the files that came in the input itself."""
    row = await db.fetchrow(
        "SELECT sha256 FROM input_files WHERE job_id = $1 AND sha256 <> ALL ($2::text[])", job_id, came
    )
    return row["sha256"] if row else None


_KEEP_PICTURE = """
WITH job AS MATERIALIZED (
    -- Before the input, as those do who remove it.
    SELECT id FROM jobs WHERE id = $1 FOR KEY SHARE
), asked AS MATERIALIZED (
    SELECT inputs.job_id FROM job JOIN inputs ON inputs.job_id = job.id FOR KEY SHARE OF inputs
), blob AS MATERIALIZED (
    SELECT sha256 FROM blobs WHERE sha256 = $2 AND EXISTS (SELECT FROM asked) FOR KEY SHARE
), spared AS (
    DELETE FROM unreferenced_blobs USING blob WHERE unreferenced_blobs.sha256 = blob.sha256
)
INSERT INTO input_files (job_id, sha256) SELECT job_id, $2 FROM asked ON CONFLICT DO NOTHING
"""


async def record_input_picture(db: Database, job_id: UUID, sha256: str) -> None:
    """Nothing, if the input was removed meanwhile."""
    await db.execute(_KEEP_PICTURE, job_id, sha256)
