"""Statements about files: which copies are owed, and what came of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from service.db import Database


@dataclass(frozen=True, slots=True)
class OwedCopy:
    """A file named in an output whose copy is not stored yet."""

    job_id: UUID
    kind: str
    index: int
    source_url: str
    tries: int


_TAKE = """
WITH picked AS (
    SELECT job_id, kind, index FROM copies WHERE due_at <= now()
    -- Files that were never tried come before those whose host does not answer.
    ORDER BY tries, due_at LIMIT $1 FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE copies SET tries = least(copies.tries + 1, 32767), due_at = now() + make_interval(secs => $2)
    FROM picked
    WHERE copies.job_id = picked.job_id AND copies.kind = picked.kind AND copies.index = picked.index
    RETURNING copies.*
)
SELECT taken.job_id, taken.kind, taken.index, artifacts.source_url, taken.tries
FROM taken JOIN artifacts USING (job_id, kind, index)
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
    """A stored copy and what was measured in it. Sizes in bytes and pixels; `bbox` half open."""

    sha256: str
    size: int
    content_type: str
    width: int | None = None
    height: int | None = None
    area_fraction: float | None = None
    bbox: Sequence[int] | None = None


# The last copy of a job lets its callback go, which waited to name it. It is counted down in the callback's own row,
# since of two last copies that are recorded at once neither sees that the other is.
_COUNTED = """counted AS (
    UPDATE callbacks
    SET files_owed = files_owed - 1,
        due_at = CASE WHEN files_owed = 1 AND body IS NULL AND NOT leased THEN least(due_at, now()) ELSE due_at END
    FROM done WHERE callbacks.job_id = done.job_id AND files_owed > 0
    RETURNING files_owed
)"""
_TO_CALL = "SELECT EXISTS (SELECT FROM counted WHERE files_owed = 0) AS to_call"

_STORED = f"""
WITH blob AS (
    INSERT INTO blobs (sha256, size, content_type, width, height) VALUES ($4, $5, $6, $7, $8) ON CONFLICT DO NOTHING
), artifact AS (
    UPDATE artifacts
    SET sha256 = $4, content_type = $6, file_size = $5, width = coalesce($7, width), height = coalesce($8, height),
        area_fraction = $9, bbox = $10, copy_error = NULL, stored_at = clock_timestamp()
    WHERE job_id = $1 AND kind = $2 AND index = $3 AND sha256 IS NULL
), done AS (
    DELETE FROM copies WHERE job_id = $1 AND kind = $2 AND index = $3 RETURNING job_id
), {_COUNTED}
{_TO_CALL}
"""


async def record_copy(db: Database, owed: OwedCopy, copy: Measured) -> bool:
    """What was measured takes the place of what the provider claimed. Returns whether a callback waited for this."""
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
    )
    return row is not None and bool(row["to_call"])


_FAILED = f"""
WITH again AS (
    UPDATE copies SET due_at = now() + make_interval(secs => $5), tries = greatest(0, tries - $6::int4)
    WHERE job_id = $1 AND kind = $2 AND index = $3 AND $5::float8 IS NOT NULL
), artifact AS (
    UPDATE artifacts SET copy_error = $4 WHERE job_id = $1 AND kind = $2 AND index = $3 AND sha256 IS NULL
), done AS (
    DELETE FROM copies WHERE job_id = $1 AND kind = $2 AND index = $3 AND $5::float8 IS NULL RETURNING job_id
), {_COUNTED}
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


async def type_of(db: Database, sha256: str) -> tuple[str, int] | None:
    """Content type and size in bytes of a stored file."""
    row = await db.fetchrow("SELECT content_type, size FROM blobs WHERE sha256 = $1", sha256)
    return (row["content_type"], row["size"]) if row else None


async def record_upload(db: Database, upload: Measured) -> None:
    await db.execute(
        "INSERT INTO blobs (sha256, size, content_type, width, height) VALUES ($1, $2, $3, $4, $5)"
        " ON CONFLICT DO NOTHING",
        upload.sha256,
        upload.size,
        upload.content_type,
        upload.width,
        upload.height,
    )


@dataclass(frozen=True, slots=True)
class Upload:
    """A file whose address is given out before its bytes come; `sha256` is None until they have."""

    id: str
    ticket: str
    file_name: str
    content_type: str
    sha256: str | None = None


async def begin_upload(db: Database, tenant_id: UUID, upload: Upload) -> None:
    await db.execute(
        "INSERT INTO uploads (id, ticket, tenant_id, file_name, content_type) VALUES ($1, $2, $3, $4, $5)",
        upload.id,
        upload.ticket,
        tenant_id,
        upload.file_name,
        upload.content_type,
    )


_UPLOAD = "SELECT id, ticket, file_name, content_type, sha256 FROM uploads WHERE"


async def find_upload(db: Database, upload_id: str) -> Upload | None:
    row = await db.fetchrow(f"{_UPLOAD} id = $1", upload_id)
    return Upload(**dict(row)) if row else None


async def find_ticket(db: Database, ticket: str, lasts_seconds: float) -> Upload | None:
    """The upload that a ticket opens; None when there is none, or its time is over."""
    row = await db.fetchrow(
        f"{_UPLOAD} ticket = $1 AND created_at > now() - make_interval(secs => $2)", ticket, lasts_seconds
    )
    return Upload(**dict(row)) if row else None


async def finish_upload(db: Database, upload_id: str, sha256: str) -> bool:
    """False: other bytes came before."""
    row = await db.fetchrow(
        "UPDATE uploads SET sha256 = $2 WHERE id = $1 AND (sha256 IS NULL OR sha256 = $2) RETURNING id",
        upload_id,
        sha256,
    )
    return row is not None
