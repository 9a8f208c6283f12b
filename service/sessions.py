"""Sessions of people who look: a key was shown once, and from then on a cookie stands for it.

Of a cookie only its hash is kept. What a session may do is read from its key each time, so that one which was revoked
opens nothing from then on.
"""

import hashlib
import hmac
import secrets
from time import monotonic

from service.db import Database, DatabaseAway
from service.keys import Caller, digest

TOKEN_BYTES = 32

# A session that was seen this long ago is written anew: as a part of the time after which an idle one is over.
STAMPED_EVERY = 1 / 20

# While the database is away nobody can be looked up, and nothing can be shown that is in it; who was known so short a
# time before may see the pages that say so.
KNOWN_SECONDS = 300.0
MOST_KNOWN = 1_000

_OPEN = "INSERT INTO sessions (token_sha256, key_id) VALUES ($1, $2)"

# $2 and $3 are the seconds after which an idle session, and any session, is over.
_FIND = """
SELECT sessions.key_id, api_keys.scopes, tenants.id AS tenant_id, tenants.name AS tenant, tenants.join_seconds,
       extract(epoch FROM now() - sessions.seen_at)::float8 AS idle
FROM sessions JOIN api_keys ON api_keys.id = sessions.key_id JOIN tenants ON tenants.id = api_keys.tenant_id
WHERE sessions.token_sha256 = $1 AND api_keys.revoked_at IS NULL
  AND sessions.seen_at > now() - make_interval(secs => $2) AND sessions.created_at > now() - make_interval(secs => $3)
"""
_SEEN = "UPDATE sessions SET seen_at = now() WHERE token_sha256 = $1"
_CLOSE = "DELETE FROM sessions WHERE token_sha256 = $1"
_FORGET = """
DELETE FROM sessions USING api_keys
WHERE api_keys.id = sessions.key_id
  AND (sessions.seen_at <= now() - make_interval(secs => $1) OR sessions.created_at <= now() - make_interval(secs => $2)
       OR api_keys.revoked_at IS NOT NULL)
"""


class Sessions:
    """Opens, finds and closes sessions. An idle one is over after `idle_seconds`, any after `longest_seconds`."""

    def __init__(self, db: Database, idle_seconds: float, longest_seconds: float) -> None:
        self._db = db
        self._limits = (idle_seconds, longest_seconds)
        self._known: dict[bytes, tuple[float, Caller]] = {}

    async def open(self, key_id: str) -> str:
        """The new session's token, which only the browser keeps."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        await self._db.execute(_OPEN, digest(token), key_id)
        return token

    async def find(self, token: str, *, in_use: bool = True) -> Caller | None:
        """Whose session it is. `in_use` is False where nobody did anything, so that it may become idle.

        None: there is no such session, or it is over, or its key was revoked.
        """
        hashed = digest(token)
        try:
            row = await self._db.fetchrow(_FIND, hashed, *self._limits)
        except DatabaseAway:
            until, caller = self._known.get(hashed, (0.0, None))
            if caller is None or until < monotonic():
                raise
            return caller
        if row is None:
            self._known.pop(hashed, None)
            return None
        if in_use and row["idle"] > self._limits[0] * STAMPED_EVERY:
            await self._db.execute(_SEEN, hashed)
        caller = Caller(row["key_id"], row["tenant_id"], row["tenant"], frozenset(row["scopes"]), row["join_seconds"])
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[hashed] = (monotonic() + KNOWN_SECONDS, caller)
        return caller

    async def close(self, token: str) -> None:
        hashed = digest(token)
        self._known.pop(hashed, None)
        await self._db.execute(_CLOSE, hashed)


def form_token(token: str) -> str:
    """What a session's forms bear, and no page of another origin can know."""
    return hmac.new(token.encode(), b"form", hashlib.sha256).hexdigest()


async def forget(db: Database, idle_seconds: float, longest_seconds: float) -> None:
    """Delete the sessions that are over."""
    await db.execute(_FORGET, idle_seconds, longest_seconds)
