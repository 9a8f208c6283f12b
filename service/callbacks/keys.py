"""What callbacks are signed with: Ed25519 keys of the installation, published, and a secret and a key of each tenant.

Receivers keep the published keys for a day and need not look again when a signature does not hold. So a new key is
published for longer than that before it signs, and the one before it for a day after.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any
from uuid import UUID

from nacl.signing import SigningKey

from service.db import Database, DatabaseAway

NAME = "callback-key-"
SIGNS_AFTER_SECONDS = 25 * 3_600.0
HOLDS_AFTER_SECONDS = 24 * 3_600.0

# A process looks again after this long, so that a rotation is known everywhere within it.
REMEMBERED_SECONDS = 2.0

# A tenant's secret from before a rotation signs beside the new one this long.
OVERLAP_SECONDS = 24 * 3_600.0


@dataclass(frozen=True, slots=True)
class KeyPair:
    """`age` in seconds since it was made and published."""

    key: SigningKey
    age: float

    @property
    def public(self) -> bytes:
        return bytes(self.key.verify_key)


class SigningKeys:
    """The keys of the installation, oldest first; the first process that needs one makes it."""

    def __init__(self) -> None:
        self._keys: list[KeyPair] = []
        self._read_at = float("-inf")

    async def signer(self, db: Database) -> SigningKey:
        return signing(await self._all(db)).key

    async def published(self, db: Database) -> list[KeyPair]:
        """The key that signs, those that are to follow, and the one before while it may still be needed."""
        keys = await self._all(db)
        place = keys.index(current := signing(keys))
        recent = current.age < SIGNS_AFTER_SECONDS + HOLDS_AFTER_SECONDS
        return keys[max(0, place - 1) if recent else place :]

    async def _all(self, db: Database) -> list[KeyPair]:
        if monotonic() - self._read_at > REMEMBERED_SECONDS:
            try:
                self._keys = await read_keys(db)
            except DatabaseAway:
                if not self._keys:
                    raise
            self._read_at = monotonic()
        return self._keys


def signing(keys: Sequence[KeyPair]) -> KeyPair:
    """The newest that everybody had time to hear of; in a new installation there is nobody yet who could not."""
    return next((pair for pair in reversed(keys) if pair.age >= SIGNS_AFTER_SECONDS), keys[0])


_READ = """
SELECT value, extract(epoch FROM now() - created_at)::float8 AS age FROM server_secrets
WHERE starts_with(name, $1) ORDER BY created_at, name
"""
_ADD = """
INSERT INTO server_secrets (name, value, created_at) VALUES ($1, $2, now() - make_interval(secs => $3))
ON CONFLICT DO NOTHING
"""


async def read_keys(db: Database) -> list[KeyPair]:
    while not (rows := await db.fetch(_READ, NAME)):
        await db.execute(_ADD, f"{NAME}1", secrets.token_bytes(32), 0.0)
    return [KeyPair(SigningKey(bytes(row["value"])), row["age"]) for row in rows]


# One statement each, so that nobody ever finds a stolen key beside the new one, or none.
_NEXT = f"""
INSERT INTO server_secrets (name, value, created_at)
SELECT '{NAME}' || coalesce(max(substr(name, {len(NAME) + 1})::int), 0) + 1, $1, now() - make_interval(secs => $2)
FROM {{before}} WHERE starts_with(name, '{NAME}')
ON CONFLICT DO NOTHING RETURNING name
"""
_ADD_NEXT = _NEXT.format(before="server_secrets")
_REPLACE_ALL = f"""
WITH stolen AS (
    DELETE FROM server_secrets WHERE starts_with(name, '{NAME}') RETURNING name
)
{_NEXT.format(before="stolen")}
"""


async def rotate(db: Database, *, at_once: bool) -> bool:
    """Make the next key. `at_once` is for one that was stolen: no older key is used or published again.

    Returns whether it signs already, as the first one does, too.
    """
    statement, age = (_REPLACE_ALL, SIGNS_AFTER_SECONDS) if at_once else (_ADD_NEXT, 0.0)
    while (made := await db.fetchrow(statement, secrets.token_bytes(32), age)) is None:
        continue  # Somebody else made one at the same moment.
    return at_once or made["name"] == f"{NAME}1"


def key_set(keys: Sequence[KeyPair], *, strict: bool) -> dict[str, Any]:
    """The public keys as a JWKS, newest last.

    RFC 7515 writes `x` without padding, and fal's own sample for Python reads it only with. So each key is there in
    both spellings, and a `strict` set has the RFC's only.
    """
    listed = []
    for pair in keys:
        x = base64.urlsafe_b64encode(pair.public).decode()
        kid = hashlib.sha256(pair.public).hexdigest()[:16]
        if not strict:
            listed.append(_entry(f"{kid}-padded", x))
        listed.append(_entry(kid, x.rstrip("=")))
    return {"keys": listed}


def _entry(kid: str, x: str) -> dict[str, str]:
    return {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid, "x": x}


def public_text(public: bytes) -> str:
    """As Standard Webhooks writes the key of `v1a`."""
    return f"whpk_{base64.b64encode(public).decode()}"


def tenant_key(installation: bytes, tenant_id: UUID, generation: int) -> SigningKey:
    """What signs a tenant's Standard Webhooks.

    The standard signs no name of a sender: with one key for all, a tenant could send another's receiver the callbacks
    of its own jobs, and they would verify.
    """
    return SigningKey(hmac.new(installation, f"v1a/{tenant_id}/{generation}".encode(), hashlib.sha256).digest())


def tenant_secret(installation: bytes, tenant_id: UUID, generation: int) -> bytes:
    """32 bytes that stand in no table: they follow from the installation's secret."""
    return hmac.new(installation, f"{tenant_id}/{generation}".encode(), hashlib.sha256).digest()


def secret_text(secret: bytes) -> str:
    """As Standard Webhooks writes a secret."""
    return f"whsec_{base64.b64encode(secret).decode()}"
