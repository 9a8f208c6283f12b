"""How the database is: its tables, what holds it up, and which version it is. A few milliseconds, whatever is in it."""

from dataclasses import dataclass
from datetime import datetime

from service.db import Database


@dataclass(frozen=True, slots=True)
class TableState:
    """Rows are PostgreSQL's own estimates; `total_bytes` counts indexes and long texts, too."""

    name: str
    rows: int
    dead_rows: int
    total_bytes: int
    index_bytes: int
    vacuumed_at: datetime | None
    analyzed_at: datetime | None


@dataclass(frozen=True, slots=True)
class ServerState:
    """`oldest_transaction_at` is when the oldest one that is open began; `transaction_age` how many were begun since
    the oldest row that is not frozen, of two thousand million at most. Null: nobody knows."""

    version: str
    started_at: datetime
    schema: str | None
    connections: int
    most_connections: int
    oldest_transaction_at: datetime | None
    transaction_age: int


_TABLES = """
SELECT relname::text AS name, n_live_tup AS rows, n_dead_tup AS dead_rows,
       pg_total_relation_size(relid) AS total_bytes, pg_indexes_size(relid) AS index_bytes,
       greatest(last_vacuum, last_autovacuum) AS vacuumed_at, greatest(last_analyze, last_autoanalyze) AS analyzed_at
FROM pg_stat_user_tables WHERE schemaname = current_schema() ORDER BY total_bytes DESC LIMIT 100
"""
_SERVER = """
SELECT current_setting('server_version') AS version, pg_postmaster_start_time() AS started_at,
       (SELECT version_num FROM alembic_version LIMIT 1) AS schema,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
       current_setting('max_connections')::int4 AS most_connections,
       (SELECT min(xact_start) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
            AND backend_type = 'client backend') AS oldest_transaction_at,
       (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()) AS transaction_age
"""


async def tables(db: Database) -> list[TableState]:
    """The largest first."""
    return [TableState(**dict(row)) for row in await db.fetch(_TABLES)]


async def server(db: Database) -> ServerState:
    row = await db.fetchrow(_SERVER)
    assert row is not None
    return ServerState(**dict(row))
