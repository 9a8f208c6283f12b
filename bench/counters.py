"""What PostgreSQL and Valkey counted: transactions, and messages for Celery."""

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import asyncpg
from redis import Redis

# An idle PostgreSQL session publishes what it counted after ten seconds at the latest.
PUBLISHED_AFTER_SECONDS = 11.0

COMPLETED = """
SELECT substring(inputs.body FROM 'tag:([a-z]+)-') AS phase, count(*)::int4 AS jobs
FROM outcomes JOIN inputs ON inputs.job_id = outcomes.job_id
WHERE outcomes.status = 'completed'
GROUP BY phase
"""


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

    def __init__(self, database_url: str, broker_url: str | None) -> None:
        self._database_url = database_url
        self._valkey = Redis(unix_socket_path=urlsplit(broker_url).path) if broker_url else None

    async def __aenter__(self) -> Self:
        self._connection = await asyncpg.connect(self._database_url, database="postgres")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()
        if self._valkey is not None:
            self._valkey.close()

    async def read(self) -> Counts:
        transactions = await self._connection.fetchval(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = $1",
            urlsplit(self._database_url).path.removeprefix("/"),
        )
        commands = self._valkey.info("commandstats") if self._valkey is not None else {}
        # kombu sends a message with one LPUSH and sends nothing else with it.
        return Counts(time.monotonic(), transactions, commands.get("cmdstat_lpush", {}).get("calls", 0))

    async def vacuum(self) -> None:
        """What the load left for autovacuum to do is done now, so that it is not taken for the service at rest."""
        connection = await asyncpg.connect(self._database_url)
        try:
            await connection.execute("VACUUM (ANALYZE)")
        finally:
            await connection.close()

    async def completed_jobs(self) -> dict[str, int]:
        """By phase, from the record itself; the last thing to be asked, because asking is counted."""
        connection = await asyncpg.connect(self._database_url)
        try:
            return {row["phase"]: row["jobs"] for row in await connection.fetch(COMPLETED)}
        finally:
            await connection.close()
