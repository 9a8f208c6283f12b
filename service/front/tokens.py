"""Short-lived tokens for uploads, which `fal-client` gets for its key and sends instead of it."""

import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from time import time

from service.db import Database
from service.errors import Unauthenticated
from service.secrets import SharedSecret

LASTS = timedelta(hours=1)


class UploadTokens:
    """A token names a key and when it expires, sealed; it is worth as much as the key is when it is used."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._secret = SharedSecret("upload-tokens")

    async def make(self, key_id: str) -> tuple[str, datetime]:
        expires = datetime.now(UTC).replace(microsecond=0) + LASTS
        named = f"{key_id}.{int(expires.timestamp())}"
        return f"{named}.{await self._seal(named)}", expires

    async def key_of(self, token: str) -> str:
        """The key's ID. Raises Unauthenticated."""
        named, _, seal = token.rpartition(".")
        key_id, _, expires = named.rpartition(".")
        if not token.isascii() or not hmac.compare_digest(await self._seal(named), seal) or int(expires) < time():
            raise Unauthenticated
        return key_id

    async def _seal(self, named: str) -> str:
        return hmac.new(await self._secret.get(self._db), named.encode(), hashlib.sha256).hexdigest()
