"""Statements about uploads whose address is given out before their bytes come."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from service.db import Database


@dataclass(frozen=True, slots=True)
class Upload:
    """A file whose address is given out before its bytes come; `sha256` is None until they have."""

    id: str
    ticket: str
    file_name: str
    content_type: str
    sha256: str | None = None


async def begin(db: Database, tenant_id: UUID, upload: Upload) -> None:
    await db.execute(
        "INSERT INTO uploads (id, ticket, tenant_id, file_name, content_type) VALUES ($1, $2, $3, $4, $5)",
        upload.id,
        upload.ticket,
        tenant_id,
        upload.file_name,
        upload.content_type,
    )


_UPLOAD = "SELECT id, ticket, file_name, content_type, sha256 FROM uploads WHERE"


async def find(db: Database, upload_id: str) -> Upload | None:
    row = await db.fetchrow(f"{_UPLOAD} id = $1", upload_id)
    return Upload(**dict(row)) if row else None


async def find_by_ticket(db: Database, ticket: str, lasts_seconds: float) -> Upload | None:
    """The upload that a ticket opens; None when there is none, or its time is over."""
    row = await db.fetchrow(
        f"{_UPLOAD} ticket = $1 AND created_at > now() - make_interval(secs => $2)", ticket, lasts_seconds
    )
    return Upload(**dict(row)) if row else None


async def finish(db: Database, upload_id: str, sha256: str, content_type: str) -> bool:
    """False: other bytes came before."""
    row = await db.fetchrow(
        "UPDATE uploads SET sha256 = $2, content_type = CASE WHEN sha256 IS NULL THEN $3 ELSE content_type END"
        " WHERE id = $1 AND (sha256 IS NULL OR sha256 = $2) RETURNING id",
        upload_id,
        sha256,
        content_type,
    )
    return row is not None


async def that_never_came(db: Database, older_seconds: float, limit: int) -> list[str]:
    rows = await db.fetch(
        "SELECT id FROM uploads WHERE sha256 IS NULL AND created_at < now() - make_interval(secs => $1)"
        " ORDER BY created_at LIMIT $2",
        older_seconds,
        limit,
    )
    return [row["id"] for row in rows]


async def forget(db: Database, upload_ids: Sequence[str]) -> None:
    """Those of them that never came."""
    await db.execute("DELETE FROM uploads WHERE id = ANY ($1::text[]) AND sha256 IS NULL", upload_ids)
