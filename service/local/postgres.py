"""An embedded PostgreSQL: one cluster in the data directory, reached through a private socket only."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import quote

from service.local.account import Account
from service.local.directory import DataDirectory
from service.local.errors import CannotStart, Refused
from service.local.processes import Program, Supervisor
from service.local.programs import postgres_programs

MAJOR = "18"
NAME = "roundtrip"
# Nothing of ours goes into the environment of another account's process.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0600",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "synchronous_commit": "on",
    "fsync": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
LONGEST_LOG = 4 * 2**20
# While a file of the write-ahead log is made, 16 MB long, every commit waits: 15 to 50 ms on a machine where one takes
# 1 ms. A checkpoint turns files that are done with into the next ones, and keeps as many as `min_wal_size` allows.
LOG_FILES_AHEAD = 4
_NEW_LOG_FILE = "SELECT pg_logical_emit_message(true, '', ''), pg_switch_wal()"


def start_postgres(
    supervisor: Supervisor,
    directory: DataDirectory,
    place: Path,
    sockets: Path,
    account: Account,
    settings: Mapping[str, str],
) -> str:
    """Start it, with an empty database the first time, and return its address. `settings` go before our own."""
    programs = postgres_programs(place, account)
    cluster = place / "postgres"
    password = directory.kept_secret("postgres-password")
    if not cluster.exists():
        create_cluster(cluster, programs, account, password)
    _check_version(cluster)
    log = directory.path / "postgres.log"
    if log.exists() and log.stat().st_size > LONGEST_LOG:
        log.replace(log.with_suffix(".log.1"))
    settings = {**SETTINGS, **settings, "unix_socket_directories": str(sockets)}
    child = supervisor.start(
        Program(
            name="postgres",
            command=[programs / "postgres", "-D", cluster, *(f"--{name}={value}" for name, value in settings.items())],
            environment=ENVIRONMENT,
            account=account,
            log=log,
            # SIGINT is its fast shutdown and SIGQUIT its immediate one, from which the next start recovers.
            stop_signal=signal.SIGINT,
            orphan_signal=signal.SIGQUIT,
            patience=20,
            before=lambda: forget_dead_postmaster(cluster),
        )
    )
    supervisor.wait_for(lambda: _is_ready(cluster, child.pid), within=60, what="PostgreSQL did not get ready")
    return f"postgresql://{NAME}:{password}@/{NAME}?host={quote(str(sockets))}"


def create_cluster(cluster: Path, programs: Path, account: Account, password: str) -> None:
    """Whole or not at all: it gets its name last, so an interrupted first start leaves only a draft."""
    draft = cluster.with_name(f"{cluster.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    account.give(draft)
    password_file = cluster.with_name(f"{cluster.name}.password")
    password_file.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(password)
        account.give(password_file)
        run_to_its_end(
            account,
            [
                *(programs / "initdb", "-D", draft, f"--username={NAME}", f"--pwfile={password_file}"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--data-checksums", "--no-instructions"),
                *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            ],
        )
        statements = [f"CREATE DATABASE {NAME}", *[_NEW_LOG_FILE] * LOG_FILES_AHEAD, "CHECKPOINT", ""]
        run_to_its_end(account, [programs / "postgres", "--single", "-D", draft, "postgres"], "\n".join(statements))
    finally:
        password_file.unlink(missing_ok=True)
    draft.rename(cluster)


def forget_dead_postmaster(cluster: Path) -> None:
    """Remove the lock of a postmaster that was killed, once nothing works in the cluster any more.

    PostgreSQL itself asks only whether some process has that number: a zombie, or a stranger with a reused
    number, would keep it from starting for ever. Its processes all work in the cluster's directory.
    """
    if sys.platform != "linux" or not (cluster / "postmaster.pid").exists():
        return
    deadline = monotonic() + 5
    while at_work := _working_in(cluster):
        if monotonic() > deadline:
            raise OSError(f"another PostgreSQL (process {at_work[0]}) runs on {cluster}")
        sleep(0.02)
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def _working_in(directory: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cwd").readlink() == directory:
                found.append(int(entry.name))
    return found


def _check_version(cluster: Path) -> None:
    found = (cluster / "PG_VERSION").read_text().strip()
    if found != MAJOR:
        raise Refused(
            f"{cluster} was made by PostgreSQL {found} and this is {MAJOR}: dump it with the old version "
            f"(pg_dump {NAME}) and load it into a new data directory, or convert it with pg_upgrade"
        )


def _is_ready(cluster: Path, pid: int | None) -> bool:
    """What the postmaster says of itself in its lock file, as pg_ctl reads it."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def run_to_its_end(account: Account, command: list[str | Path], text: str = "") -> None:
    """Raises CannotStart, with what was wrong if it said so."""
    done = subprocess.run(
        command,
        cwd="/",
        env=ENVIRONMENT,
        input=text,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        **account.credentials,
    )
    # In single-user mode a statement that failed ends with status 0 all the same.
    if done.returncode != 0 or " ERROR: " in done.stdout:
        lines = done.stdout.splitlines()
        words = [line for line in lines if re.search(r"\b(ERROR|FATAL|PANIC): ", line)] or lines[-3:]
        raise CannotStart(f"{Path(command[0]).name} failed: {' / '.join(words)}")
