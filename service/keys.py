"""API keys: `id:secret`, of which only the ID and the secret's SHA-256 are kept."""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from time import monotonic
from uuid import UUID

from uuid_utils.compat import uuid7

from service.db import Database, one_connection
from service.errors import Unauthenticated

SCOPES = ("submit", "read", "metrics", "admin")

# What a scope brings along: who may read a job may also know how it goes.
INCLUDED = {"metrics": ("metrics", "read", "admin"), "read": ("read", "admin"), "submit": ("submit", "admin")}

# A key is looked up again after this long, so that a revocation is felt everywhere within it.
REMEMBERED_SECONDS = 5.0
MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the tenant that the key belongs to, what the key may do, and what the tenant wants done otherwise."""

    key_id: str
    tenant_id: UUID
    tenant: str
    scopes: frozenset[str]
    join_seconds: float | None = None

    def may(self, scope: str) -> bool:
        return not self.scopes.isdisjoint(INCLUDED.get(scope, (scope, "admin")))


def digest(secret: str) -> bytes:
    """A plain hash is enough: the secrets are random and long."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class KeyRing:
    """Tells who a credential belongs to, with a short memory in front of the database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._remembered: dict[str, tuple[float, bytes, Caller | None]] = {}
        self._looking: dict[str, asyncio.Task[tuple[bytes, Caller | None]]] = {}

    async def caller(self, authorization: str) -> Caller:
        """The same work and the same answer for an unknown key and for a wrong secret. Raises Unauthenticated."""
        scheme, _, credential = authorization.partition(" ")
        key_id, separator, secret = credential.strip().partition(":")
        if scheme.lower() not in {"key", "bearer"} or not separator or len(key_id) > 200 or "\0" in key_id:
            raise Unauthenticated
        expected, caller = await self._find(key_id)
        if not hmac.compare_digest(digest(secret), expected) or caller is None:
            raise Unauthenticated
        return caller

    async def holder(self, key_id: str) -> Caller:
        """Whose key this is, for who has proven to have it before. Raises Unauthenticated."""
        _, caller = await self._find(key_id)
        if caller is None:
            raise Unauthenticated
        return caller

    async def _find(self, key_id: str) -> tuple[bytes, Caller | None]:
        known = self._remembered.get(key_id)
        if known is not None and known[0] > monotonic():
            return known[1], known[2]
        # Streams that were opened together ask together; one look is enough for all.
        looking = self._looking.get(key_id)
        if looking is None:
            looking = self._looking[key_id] = asyncio.create_task(self._look(key_id))
            looking.add_done_callback(partial(self._looked, key_id))
        return await asyncio.shield(looking)

    def _looked(self, key_id: str, looking: "asyncio.Task[tuple[bytes, Caller | None]]") -> None:
        del self._looking[key_id]
        if not looking.cancelled():
            looking.exception()  # Whoever asked may have gone.

    async def _look(self, key_id: str) -> tuple[bytes, Caller | None]:
        row = await self._db.fetchrow(
            "SELECT api_keys.secret_sha256, api_keys.scopes, tenants.id AS tenant_id, tenants.name AS tenant,"
            " tenants.join_seconds FROM api_keys JOIN tenants ON tenants.id = api_keys.tenant_id"
            " WHERE api_keys.id = $1 AND api_keys.revoked_at IS NULL",
            key_id,
        )
        if row is None:
            return bytes(32), None
        caller = Caller(key_id, row["tenant_id"], row["tenant"], frozenset(row["scopes"]), row["join_seconds"])
        if len(self._remembered) >= MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[key_id] = (monotonic() + REMEMBERED_SECONDS, bytes(row["secret_sha256"]), caller)
        return bytes(row["secret_sha256"]), caller


_UPSERT_TENANT = """
INSERT INTO tenants (id, name) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id
"""


async def create_key(database_url: str, tenant: str, scopes: Iterable[str]) -> str:
    """Make a key for a tenant, who is made too if it is new. Returns `id:secret`; the secret is shown only here."""
    key_id, secret = f"rt_{secrets.token_hex(6)}", secrets.token_urlsafe(32)
    async with one_connection(database_url) as connection:
        tenant_id = await connection.fetchval(_UPSERT_TENANT, uuid7(), tenant)
        await connection.execute(
            "INSERT INTO api_keys (id, tenant_id, secret_sha256, scopes) VALUES ($1, $2, $3, $4)",
            key_id,
            tenant_id,
            digest(secret),
            list(scopes),
        )
    return f"{key_id}:{secret}"


async def ensure_admin_key(database_url: str, key: str) -> None:
    """Let `id:secret` of the settings be the first admin key, of the tenant `default`."""
    key_id, _, secret = key.partition(":")
    async with one_connection(database_url) as connection:
        tenant_id = await connection.fetchval(_UPSERT_TENANT, uuid7(), "default")
        await connection.execute(
            "INSERT INTO api_keys (id, tenant_id, secret_sha256, scopes) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (id) DO UPDATE SET secret_sha256 = excluded.secret_sha256, scopes = excluded.scopes",
            key_id,
            tenant_id,
            digest(secret),
            list(SCOPES),
        )


@dataclass(frozen=True, slots=True)
class KeyRow:
    id: str
    tenant: str
    scopes: list[str]
    created_at: datetime
    revoked_at: datetime | None


async def list_keys(database_url: str) -> list[KeyRow]:
    async with one_connection(database_url) as connection:
        rows = await connection.fetch(
            "SELECT api_keys.id, tenants.name AS tenant, scopes, api_keys.created_at, revoked_at"
            " FROM api_keys JOIN tenants ON tenants.id = tenant_id ORDER BY api_keys.created_at"
        )
    return [KeyRow(**dict(row)) for row in rows]


async def revoke_key(database_url: str, key_id: str) -> bool:
    """False: there is no such key, or it was revoked before."""
    async with one_connection(database_url) as connection:
        return (
            await connection.fetchval(
                "UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL RETURNING true", key_id
            )
            is True
        )
