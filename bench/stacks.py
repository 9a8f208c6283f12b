"""Roundtrip and its peers as processes: each started anew for its turn, on its own embedded PostgreSQL, and ended."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import asyncpg

from bench.processes import cpu_seconds
from bench.stand_in import CHECKOUT
from bench.workplace import settings_for
from bench.yardstick import Target
from scripts.setup import can_cache, pinned_uv
from service.local.directory import DataDirectory
from service.local.listening import address, listening
from service.local.processes import Program, Supervisor
from service.local.servers import supervised
from service.local.up import running

PEERS = CHECKOUT / "bench" / "peers"
ENVIRONMENT = PEERS / ".venv"
READY_SECONDS = 60.0

# What every stack's PostgreSQL must say of itself.
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


@dataclass(frozen=True)
class Started:
    target: Target
    database_url: str
    broker_url: str | None
    # Roots of its process trees, by name.
    pids: Mapping[str, int]
    supervisor: Supervisor
    # A bare handler of webhooks, beside Roundtrip only.
    bare_url: str | None = None

    @property
    def died(self) -> list[str]:
        """Its processes that did not stay up, with their last words."""
        return [
            f"{name} {child.last_ending}: {' / '.join(child.last_lines)}"
            for name, child in self.supervisor.children.items()
            if child.endings
        ]


@dataclass(frozen=True)
class Peer:
    name: str
    words: str
    # What it consists of besides its servers, by name: arguments to the environment's Python.
    programs: Mapping[str, Sequence[str]]
    completed: str
    needs_broker: bool = False
    # What its database needs before anything else, the first time.
    first: Sequence[Sequence[str]] = ()


PROCRASTINATE = ("-m", "procrastinate", "--app=bench.peers.procrastinate_stack.queue", "--log-level=error")


def serving(module: str) -> tuple[str, ...]:
    return ("-m", "bench.peers.serving", module)


OWN_PROCESSES = ("api", "worker", "beat")
# A stack is calm when it has used less of a core than this for two seconds, or after so many all the same.
CALM_SHARE, CALM_SECONDS = 0.05, 20

OURS = "Roundtrip"
OURS_COMPLETED = "SELECT count(*) FROM outcomes WHERE status = 'completed'"
_COMPLETED = "SELECT count(*) FROM requests WHERE state = 'completed' AND output IS NOT NULL"

FLOOR = "floor"
PEERS_BY_NAME = {
    peer.name: peer
    for peer in (
        Peer(
            FLOOR,
            "Starlette, asyncpg, aiohttp; jobs are tasks of the process",
            {"api": serving("floor")},
            _COMPLETED,
        ),
        Peer(
            "Procrastinate",
            "Procrastinate beside Starlette, one worker, 64 tasks at once",
            {
                "api": serving("procrastinate_stack"),
                "worker": (*PROCRASTINATE, "worker", "--concurrency=64"),
            },
            _COMPLETED,
            first=[(*PROCRASTINATE, "schema", "--apply")],
        ),
        Peer(
            "Celery",
            "FastAPI, SQLAlchemy's ORM, Celery prefork with 4 children on Valkey, requests",
            {
                "api": serving("celery_stack"),
                "worker": ("-m", "celery", "-A", "bench.peers.celery_stack:queue", "worker", "-c", "4", "-l", "error"),
            },
            _COMPLETED,
            needs_broker=True,
        ),
        Peer(
            "DBOS",
            "DBOS Transact beside Starlette, a workflow a job",
            {"api": serving("dbos_stack")},
            "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'",
        ),
    )
}
NAMES = (OURS, *PEERS_BY_NAME)


def completed_statement(name: str) -> str:
    """How many jobs its own record has as completed."""
    return OURS_COMPLETED if name == OURS else PEERS_BY_NAME[name].completed


def make_environment() -> None:
    """From the lock file beside the peers, which pins every version and hash."""
    outer = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    settings = {"UV_PROJECT_ENVIRONMENT": str(ENVIRONMENT), "UV_PYTHON_DOWNLOADS": "never"}
    if not can_cache():
        settings["UV_NO_CACHE"] = "1"
    # Compiled like our own: what a process compiles at its start stays in its memory.
    command = [pinned_uv(), "sync", "--frozen", "--quiet", "--compile-bytecode", "--project", PEERS]
    command += ["--python", sys.executable]
    if subprocess.run(command, env=outer | settings, check=False).returncode != 0:
        # Once more, with the certificates that this machine trusts.
        subprocess.run([*command, "--system-certs"], env=outer | settings, check=True)


@contextmanager
def started(name: str, data: Path, queue_url: str, *, database_url: str | None = None) -> Iterator[Started]:
    """`data` is kept by the caller: the next turn goes on with the same database. Ours can be given another one."""
    with _ours(data, queue_url, database_url) if name == OURS else _peer(PEERS_BY_NAME[name], data, queue_url) as stack:
        yield stack


@contextmanager
def _ours(data: Path, queue_url: str, database_url: str | None) -> Iterator[Started]:
    settings = settings_for(data, queue_url).model_copy(update={"database_url": database_url})
    with running(settings, port=0) as service, listening("127.0.0.1", 0) as listener:
        supervisor, bare_url = service.supervisor, address(listener)
        surroundings = {"DATABASE_URL": service.database_url, "QUEUE_URL": queue_url}
        parts = [each for each in supervisor.children if each != "sandbox"]
        _start(supervisor, "bare", serving("bare"), surroundings, listener.fileno(), data / "bare.log")
        _wait_until_up(supervisor, bare_url)
        yield Started(
            target=Target(service.url, "/v1/jobs", f"Authorization: Key {service.admin_key}\r\n"),
            database_url=service.database_url,
            broker_url=service.broker_url,
            pids=_pids(supervisor, parts),
            supervisor=supervisor,
            bare_url=f"{bare_url}/webhooks",
        )


@contextmanager
def _peer(peer: Peer, data: Path, queue_url: str) -> Iterator[Started]:
    fresh = not data.exists()
    with ExitStack() as stack:
        supervisor, prepare = stack.enter_context(supervised(DataDirectory(data)))
        listener = stack.enter_context(listening("127.0.0.1", 0))
        servers, url = prepare(), address(listener)
        surroundings = {"DATABASE_URL": servers.postgres(), "QUEUE_URL": queue_url, "OWN_URL": url}
        if peer.needs_broker:
            surroundings["BROKER_URL"] = servers.valkey()
        for arguments in peer.first if fresh else ():
            subprocess.run([_python(), *arguments], cwd=CHECKOUT, env=os.environ | surroundings, check=True)
        for part, arguments in peer.programs.items():
            _start(
                supervisor,
                part,
                arguments,
                surroundings,
                listener.fileno() if part == "api" else None,
                data / "peer.log",
            )
        _wait_until_up(supervisor, url)
        yield Started(
            target=Target(url, "/jobs"),
            database_url=surroundings["DATABASE_URL"],
            broker_url=surroundings.get("BROKER_URL"),
            pids=_pids(supervisor, list(supervisor.children)),
            supervisor=supervisor,
        )


def _start(
    supervisor: Supervisor,
    name: str,
    arguments: Sequence[str],
    surroundings: Mapping[str, str],
    listener: int | None,
    log: Path,
) -> None:
    environment, descriptors = {**os.environ, **surroundings}, []
    if listener is not None:
        environment["LISTENER"], descriptors = str(listener), [listener]
    # Processes of the checkout as `python -m` finds them, whatever the working directory of the supervisor.
    environment["PYTHONPATH"] = str(CHECKOUT)
    supervisor.start(Program(name, [_python(), *arguments], environment, log=log, descriptors=descriptors, patience=15))


def _python() -> Path:
    """The peers' own, or ours where that was not made: the floor needs nothing that we do not have, too."""
    python = ENVIRONMENT / "bin" / "python"
    return python if python.exists() else Path(sys.executable)


