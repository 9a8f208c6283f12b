"""PostgreSQL behind one pool of asyncpg connections, which prepare and keep their statements.

Hot statements are SQL text in the files whose job is SQL; statements that are composed from what a client
asks are built with SQLAlchemy Core and run here too.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cached_property, partial
from operator import itemgetter
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
from sqlalchemy import ClauseElement, Dialect
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from service.batching import Batcher
from service.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy
    from sqlalchemy.ext.asyncio import AsyncEngine

Row = asyncpg.Record
Result = TypeVar("Result")

# What a lost, restarting or overfull server raises. A statement that met one of these may have been
# carried out all the same, so nobody may read "did not happen" out of it.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # A connection that is used between the server's last words and its end.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # A server that waits to be promoted.
    asyncpg.ReadOnlySQLTransactionError,
)

# Values that make a statement larger than this go alone, so that no small one waits for them.
LARGE = 64 * 1024

# Of each statement, so many transactions at a time bring together what came meanwhile, of so many values at most.
TOGETHER_AT_A_TIME = 2
MOST_TOGETHER = 64

# asyncpg wants a number.
NO_BOUND = 2**63

# These say of a transaction that nothing of it was carried out, and perhaps because of a single one of its values.
UNDONE = (asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)

# A question that takes longer has to be asked for more narrowly, and one that waits longer for its turn later.
QUESTION_SECONDS = 10.0

SESSION = {
    "synchronous_commit": "on",
    "application_name": "roundtrip",
    "statement_timeout": "30s",
    # A row that somebody holds for longer is one that he will not let go soon. Whoever asks is answered before his own
    # patience ends, and in a shared transaction the others do not wait with him.
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "30s",
    # A process whose machine is gone says nothing; within a minute what it had locked is free.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "jit": "off",
    "timezone": "UTC",
}

# $1 the turn, $2 for how many milliseconds it is waited for (0: as long as a statement may take), $3 the usual limit.
_TURN = """
SELECT set_config('lock_timeout', $2, true), pg_advisory_xact_lock($1), set_config('lock_timeout', $3, true)
"""


class TooCostly(Invalid):
    """A question that the database could not answer in time."""

    def __init__(self) -> None:
        words = "This question takes too long; ask for less of it, or narrow it with created_after, model or status."
        super().__init__([{"loc": ["query"], "msg": words, "type": "too_costly"}])


class Busy(Unavailable):
    message = "Too much is being asked for at once; try again shortly."


class DatabaseAway(Unavailable):
    message = "The database is away; try again shortly."


def is_being_cancelled() -> bool:
    """Whether whoever asks is to end, whatever he hears meanwhile."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _away(error: Exception) -> BaseException:
    """What to raise in its place.

    asyncpg counts arguments that cannot be encoded among the interface errors, too; those are our bugs. And where the
    connection is lost of somebody who is being cancelled, it says only that: he would go on.
    """
    if is_being_cancelled():
        return asyncio.CancelledError()
    return error if isinstance(error, ValueError) else DatabaseAway()


