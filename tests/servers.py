"""A real PostgreSQL and a real Valkey for the tests of one process, and a wire to them that can be cut."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg

from service.db import one_connection
from service.local.directory import DataDirectory
from service.local.servers import supervised
from service.models import metadata

SOCKET = ".s.PGSQL.5432"
KEPT = {"server_secrets"}


@dataclass(frozen=True)
class Addresses:
    database: str
    broker: str


@contextmanager
def running_servers() -> Iterator[Addresses]:
    """Embedded ones; TEST_DATABASE_URL names another PostgreSQL, where a database is made and dropped."""
    data = Path(tempfile.mkdtemp(prefix="suite-"))
    data.chmod(0o711)  # PostgreSQL runs as another account when we are root, and has to get in.
    try:
        with supervised(DataDirectory(data)) as (_, prepare):
            servers = prepare()
            broker = servers.valkey()
            if other := os.environ.get("TEST_DATABASE_URL"):
                with own_database(other, f"roundtrip_test_{os.getpid()}") as database:
                    yield Addresses(database, broker)
            else:
                yield Addresses(servers.postgres(), broker)
    finally:
        shutil.rmtree(data)


@contextmanager
def own_database(server: str, name: str) -> Iterator[str]:
    async def run(statement: str) -> None:
        async with one_connection(server) as connection:
            await connection.execute(statement)

    asyncio.run(run(f'CREATE DATABASE "{name}"'))
    parts = urlsplit(server)
    try:
        yield parts._replace(path=f"/{name}").geturl()
    finally:
        asyncio.run(run(f'DROP DATABASE "{name}" WITH (FORCE)'))


async def delete_all_rows(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    """Children first. The secrets stay: processes remember them."""
    tables = [table.name for table in reversed(metadata.sorted_tables) if table.name not in KEPT]
    await pool.execute("; ".join(f"DELETE FROM {name}" for name in tables))


class Wire:
    """A way to the database that a test can cut, and mend; while it `holds_open`, no end hears of the other's."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self._there = urlsplit(database_url)
        self._folder = folder
        self.holds_open = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def database_url(self) -> str:
        return self._there._replace(
            netloc=self._there.netloc.rpartition("@")[0] + "@", query=f"host={self._folder}"
        ).geturl()

    async def mend(self) -> None:
        self._server = await asyncio.start_unix_server(self._carry, self._folder / SOCKET)

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            (self._folder / SOCKET).unlink(missing_ok=True)
            self._server = None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = parse_qs(self._there.query).get("host", [self._there.hostname or ""])[0]
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/{SOCKET}")
        return await asyncio.open_connection(host, self._there.port or 5432)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await self._connect()
        both = {writer, there_writer}
        self._writers |= both

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(65_536):
                    target.write(data)
                    await target.drain()
            if not self.holds_open:
                target.close()

        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))
        self._writers -= both
