"""Tenants and what each of them wants done otherwise."""

from dataclasses import dataclass

from service.callbacks import keys
from service.callbacks.lifecycle import CallbackFormat
from service.db import Database, Row
from service.jobs.lifecycle import OnDoubt
from service.secrets import CALLBACK_SECRETS, SharedSecret


async def tenants(db: Database) -> list[Row]:
    return await db.fetch("SELECT name, on_doubt, callback_format, join_seconds, created_at FROM tenants ORDER BY name")


# Zero seconds are never.
_SET = """
UPDATE tenants
SET on_doubt = coalesce($2, on_doubt), callback_format = coalesce($3, callback_format),
    join_seconds = CASE WHEN $4::float8 IS NULL THEN join_seconds ELSE nullif($4, 0) END
WHERE name = $1 RETURNING on_doubt, callback_format, join_seconds
"""


async def set_wishes(
    db: Database,
    name: str,
    on_doubt: OnDoubt | None = None,
    callback_format: CallbackFormat | None = None,
    join_seconds: float | None = None,
) -> Row | None:
    """What is None stays. Returns all wishes as they are now; None: there is no such tenant."""
    return await db.fetchrow(
        _SET,
        name,
        on_doubt.value if on_doubt else None,
        callback_format.value if callback_format else None,
        join_seconds,
    )


@dataclass(frozen=True, slots=True)
class CallbackSecrets:
    """What a tenant verifies its callbacks with. `before` holds for a day after a rotation."""

    secret: str
    before: str | None
    public_key: str


_ROTATE = """
UPDATE tenants SET callback_secret = callback_secret + 1, callback_secret_rotated_at = now() WHERE name = $1
"""
_FIND = """
SELECT id, callback_secret AS generation,
       coalesce(callback_secret_rotated_at > now() - make_interval(secs => $2), false) AS was_rotated
FROM tenants WHERE name = $1
"""


async def callback_secrets(db: Database, name: str, *, rotate: bool = False) -> CallbackSecrets | None:
    """None: there is no such tenant."""
    if rotate:
        await db.execute(_ROTATE, name)
    row = await db.fetchrow(_FIND, name, keys.OVERLAP_SECONDS)
    if row is None:
        return None
    installation = await SharedSecret(CALLBACK_SECRETS).get(db)

    def text(generation: int) -> str:
        return keys.secret_text(keys.tenant_secret(installation, row["id"], generation))

    signer = await keys.SigningKeys().signer(db)
    before = text(row["generation"] - 1) if row["was_rotated"] else None
    return CallbackSecrets(text(row["generation"]), before, keys.public_text(bytes(signer.verify_key)))