class Database:
    def __init__(self, pool: "asyncpg.Pool[Row]") -> None:
        self.pool = pool
        self._together: dict[str, Batcher[tuple[Any, tuple[Any, ...]], Row | None]] = {}
        self._lines: dict[int, asyncio.Lock] = {}

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

    async def fetchrow_together(self, sql: str, *values: Any, lock: Any = None) -> Row | None:
        """As `fetchrow`, in one round trip and one transaction with those of this statement that came meanwhile.

        A row that it answers begins with the first of its values, which says what it locks, unless `lock` does. Where
        several come at once they are carried out in the order of that, so that no two transactions wait for each other,
        and never two of the same in one. One whose row is locked for long waits for it alone.
        """
        if sum(len(value) for value in values if isinstance(value, str | bytes)) > LARGE:
            return await self.fetchrow(sql, *values)
        batcher = self._together.get(sql)
        if batcher is None:
            write = partial(self._fetch_each, sql)
            batcher = self._together[sql] = Batcher(
                write, whole=(DatabaseAway,), writers=TOGETHER_AT_A_TIME, most=MOST_TOGETHER, name=itemgetter(0)
            )
        return await batcher.put((values[0] if lock is None else lock, values))

    async def _fetch_each(self, sql: str, asked: Sequence[tuple[Any, tuple[Any, ...]]]) -> list[Row | None]:
        if len(asked) == 1:
            return [await self.fetchrow(sql, *asked[0][1])]
        in_order = [values for _, values in sorted(asked, key=itemgetter(0))]
        try:
            rows = {row[0]: row for row in await self.pool.fetchmany(sql, in_order)}
        except UNDONE:
            raise  # Each is carried out for itself.
        except AWAY as error:
            raise _away(error) from error
        return [rows.get(values[0]) for _, values in asked]

    async def fetchrow_holding(self, hold: str, sql: str, *values: Any) -> Row | None:
        """As `fetchrow`, once `hold` has locked a row by the first of the values."""
        async with self.transaction() as connection:
            await connection.execute(hold, values[0])
            row: Row | None = await connection.fetchrow(sql, *values)
            return row

    async def execute(self, sql: str, *values: Any) -> str:
        try:
            return await self.pool.execute(sql, *values)
        except AWAY as error:
            raise _away(error) from error

    async def fetch_in_turn(self, turn: int, sql: str, *values: Any) -> list[Row]:
        """As `fetch`, one at a time over all processes of this `turn`: each sees all that the one before has done."""
        async with self.in_turn(turn) as connection:
            return await connection.fetch(sql, *values)

    @asynccontextmanager
    async def in_turn(self, turn: int, patience: float | None = None) -> AsyncGenerator["PoolConnectionProxy[Row]"]:
        """A transaction, one at a time over all processes of this `turn`. Raises Busy after so many seconds without it.

        Of those that wait for it in this process only the first has a connection; the others leave them to other work.
        """
        last = monotonic() + (patience or 0)
        async with self._first_in_line(turn, patience), self.transaction() as connection:
            # Turns are long now and then, and come to everybody; what is locked in one is waited for as ever.
            left = 0 if patience is None else max(1, round((last - monotonic()) * 1_000))
            try:
                await connection.execute(_TURN, turn, str(left), SESSION["lock_timeout"])
            except asyncpg.LockNotAvailableError:
                raise Busy from None
            yield connection

    @asynccontextmanager
    async def _first_in_line(self, turn: int, patience: float | None) -> AsyncGenerator[None]:
        line = self._lines.setdefault(turn, asyncio.Lock())
        try:
            async with asyncio.timeout(patience):
                await line.acquire()
        except TimeoutError:
            raise Busy from None
        try:
            yield
        finally:
            line.release()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator["PoolConnectionProxy[Row]"]:
        """For the few changes that are more than one statement."""
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                yield connection
        except AWAY as error:
            raise _away(error) from error

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator["Snapshot"]:
        """Several statements that see the record as it stood at the first of them. Raises TooCostly or Busy."""
        async with self._question() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            yield Snapshot(connection)

    async def run(self, statement: ClauseElement) -> list[Row]:
        """Run a SQLAlchemy Core statement that was made for one request. Raises TooCostly or Busy."""
        compiled = Compiled(statement)
        async with self._question() as connection:
            return await connection.fetch(compiled.sql, *compiled.values())

    @cached_property
    def _room(self) -> asyncio.Semaphore:
        """Questions never have more than half of the connections, so that no job waits for a list."""
        return asyncio.Semaphore(max(1, self.pool.get_max_size() // 2))

    @asynccontextmanager
    async def _question(self) -> AsyncGenerator["PoolConnectionProxy[Row]"]:
        """A connection for a question, which has its time from when it has that."""
        await self._turn_of_a_question()
        limit = asyncio.timeout(QUESTION_SECONDS)
        try:
            async with self.pool.acquire() as connection, limit:
                yield connection
        except TimeoutError as error:
            raise (TooCostly() if limit.expired() else DatabaseAway()) from error
        except AWAY as error:
            raise _away(error) from error
        finally:
            self._room.release()

    async def _turn_of_a_question(self) -> None:
        try:
            async with asyncio.timeout(QUESTION_SECONDS):
                await self._room.acquire()
        except TimeoutError:
            raise Busy from None


class Snapshot:
    """Reads that all see the same."""

    def __init__(self, connection: "PoolConnectionProxy[Row]") -> None:
        self._connection = connection

    async def plan_without_values(self, on: bool) -> None:
        """Whether statements are planned once for all values from here on; as PostgreSQL sees fit, unless it is so."""
        mode = "force_generic_plan" if on else "auto"
        await self._connection.execute(f"SET LOCAL plan_cache_mode = {mode}")

    async def fetch(self, sql: str, *values: Any) -> list[Row]:
        return await self._connection.fetch(sql, *values)

    async def fetchrow(self, sql: str, *values: Any) -> Row | None:
        return await self._connection.fetchrow(sql, *values)


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
        # What a connection has prepared it keeps, however seldom it is asked, and no request pays for a new connection.
        max_cached_statement_lifetime=0,
        max_queries=NO_BOUND,
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


def sqlalchemy_engine(url: str) -> "AsyncEngine":
    """An engine for Alembic; asyncpg itself reads the address, so that both accept the same ones."""
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

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