def _pids(supervisor: Supervisor, parts: Sequence[str]) -> dict[str, int]:
    order = (*OWN_PROCESSES, "postgres", "valkey")
    return {name: supervisor.children[name].pid or 0 for name in order if name in parts}


def _wait_until_up(supervisor: Supervisor, url: str) -> None:
    def answers() -> bool:
        try:
            with urlopen(f"{url}/no/such", timeout=1):
                return True
        except HTTPError:
            return True
        except OSError:
            return False

    supervisor.wait_for(answers, within=READY_SECONDS, what=f"nothing answers at {url}")


async def calm(stack: Started) -> None:
    """Until what its processes do when they start is done, or it would be counted for the first jobs."""
    used, calm_for = sum(cpu_seconds(stack.pids).values()), 0
    for _ in range(CALM_SECONDS):
        await asyncio.sleep(1.0)
        before, used = used, sum(cpu_seconds(stack.pids).values())
        calm_for = calm_for + 1 if used - before < CALM_SHARE else 0
        if calm_for == 2:
            return


async def ask_record(database_url: str, statement: str) -> int:
    connection = await asyncpg.connect(database_url)
    try:
        return int(await connection.fetchval(statement))
    finally:
        await connection.close()


async def server_of(database_url: str) -> str:
    """The server's version. Raises RuntimeError where it would not keep what it has said to be durable."""
    connection = await asyncpg.connect(database_url)
    try:
        for name, wanted in DURABLE.items():
            if (found := await connection.fetchval(f"SHOW {name}")) != wanted:
                raise RuntimeError(f"{name} is {found}: what is measured would not be durable")
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()
