"""Tenants and what each of them wants done otherwise."""

from dataclasses import dataclass

from service.callbacks import keys
from service.callbacks.lifecycle import CallbackFormat
from service.db import Database, Row
from service.jobs.lifecycle import OnDoubt
from service.secrets import CALLBACK_SECRETS, SharedSecret


async def tenants(db: Database) -> list[Row]:
    return await db.fetch(
        "SELECT id, name, on_doubt, callback_format, join_seconds, created_at FROM tenants ORDER BY name"
    )


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


class RotatedBefore(Exception):
    """Within the time for which the secret before that rotation still holds."""


@dataclass(frozen=True, slots=True)
class CallbackSecrets:
    """What a tenant verifies its callbacks with: `user_id` in fal's form, the others in the standard's.

    Those `before` hold for a day after a rotation.
    """

    user_id: str
    secret: str
    public_key: str
    before: str | None
    public_key_before: str | None


_ROTATE = """
UPDATE tenants SET callback_secret = callback_secret + 1, callback_secret_rotated_at = now()
WHERE name = $1
  AND ($2 OR coalesce(callback_secret_rotated_at, '-infinity') <= now() - make_interval(secs => $3))
RETURNING id
"""
_FIND = """
SELECT id, callback_secret AS generation,
       coalesce(callback_secret_rotated_at > now() - make_interval(secs => $2), false) AS was_rotated
FROM tenants WHERE name = $1
"""


async def callback_secrets(
    db: Database, name: str, *, rotate: bool = False, again: bool = False
) -> CallbackSecrets | None:
    """None: there is no such tenant. Raises RotatedBefore, unless it is to be rotated `again` all the same."""
    rotated = rotate and await db.fetchrow(_ROTATE, name, again, keys.OVERLAP_SECONDS) is not None
    row = await db.fetchrow(_FIND, name, keys.OVERLAP_SECONDS)
    if row is None:
        return None
    if rotate and not rotated:
        raise RotatedBefore
    installation = await SharedSecret(CALLBACK_SECRETS).get(db)

    def texts(generation: int) -> tuple[str, str]:
        key = keys.tenant_key(installation, row["id"], generation)
        secret = keys.tenant_secret(installation, row["id"], generation)
        return keys.secret_text(secret), keys.public_text(bytes(key.verify_key))

    before = texts(row["generation"] - 1) if row["was_rotated"] else (None, None)
    secret, public_key = texts(row["generation"])
    return CallbackSecrets(str(row["id"]), secret, public_key, *before)
