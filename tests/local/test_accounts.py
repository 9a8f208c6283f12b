"""As root: the servers run under another account, and what that account cannot reach is put where it can."""

import os
import pwd
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.local.account import Account
from service.local.directory import DataDirectory
from service.local.errors import Refused
from service.local.servers import embedded_database, supervised
from tests.local.asking import ask

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root lends its servers another account")


def test_data_below_a_closed_directory_is_kept_where_the_servers_can_reach_it(data: Path) -> None:
    closed = data.parent / "home"
    closed.mkdir(mode=0o700)
    for _ in range(2):
        with embedded_database(closed / "data") as url:
            ask(url, "CREATE TABLE IF NOT EXISTS notes (word text)")
            ask(url, "INSERT INTO notes VALUES ('kept')")
            count = ask(url, "SELECT count(*) FROM notes")
    assert count == 2
    assert closed.stat().st_mode & 0o777 == 0o700
    place = (closed / "data" / "servers").readlink()
    assert place.parent == data.parent / "elsewhere"
    assert (place / "postgres").stat().st_uid != 0


def test_the_choice_is_explained_in_one_sentence(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closed = data.parent / "home"
    closed.mkdir(mode=0o700)
    with embedded_database(closed):
        pass
    said = capsys.readouterr().err
    assert said.startswith(f"roundtrip: PostgreSQL keeps its files in {data.parent / 'elsewhere'}/roundtrip-")
    assert said.endswith(f"cannot reach {closed}\n")


def test_the_account_that_is_configured_runs_them_and_goes_on_doing_so(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    monkeypatch.setenv("ROUNDTRIP_RUN_AS", "nobody")
    with embedded_database(data) as url:
        ask(url, "CREATE TABLE notes AS SELECT 'kept' AS word")
    monkeypatch.delenv("ROUNDTRIP_RUN_AS")
    with embedded_database(data) as url:
        assert ask(url, "SELECT word FROM notes") == "kept"
    assert (data / "servers" / "postgres").stat().st_uid == nobody


@pytest.mark.parametrize("name", ["root", "no-such-account"])
def test_an_account_that_will_not_do_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ROUNDTRIP_RUN_AS", name)
    with pytest.raises(Refused, match=f"ROUNDTRIP_RUN_AS names '{name}'"), embedded_database(data):
        pass


def test_programs_that_the_account_cannot_read_are_copied_for_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    can_run = Account.can_run

    def only_copies(account: Account, command: Sequence[str | Path]) -> bool:
        return "site-packages" not in str(command[0]) and can_run(account, command)

    monkeypatch.setattr(Account, "can_run", only_copies)
    with supervised(DataDirectory(data)) as (supervisor, servers):
        prepared = servers()
        assert ask(prepared.postgres(), "SELECT 1") == 1
        prepared.valkey()
        programs = [Path(child.program.command[0]) for child in supervisor.children.values()]
    assert all(program.is_relative_to(data / "servers") for program in programs)
