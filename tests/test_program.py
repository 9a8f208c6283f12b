"""The program's last words, where a command cannot go on."""

import os
import subprocess
import sys

from tests.journeys.running import free_port


def test_a_command_without_its_database_ends_with_one_line() -> None:
    address = {"ROUNDTRIP_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"}
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "tenants", "list"],
        env=os.environ | address,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "roundtrip: The database is away; try again shortly.\n"
