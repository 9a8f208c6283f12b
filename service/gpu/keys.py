"""Whose word of a GPU worker counts: the keys that an operator registered, as one process knows them."""

from time import monotonic

from service.db import Database, DatabaseAway, Row
from service.errors import SignatureRejected
from service.gpu.identity import key_id
from service.providers.signatures import KeysUnavailable, Signed, verifies

# A key that was revoked counts no longer than this.
FRESH_SECONDS = 5.0

# A key that is not known makes us look for it: so many times at once, one more every second.
LOOKS = 30.0


class WorkerKeys:
    """The registered keys, read again after some seconds, and once more for one that is not known."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._keys: dict[str, bytes] = {}
        self._read_at = float("-inf")
        self._looks, self._looked_at = LOOKS, monotonic()

    async def verify(self, signed: Signed, digest: str) -> str:
        """The ID of the key that signed a body with this SHA-256. Raises SignatureRejected or KeysUnavailable."""
        if monotonic() - self._read_at > FRESH_SECONDS or (signed.user_id not in self._keys and self._may_look()):
            await self._read()
        key = self._keys.get(signed.user_id)
        if key is None or not verifies(key, bytes.fromhex(signed.signature), signed.message_of(digest)):
            raise SignatureRejected
        return signed.user_id

    def _may_look(self) -> bool:
        now = monotonic()
        self._looks, self._looked_at = min(LOOKS, self._looks + now - self._looked_at), now
        if self._looks < 1:
            return False
        self._looks -= 1
        return True

    async def _read(self) -> None:
        try:
            rows = await self._db.fetch("SELECT id, public_key FROM gpu_keys WHERE revoked_at IS NULL")
        except DatabaseAway:
            raise KeysUnavailable from None
        self._keys = {row["id"]: row["public_key"] for row in rows}
        self._read_at = monotonic()


async def add_key(db: Database, public_key: bytes, name: str) -> str:
    """Let its holder run jobs; returns the key's ID. A key that was revoked stays so."""
    await db.execute(
        "INSERT INTO gpu_keys (id, public_key, name) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING",
        key_id(public_key),
        public_key,
        name,
    )
    return key_id(public_key)


async def list_keys(db: Database) -> list[Row]:
    return await db.fetch("SELECT * FROM gpu_keys ORDER BY created_at, id")


async def revoke_key(db: Database, key: str) -> bool:
    """False: there is no such key that holds."""
    row = await db.fetchrow(
        "UPDATE gpu_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL RETURNING id", key
    )
    return row is not None
