"""What is read out of a database that goes away: never that something did not happen."""

import asyncio
import contextlib
import random
import tempfile
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from service import db as databases
from service.db import Busy, Database, DatabaseAway, open_database
from service.settings import Settings
from tests import making
from tests.servers import Wire

TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'roundtrip' AND datname = current_database() AND pid <> pg_backend_pid()
"""


async def test_a_connection_between_the_servers_last_words_and_its_end_is_away(
    settings: Settings, db: Database
) -> None:
    """The server has said that it ends the connection, and the end of it is still on its way."""
    with tempfile.TemporaryDirectory(prefix="wire-") as folder:
        wire = Wire(settings.require_database_url(), Path(folder))
        await wire.mend()
        wire.holds_open = True
        async with open_database(wire.database_url, max_size=1) as away:
            await away.fetchrow("SELECT 1")
            await db.execute(TERMINATE)
            await asyncio.sleep(0.05)
            with pytest.raises(DatabaseAway):
                await away.fetchrow("SELECT 1")
            wire.holds_open = False
            row = await away.fetchrow("SELECT 1 AS one")
            assert row is not None
            assert row["one"] == 1
        await wire.cut()


async def test_who_is_cancelled_when_a_connection_is_lost_ends(settings: Settings, db: Database) -> None:
    running = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"

    async def is_running() -> bool:
        return await db.fetchrow(running) is not None

    async with open_database(settings.require_database_url(), max_size=1) as away:

        async def sleep() -> None:
            async with away.transaction() as connection:
                await connection.execute("SELECT pg_sleep(60)")

        asking = asyncio.create_task(sleep())
        await making.until(is_running)
        losing = asyncio.create_task(db.execute(f"SELECT pg_terminate_backend(pid) FROM ({running}) AS found"))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await losing


async def test_who_is_cancelled_while_connections_are_cut_ends(settings: Settings) -> None:
    chance = random.Random(7)
    with tempfile.TemporaryDirectory(prefix="wire-") as folder:
        wire = Wire(settings.require_database_url(), Path(folder))
        await wire.mend()

        async def cut() -> None:
            while True:
                await asyncio.sleep(chance.uniform(0, 0.03))
                await wire.cut()
                await asyncio.sleep(chance.uniform(0, 0.01))
                await wire.mend()

        async def go_on(away: Database) -> None:
            while True:
                await asyncio.sleep(0)
                with contextlib.suppress(DatabaseAway):
                    await away.execute("SELECT pg_sleep(0.003)")

        cutting = asyncio.create_task(cut())
        async with open_database(wire.database_url, max_size=3) as away:
            for _ in range(60):
                asking = [asyncio.create_task(go_on(away)) for _ in range(4)]
                await asyncio.sleep(chance.uniform(0, 0.05))
                for task in asking:
                    task.cancel()
                _, pending = await asyncio.wait(asking, timeout=20)
                assert not pending
            cutting.cancel()
            await asyncio.wait([cutting])
        await wire.cut()


async def test_nothing_but_away_is_read_out_of_connections_that_are_cut(settings: Settings) -> None:
    chance, met = random.Random(7), 0
    with tempfile.TemporaryDirectory(prefix="wire-") as folder:
        wire = Wire(settings.require_database_url(), Path(folder))
        await wire.mend()
        over = asyncio.Event()

        async def cut() -> None:
            for _ in range(40):
                await asyncio.sleep(chance.uniform(0, 0.03))
                await wire.cut()
                await wire.mend()
            over.set()

        async def ask(away: Database) -> None:
            nonlocal met
            while not over.is_set():
                try:
                    await away.fetch("SELECT repeat('x', 1000), $1::int", chance.randrange(9))
                except DatabaseAway:
                    met += 1
                    await asyncio.sleep(0.005)

        async with open_database(wire.database_url, max_size=8) as away:
            await asyncio.gather(cut(), *(ask(away) for _ in range(16)))
        await wire.cut()
    assert met > 0


async def test_no_job_waits_for_questions(db: Database, tenant: UUID) -> None:
    registered = asyncio.Event()

    async def ask() -> None:
        async with db.snapshot() as snapshot:
            await snapshot.fetch("SELECT 1")
            await registered.wait()

    questions = [asyncio.create_task(ask()) for _ in range(2 * db.pool.get_max_size())]
    await asyncio.sleep(0)
    await making.queued(db, tenant)
    registered.set()
    assert await asyncio.gather(*questions, return_exceptions=True) == [None] * len(questions)


async def test_a_question_that_others_keep_waiting_is_not_called_too_costly(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_database(settings.require_database_url(), max_size=2) as small, small.snapshot() as snapshot:
        monkeypatch.setattr(databases, "QUESTION_SECONDS", 0.05)
        with pytest.raises(Busy):
            async with small.snapshot():
                pass
        assert await snapshot.fetch("SELECT 1")


TURN = 7


async def test_who_waits_for_a_turn_leaves_the_connections_to_others(settings: Settings, db: Database) -> None:
    async with open_database(settings.require_database_url(), max_size=2) as small, db.in_turn(TURN):
        waiting = [asyncio.create_task(small.fetch_in_turn(TURN, "SELECT 1")) for _ in range(4)]
        await making.until(partial(waits_for_a_turn, db))
        async with asyncio.timeout(20):
            assert await small.fetchrow("SELECT 1")
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


async def waits_for_a_turn(db: Database) -> bool:
    return await db.fetchrow("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") is not None


@pytest.mark.parametrize("whose", ["another process", "this process"])
async def test_a_turn_that_is_not_had_in_time_is_told_as_busy(settings: Settings, db: Database, whose: str) -> None:
    async with open_database(settings.require_database_url(), max_size=2) as other, db.in_turn(TURN):
        with pytest.raises(Busy):
            async with (other if whose == "another process" else db).in_turn(TURN, patience=0.05):
                pass
    async with db.in_turn(TURN, patience=0.05):
        pass


async def test_in_a_turn_locks_are_waited_for_as_ever(db: Database) -> None:
    for patience in (None, 0.5):
        async with db.in_turn(TURN, patience) as connection:
            assert await connection.fetchval("SHOW lock_timeout") == databases.SESSION["lock_timeout"]
