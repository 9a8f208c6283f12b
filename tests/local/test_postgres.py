"""The embedded PostgreSQL, really started: what it keeps, what may be killed, and how private it is."""

import asyncio
import os
import signal
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from service.local.account import server_account
from service.local.directory import DataDirectory
from service.local.errors import CannotStart, Refused
from service.local.identity import ProcessIdentity
from service.local.postgres import LOG_FILES_AHEAD, run_to_its_end
from service.local.programs import postgres_programs
from service.local.servers import embedded_database, supervised
from tests.local.asking import ask
from tests.stand_in.server import eventually

NOTE = "CREATE TABLE notes AS SELECT 'kept' AS word"


def asked_again(url: str) -> object:
    try:
        return ask(url, "SELECT word FROM notes")
    except (OSError, asyncpg.PostgresError):
        return None


def test_what_was_written_is_there_after_a_restart(data: Path) -> None:
    with embedded_database(data) as url:
        ask(url, NOTE)
    with embedded_database(data) as url:
        assert ask(url, "SELECT word FROM notes") == "kept"


def test_a_new_one_has_log_files_to_write_to(data: Path) -> None:
    with embedded_database(data) as url:
        ahead = "SELECT count(*) FROM pg_ls_waldir() WHERE name > pg_walfile_name(pg_current_wal_insert_lsn())"
        assert ask(url, ahead) == LOG_FILES_AHEAD


def test_what_went_wrong_is_told_whatever_was_said_after_it(data: Path) -> None:
    with embedded_database(data):
        pass
    directory = DataDirectory(data)
    account = server_account(directory.servers / "postgres")
    place, _ = directory.place_servers(account)
    command = [postgres_programs(place, account) / "postgres", "--single", "-D", place / "postgres", "postgres"]
    with pytest.raises(CannotStart, match=r"ERROR: .*division by zero"):
        run_to_its_end(account, command, "SELECT 1 / 0\nSELECT 1\nSELECT 2\nCHECKPOINT\n")


def test_sqlalchemy_takes_the_same_address(data: Path) -> None:
    async def answer(url: str) -> object:
        engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
        async with engine.connect() as connection:
            found = await connection.scalar(text("SELECT current_database()"))
        await engine.dispose()
        return found

    with embedded_database(data) as url:
        assert asyncio.run(answer(url)) == "roundtrip"


def test_it_is_set_up_to_keep_data_and_to_itself(data: Path) -> None:
    wanted = {
        "server_encoding": "UTF8",
        "data_checksums": "on",
        "listen_addresses": "",
        "fsync": "on",
        "synchronous_commit": "on",
        "password_encryption": "scram-sha-256",
        "max_connections": "100",
        "shared_buffers": "256MB",
    }
    with embedded_database(data) as url:
        assert {name: ask(url, f"SHOW {name}") for name in wanted} == wanted
        assert ask(url, "SHOW server_version").startswith("18.")


def test_nobody_gets_in_without_the_password(data: Path) -> None:
    with embedded_database(data) as url:
        host = url.partition("host=")[2]
        with pytest.raises(asyncpg.InvalidPasswordError):
            ask(f"postgresql://roundtrip:guess@/roundtrip?host={host}", "SELECT 1")
        assert Path(host).stat().st_mode & 0o777 == 0o700
        assert (data / "postgres-password").stat().st_mode & 0o777 == 0o600


def test_a_killed_postmaster_is_started_again_with_its_data(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with supervised(DataDirectory(data)) as (supervisor, servers):
        url = servers().postgres()
        ask(url, NOTE)
        first = supervisor.children["postgres"].pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        eventually(lambda: supervisor.children["postgres"].pid not in {first, None})
        assert eventually(lambda: asked_again(url)) == "kept"
    assert "postgres was ended by SIGKILL; starting it again" in capsys.readouterr().err


def test_a_lock_that_names_a_living_stranger_does_not_stop_the_start(data: Path) -> None:
    with embedded_database(data) as url:
        ask(url, NOTE)
    cluster = data / "servers" / "postgres"
    lock = cluster / "postmaster.pid"
    lock.write_text(f"{os.getppid()}\n{cluster}\n1\n5432\n/tmp\n\n0 0\nready\n")
    os.chown(lock, cluster.stat().st_uid, cluster.stat().st_gid)
    with embedded_database(data) as url:
        assert ask(url, "SELECT word FROM notes") == "kept"


def test_a_first_start_that_was_interrupted_is_begun_again(data: Path) -> None:
    data.mkdir(mode=0o755)
    draft = data / "servers" / "postgres.new"
    draft.mkdir(parents=True, mode=0o755)
    (draft / "PG_VERSION").write_text("18\n")
    with embedded_database(data) as url:
        assert ask(url, "SELECT 1") == 1


def test_data_of_another_major_version_is_refused_with_the_way_out(data: Path) -> None:
    with embedded_database(data):
        pass
    (data / "servers" / "postgres" / "PG_VERSION").write_text("16\n")
    words = r"PostgreSQL 16 and this is 18: dump it .* or convert it with pg_upgrade"
    with pytest.raises(Refused, match=words), embedded_database(data):
        pass


def test_a_long_path_gets_short_sockets(data: Path) -> None:
    data.mkdir(mode=0o755)
    with embedded_database(data / ("long" * 20)) as url:
        assert ask(url, "SELECT 1") == 1
        sockets = Path(url.partition("host=")[2])
        assert not sockets.is_relative_to(data)
    assert not sockets.exists()


def test_a_second_command_uses_the_server_that_is_running(data: Path) -> None:
    directory = DataDirectory(data)
    with supervised(directory) as (_, servers):
        url = servers().postgres()
        directory.publish({"database_url": url})
        with embedded_database(data) as again:
            assert again == url


def test_nothing_of_it_is_left_when_it_stopped(data: Path) -> None:
    with supervised(DataDirectory(data)) as (supervisor, servers):
        prepared = servers()
        prepared.postgres()
        prepared.valkey()
        started = [ProcessIdentity.of(child.pid) for child in supervisor.children.values() if child.pid]
        assert len(started) == 2
    assert [identity for identity in started if identity and identity.alive] == []
    assert not (data / "processes").exists()
