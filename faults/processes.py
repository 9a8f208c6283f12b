"""The processes of a run: embedded servers and our own programs, each a child in a session of its own.

The supervisor of `roundtrip up` starts them, starts again what a fault or an own exit ended, and stops all at the
end. What is killed or stopped here are those children and what they started, by their numbers.
"""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from faults.clocks import FakeClocks
from faults.proxy import Edge, to_port, to_socket
from faults.schedule import EDGES, FAKED
from service.keys import ensure_admin_key
from service.local.directory import DataDirectory
from service.local.listening import address, listening
from service.local.processes import Child, Program, Supervisor
from service.local.schema import migrate
from service.local.servers import supervised

OURS = ("worker-1", "worker-2", "beat", "api-1", "api-2")

# What differs from the defaults, so that what has to be waited for fits into the minute after the faults.
SETTINGS = {
    "ROUNDTRIP_SUBMIT_TIMEOUT_SECONDS": "5",
    "ROUNDTRIP_AMBIGUOUS_SECONDS": "12",
    "ROUNDTRIP_FIRST_POLL_SECONDS": "5",
    "ROUNDTRIP_POLL_SECONDS": "5",
    "ROUNDTRIP_SWEEP_SECONDS": "2",
}
SANDBOX_SETTINGS = {
    "ROUNDTRIP_SANDBOX_CONCURRENCY": "16",
    "ROUNDTRIP_SANDBOX_WEBHOOK_SECONDS": "5",
    "ROUNDTRIP_SANDBOX_WEBHOOK_BACKOFF_SECONDS": "0.5",
    "ROUNDTRIP_SANDBOX_WEBHOOK_BACKOFF_CAP_SECONDS": "4",
}


@dataclass
class Service:
    """A running service, all of whose edges lead through proxies of ours."""

    supervisor: Supervisor
    edges: Mapping[str, Edge]
    clocks: FakeClocks
    admin_key: str
    database_url: str
    broker_url: str
    sandbox_url: str
    # Where clients reach the service, and where webhooks do: through the proxies.
    client_url: str
    webhooks_url: str
    # Straight to the API, for what is looked at when the faults are over.
    api_url: str
    journal: Path
    artifacts: Path

    def child(self, name: str) -> Child:
        return self.supervisor.children[name]

    async def kill(self, name: str) -> int | None:
        """SIGKILL it, once it is there to be killed. Returns the number it had; None: it never was."""
        child = self.child(name)
        for _ in range(100):
            if (pid := child.pid) is not None:
                child.send(signal.SIGKILL)
                return pid
            await asyncio.sleep(0.1)
        return None

    def stop(self, name: str) -> list[int]:
        """SIGSTOP it and what it started: PostgreSQL's sessions are processes of their own."""
        pid = self.child(name).pid
        tree = [] if pid is None else [pid, *below(pid)]
        return [each for each in tree if signalled(each, signal.SIGSTOP)]

    def go_on(self, pids: list[int]) -> None:
        for pid in pids:
            signalled(pid, signal.SIGCONT)

    async def ready(self, seconds: float = 60.0) -> None:
        """Until the API answers that it and its database are well. Raises TimeoutError."""
        async with asyncio.timeout(seconds), httpx.AsyncClient(trust_env=False, timeout=3) as client:
            for url in (f"{self.sandbox_url}/healthz", f"{self.client_url}/readyz"):
                while True:
                    with suppress(httpx.HTTPError):
                        if (await client.get(url)).status_code == 200:
                            break
                    await asyncio.sleep(0.1)


