"""The processes of compose.yaml on this machine: the same commands and settings, other addresses."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

from service.local.servers import embedded_database
from tests.deployment import compose
from tests.deployment.brokers import Broker, Redis
from tests.deployment.children import Child
from tests.journeys.driver import Driver
from tests.journeys.running import QUICK, free_port
from tests.stand_in.server import eventually

PROGRAM = Path(sys.executable).with_name("roundtrip")
DATA = "/var/lib/roundtrip"
# So often that a worker which a restart of the broker leaves behind is seen to be ended.
CANARIES = {"ROUNDTRIP_CANARY_SECONDS": "1"}


@dataclass
class Deployment:
    broker: Broker
    database_url: str
    folder: Path
    ports: Mapping[str, int] = field(
        default_factory=lambda: {name: free_port() for name in ("api-1", "api-2", "sandbox")}
    )

    def __post_init__(self) -> None:
        self.public_url = self.url("api-1")
        broker = compose.VALKEY if isinstance(self.broker, Redis) else {}
        given = {**compose.VARIABLES, **broker, **compose.SANDBOX, "ROUNDTRIP_PUBLIC_URL": self.public_url}
        self.services = compose.ours(given)
        self.migrate, self.sandbox, self.beat = self.child("migrate"), self.child("sandbox"), self.child("beat")
        self.apis = [self.child("api", "api-1"), self.child("api", "api-2")]
        self.workers = [self.child("worker", "worker-1"), self.child("worker", "worker-2")]

    @property
    def running(self) -> list[Child]:
        return [self.sandbox, *self.workers, self.beat, *self.apis]

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def child(self, service: str, name: str | None = None) -> Child:
        name = name or service
        command = [self._here(str(word)) for word in self.services[service]["command"]]
        if "--port" in command:
            command[command.index("--port") + 1] = str(self.ports[name])
        environment = {name: self._here(text) for name, text in self.services[service]["environment"].items()}
        if "ROUNDTRIP_DATABASE_URL" in environment:
            environment["ROUNDTRIP_DATABASE_URL"] = self.database_url
        surroundings = {"PATH": os.defpath, "PYTHONPATH": str(compose.ROOT)}
        return Child(name, [str(PROGRAM), *command], surroundings | environment | QUICK | CANARIES, self.folder)

    def _here(self, text: str) -> str:
        """A word of compose.yaml with this machine's addresses in it."""
        text = re.sub(r"\b(rabbitmq|valkey):\d+", f"127.0.0.1:{self.broker.port}", text)
        text = text.replace("proxy:8001", f"127.0.0.1:{self.ports['sandbox']}")
        return text.replace("0.0.0.0", "127.0.0.1").replace(DATA, str(self.folder / "data"))

    def start(self) -> None:
        """In the order that compose.yaml asks for. Beat is left to the caller."""
        self.migrate.run()
        for child in (self.sandbox, *self.workers, *self.apis):
            child.start()
        for api in self.apis:
            eventually(partial(self._is_ready, api), within=60, every=0.1)

    def _is_ready(self, api: Child) -> bool:
        api.insist_alive()
        try:
            return httpx.get(f"{self.url(api.name)}/readyz", trust_env=False, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        for child in reversed(self.running):
            child.close()

    @contextmanager
    def clients(self) -> Iterator[list[Driver]]:
        """One for each API, with the key of ROUNDTRIP_ADMIN_KEY."""
        headers = {"authorization": f"Key {compose.VARIABLES['ROUNDTRIP_ADMIN_KEY']}"}
        opened = [
            httpx.Client(base_url=self.url(api.name), headers=headers, trust_env=False, timeout=60) for api in self.apis
        ]
        yield [Driver(http) for http in opened]
        for http in opened:
            http.close()


@contextmanager
def deployed(broker: Broker, folder: Path) -> Iterator[Deployment]:
    with embedded_database(folder / "postgres") as database_url:
        deployment = Deployment(broker, database_url, folder)
        try:
            deployment.start()
            yield deployment
        finally:
            deployment.close()
