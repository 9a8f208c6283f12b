"""Secrets that all processes of one installation share; the first that needs one makes it."""

import secrets

from service.db import Database

# Names of secrets that more than one room asks for.
CALLBACK_SECRETS = "callback-secrets"
FILE_LINKS = "file-links"


class SharedSecret:
    """32 random bytes under a name in the database, read once a process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._value: bytes | None = None

    async def get(self, db: Database) -> bytes:
        if self._value is None:
            await db.execute(
                "INSERT INTO server_secrets (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                self._name,
                secrets.token_bytes(32),
            )
            row = await db.fetchrow("SELECT value FROM server_secrets WHERE name = $1", self._name)
            assert row is not None
            self._value = bytes(row["value"])
        return self._value
