"""PostgreSQL behind one pool of asyncpg connections, which prepare and keep their statements.

Hot statements are SQL text in the files whose job is SQL; statements that are composed from what a client
asks are built with SQLAlchemy Core and run here too.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import ClauseElement, Dialect
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from service.errors import Invalid, Unavailable

Row = asyncpg.Record
Result = TypeVar("Result")

# What a lost, restarting or overfull server raises. A statement that met one of these may have been
# carried out all the same, so nobody may read "did not happen" out of it.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.DiskFullError,
)

# A list that takes longer has to be asked for more narrowly.
LIST_SECONDS = 10.0

SESSION = {
    "synchronous_commit": "on",
    "application_name": "roundtrip",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
    "jit": "off",
    "timezone": "UTC",
}


class TooCostly(Invalid):
    """A question that the database could not answer in time."""

    def __init__(self) -> None:
        words = "This question takes too long; narrow it with created_after, model or status."
        super().__init__([{"loc": ["query"], "msg": words, "type": "too_costly"}])


class DatabaseAway(Unavailable):
    message = "The database is away; try again shortly."


def _away(error: Exception) -> Exception:
    """asyncpg counts arguments that cannot be encoded among the interface errors, too; those are our bugs."""
    return error if isinstance(error, ValueError) else DatabaseAway()


class Database:
    def __init__(self, pool: "asyncpg.Pool[Row]") -> None:
        self.pool = pool

    async def fetch(self, sql: str, *values: Any) -> list[Row]:
        try:
            return await self.pool.fetch(sql, *values)
        except AWAY as error:
            raise _away(error) from error

    async def fetchrow(self, sql: str, *values: Any) -> Row | None:
        try:
            return await self.pool.fetchrow(sql, *values)
        except AWAY as error:
            raise _away(error) from error

    async def execute(self, sql: str, *values: Any) -> str:
        try:
            return await self.pool.execute(sql, *values)
        except AWAY as error:
            raise _away(error) from error

    async def fetch_in_turn(self, turn: int, sql: str, *values: Any) -> list[Row]:
        """As `fetch`, one at a time over all processes of this `turn`: each sees all that the one before has done."""
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", turn)
                return await connection.fetch(sql, *values)
        except AWAY as error:
            raise _away(error) from error

    async def run(self, statement: ClauseElement) -> list[Row]:
        """Run a SQLAlchemy Core statement that was made for one request. Raises TooCostly."""
        compiled = Compiled(statement)
        try:
            async with asyncio.timeout(LIST_SECONDS) as limit:
                return await self.pool.fetch(compiled.sql, *compiled.values())
        except TimeoutError as error:
            raise (TooCostly() if limit.expired() else DatabaseAway()) from error
        except AWAY as error:
            raise _away(error) from error


class Compiled:
    """A SQLAlchemy Core statement as asyncpg takes it."""

    _dialect: Dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped.

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=self._dialect)
        self.sql = str(compiled)
        self._parameters: dict[str, Any] = dict(compiled.params or {})
        self._order: Sequence[str] = getattr(compiled, "positiontup", None) or ()

    def values(self, **given: Any) -> list[Any]:
        """The parameters in their order, `given` in place of those bound by name."""
        known = {**self._parameters, **given}
        return [known[name] for name in self._order]


async def _keep_session(_: "asyncpg.Connection[Row]") -> None:
    return None


@asynccontextmanager
async def open_database(url: str, *, max_size: int = 12) -> AsyncGenerator[Database]:
    """Connections are made when they are first needed, so that a start survives a database that is away."""
    pool = asyncpg.create_pool(
        url,
        min_size=0,
        max_size=max_size,
        max_inactive_connection_lifetime=300,
        command_timeout=35,
        timeout=5,
        server_settings=SESSION,
        # No statement of ours changes a session, so there is nothing to reset, and a round trip is saved.
        reset=_keep_session,
    )
    await pool
    try:
        yield Database(pool)
    finally:
        try:
            await asyncio.wait_for(pool.close(), 5)
        except TimeoutError:
            pool.terminate()


@asynccontextmanager
async def one_connection(url: str) -> AsyncGenerator["asyncpg.Connection[Row]"]:
    """A single connection for a command or a test."""
    connection = await asyncpg.connect(url, timeout=5, server_settings=SESSION)
    try:
        yield connection
    finally:
        await connection.close()


def sqlalchemy_engine(url: str) -> AsyncEngine:
    """An engine for Alembic; asyncpg itself reads the address, so that both accept the same ones."""
    return create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool)


async def patiently(operation: Callable[[], Awaitable[Result]], seconds: float) -> Result:
    """Repeat an operation that may safely be repeated, while the database is away."""
    last_try = monotonic() + seconds
    while True:
        try:
            return await operation()
        except DatabaseAway:
            if monotonic() > last_try:
                raise
            await asyncio.sleep(0.25)