@contextmanager
def started(data: Path, logs: Path, artifacts: Path, plants: tuple[str, ...] = ()) -> Iterator[Service]:
    """Everything is started, nothing waited for: the proxies are to be opened first."""
    directory = DataDirectory(data)
    with ExitStack() as stack:
        supervisor, prepare = stack.enter_context(supervised(directory))
        api = stack.enter_context(listening("127.0.0.1", 0))
        sandbox = stack.enter_context(listening("127.0.0.1", 0))
        servers = prepare()
        database_url, broker_url = servers.postgres(), servers.valkey()
        migrate(database_url)
        admin_key = f"faults:{secrets.token_urlsafe(24)}"
        asyncio.run(ensure_admin_key(database_url, admin_key))

        upstream = {
            "database": to_socket(f"{servers.sockets}/.s.PGSQL.5432"),
            "broker": to_socket(f"{servers.sockets}/valkey.sock"),
            "provider": to_port(sandbox.getsockname()[1]),
            "webhooks": to_port(api.getsockname()[1]),
            "api": to_port(api.getsockname()[1]),
        }
        edges = {name: Edge(name, upstream[name.rpartition("-")[2]]) for name in EDGES}
        urls = {name: f"http://127.0.0.1:{edge.port}" for name, edge in edges.items()}
        clocks = FakeClocks(directory.path, FAKED)
        service = Service(
            supervisor=supervisor,
            edges=edges,
            clocks=clocks,
            admin_key=admin_key,
            database_url=database_url,
            broker_url=broker_url,
            sandbox_url=address(sandbox),
            client_url=urls["client-api"],
            webhooks_url=urls["provider-webhooks"],
            api_url=address(api),
            journal=logs / "journal.jsonl",
            artifacts=artifacts,
        )
        common = (
            surroundings()
            | SETTINGS
            | {
                "ROUNDTRIP_DATA": str(directory.path),
                "ROUNDTRIP_ARTIFACTS_URL": artifacts.as_uri(),
                "ROUNDTRIP_PUBLIC_URL": service.webhooks_url,
                "ROUNDTRIP_ADMIN_KEY": admin_key,
                "FAL_KEY": "sandbox:sandbox",
                "ROUNDTRIP_FAL_QUEUE_URL": urls["worker-provider"],
                "ROUNDTRIP_FAL_JWKS_URL": f"{urls['worker-provider']}/.well-known/jwks.json",
            }
        )
        provider = (
            surroundings()
            | SANDBOX_SETTINGS
            | {
                "ROUNDTRIP_SANDBOX_PUBLIC_URL": urls["worker-provider"],
                "ROUNDTRIP_SANDBOX_JOURNAL": str(service.journal),
            }
        )
        launcher = ["-m", "faults.planted", ",".join(plants)] if plants else ["-m", "service.cli"]
        supervisor.start(_program("sandbox", ["-m", "service.cli"], provider, logs, sandbox.fileno()))
        for name in OURS:
            side = name.partition("-")[0]
            wires = "api" if side == "api" else "worker"
            own = {
                "ROUNDTRIP_DATABASE_URL": _through(database_url, edges[f"{wires}-database"].port),
                "ROUNDTRIP_BROKER_URL": f"redis://127.0.0.1:{edges[f'{wires}-broker'].port}/0",
            }
            descriptor = api.fileno() if side == "api" else None
            supervisor.start(_program(name, launcher, common | own | clocks.environment(name), logs, descriptor))
        try:
            yield service
        finally:
            # What a fault left stopped would not hear that it is to end. What is left to do nobody needs any more.
            for child in supervisor.children.values():
                if (pid := child.pid) is not None:
                    service.go_on([pid, *below(pid)])
            supervisor.hurry()


def surroundings() -> dict[str, str]:
    """Nothing of what this account has set for a service of its own counts here."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("ROUNDTRIP_") and name != "FAL_KEY"
    }


def _program(
    name: str, launcher: list[str], environment: Mapping[str, str], logs: Path, descriptor: int | None
) -> Program:
    command = [sys.executable, *launcher, name.partition("-")[0]]
    descriptors = [] if descriptor is None else [descriptor]
    for number in descriptors:
        command += ["--fd", str(number)]
    log = logs / f"{name}.log"
    return Program(name, command, environment, log=log, descriptors=descriptors, patience=12)


def _through(database_url: str, port: int) -> str:
    """The same database by way of a proxy."""
    parts = urlsplit(database_url)
    user = parts.netloc.rpartition("@")[0]
    return parts._replace(netloc=f"{user}@127.0.0.1:{port}", query="sslmode=disable").geturl()


def below(pid: int) -> list[int]:
    """The numbers of all processes that descend from this one."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, unseen = [], [pid]
    while unseen:
        children = parents.get(unseen.pop(), [])
        found += children
        unseen += children
    return found


def signalled(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
