"""What PostgreSQL and Valkey counted: transactions, and messages for Celery."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlsplit

import asyncpg
from redis import Redis

# An idle PostgreSQL session publishes what it counted after ten seconds at the latest.
PUBLISHED_AFTER_SECONDS = 11.0


@dataclass(frozen=True)
class Counts:
    """Counted from the server's start until `at`, a time of the monotonic clock."""

    at: float
    transactions: int
    messages: int

    def __sub__(self, earlier: "Counts") -> "Counts":
        return Counts(self.at - earlier.at, self.transactions - earlier.transactions, self.messages - earlier.messages)


class Counters:
    """Looks from another database of the same server, so that looking is not counted."""

    def __init__(self, database_url: str, broker_url: str) -> None:
        self._database_url = database_url
        self._valkey = Redis(unix_socket_path=urlsplit(broker_url).path)

    async def __aenter__(self) -> Self:
        self._connection = await asyncpg.connect(self._database_url, database="postgres")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()
        self._valkey.close()

    async def read(self) -> Counts:
        transactions = await self._connection.fetchval(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = $1",
            urlsplit(self._database_url).path.removeprefix("/"),
        )
        commands = cast(dict[str, Any], self._valkey.info("commandstats"))
        # kombu sends a message with one LPUSH and sends nothing else with it.
        return Counts(time.monotonic(), transactions, commands.get("cmdstat_lpush", {}).get("calls", 0))

    async def completed_jobs(self) -> int:
        """What the record itself says; read after the counts, because this one is counted."""
        connection = await asyncpg.connect(self._database_url)
        try:
            return cast(int, await connection.fetchval("SELECT count(*) FROM outcomes WHERE status = 'completed'"))
        finally:
            await connection.close()
