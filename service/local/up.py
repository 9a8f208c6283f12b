"""The whole service on one machine: embedded servers where none are named, and every process of ours."""

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from service.keys import ensure_admin_key
from service.local.directory import DataDirectory
from service.local.environment import environment_of
from service.local.errors import CannotStart
from service.local.listening import address, listening
from service.local.processes import Program, Supervisor
from service.local.schema import database_in_use, migrate
from service.local.servers import supervised
from service.sandbox.config import SandboxConfig
from service.settings import Settings

READY_SECONDS = 60.0
SANDBOX_KEY = "sandbox:sandbox"


@dataclass(frozen=True)
class Running:
    """A started service: where it is, and the key that may do everything."""

    url: str
    admin_key: str
    # The file that holds the admin key; None if the operator gave the key himself.
    admin_key_file: Path | None
    first_start: bool
    data: Path
    database_url: str
    broker_url: str
    sandbox_url: str | None
    fal_url: str
    public_url: str
    supervisor: Supervisor


@contextmanager
def running(settings: Settings, host: str = "127.0.0.1", port: int = 8000) -> Iterator[Running]:
    """Start everything, wait until it is ready, and stop it at the end. Port 0 is any free one."""
    if not settings.uses_real_fal:
        SandboxConfig.from_env()  # A wrong setting of it ends the program before anything is started.
    with ExitStack() as stack:
        directory = DataDirectory(settings.data)
        supervisor, prepare_servers = stack.enter_context(supervised(directory))
        # Closed first: a client is refused at once instead of waiting for an API that will not come back.
        listener = stack.enter_context(listening(host, port))
        url = address(listener)

        database_url, broker_url = settings.database_url, settings.broker_url
        if database_url is None or broker_url is None:
            servers = prepare_servers()
            database_url = database_url or servers.postgres()
            broker_url = broker_url or servers.valkey()
        key, key_file, first_start = admin_key(settings, directory)
        migrate(database_url)
        with database_in_use():
            asyncio.run(ensure_admin_key(database_url, key))
        environment = os.environ | environment_of(settings)
        environment["ROUNDTRIP_DATABASE_URL"] = database_url
        environment["ROUNDTRIP_BROKER_URL"] = broker_url
        environment["ROUNDTRIP_DATA"] = str(directory.path)
        environment.setdefault("ROUNDTRIP_PUBLIC_URL", url)
        places = {"url": url, "database_url": database_url, "broker_url": broker_url}
        directory.publish(places | {"public_url": environment["ROUNDTRIP_PUBLIC_URL"]})
        sandbox_url = None
        if not settings.uses_real_fal:
            sandbox = stack.enter_context(listening("127.0.0.1", 0))
            sandbox_url = address(sandbox)
            environment["ROUNDTRIP_SANDBOX_PUBLIC_URL"] = sandbox_url
            environment["FAL_KEY"] = SANDBOX_KEY
            environment["ROUNDTRIP_FAL_QUEUE_URL"] = sandbox_url
            environment["ROUNDTRIP_FAL_JWKS_URL"] = f"{sandbox_url}/.well-known/jwks.json"
            # It keeps its requests in memory, so that after a restart it knows none of them for sure.
            environment.setdefault("ROUNDTRIP_LOST_AFTER_SECONDS", "30")
            supervisor.start(program("sandbox", environment, sandbox))
        supervisor.start(program("worker", environment, patience=30))
        supervisor.start(program("beat", environment))
        supervisor.start(program("api", environment, listener))
        if sandbox_url is not None:
            wait_until_ok(supervisor, f"{sandbox_url}/healthz", what="the sandbox")
        wait_until_ok(supervisor, f"{url}/readyz", what="the service")
        yield Running(
            url=url,
            admin_key=key,
            admin_key_file=key_file,
            first_start=first_start,
            data=directory.path,
            database_url=database_url,
            broker_url=broker_url,
            sandbox_url=sandbox_url,
            fal_url=settings.fal_queue_url,
            public_url=environment["ROUNDTRIP_PUBLIC_URL"],
            supervisor=supervisor,
        )


def program(
    name: str, environment: Mapping[str, str], listener: socket.socket | None = None, patience: float = 15
) -> Program:
    """One of our own processes, which serves the listener if there is one."""
    command = [sys.executable, "-m", "service.cli", name]
    if listener is None:
        return Program(name, command, environment, patience=patience)
    descriptor = listener.fileno()
    command += ["--fd", str(descriptor)]
    return Program(name, command, environment, descriptors=[descriptor], patience=patience)


def admin_key(settings: Settings, directory: DataDirectory) -> tuple[str, Path | None, bool]:
    """The key, the file that holds it, and whether it was made just now."""
    if settings.admin_key is not None:
        return settings.admin_key.get_secret_value(), None, False
    file = directory.path / "admin-key"
    made = not file.exists()
    if made:
        directory.write_private(file.name, f"{secrets.token_hex(8)}:{secrets.token_urlsafe(32)}\n")
    return file.read_text().strip(), file, made


def wait_until_ok(supervisor: Supervisor, url: str, *, what: str) -> None:
    """The error says what the last answer was: it names the part that is missing."""
    heard = "no answer"
    with httpx.Client(trust_env=False, timeout=3) as client:

        def ready() -> bool:
            nonlocal heard
            with suppress(httpx.HTTPError):
                response = client.get(url)
                heard = response.text.strip()
                return response.status_code == 200
            return False

        try:
            supervisor.wait_for(ready, within=READY_SECONDS, what=f"{what} was not ready")
        except CannotStart as error:
            raise CannotStart(f"{error} ({url}: {heard})") from None
