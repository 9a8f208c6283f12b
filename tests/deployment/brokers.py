"""Debian's RabbitMQ and Redis, each on a loopback port with a folder of its own."""

import os
import secrets
import shutil
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from kombu import Connection

from tests.deployment.children import Child
from tests.journeys.running import free_port
from tests.stand_in.server import eventually

# Debian's wrapper in /usr/sbin insists on the account rabbitmq; the program itself does not.
RABBITMQ_SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
PASSWORD = "broker-password"


class Broker:
    server: Child

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()

    @property
    @abstractmethod
    def url(self) -> str: ...

    def start(self) -> None:
        self.server.start()
        eventually(self._answers, within=60, every=0.1)

    def restart(self) -> None:
        self.server.stop()
        self.start()

    def crash(self) -> None:
        self.server.kill()

    def close(self) -> None:
        self.server.close()

    def _answers(self) -> bool:
        self.server.insist_alive()
        try:
            with Connection(self.url, connect_timeout=2) as connection:
                connection.connect()
                return True
        except (OSError, *Connection(self.url).connection_errors):
            return False


class Redis(Broker):
    def __init__(self, folder: Path, arguments: Sequence[str] = ("--appendonly", "yes")) -> None:
        super().__init__(folder)
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder), "--requirepass", PASSWORD]
        self.server = Child("redis", ["redis-server", *arguments, *place], {"PATH": os.defpath}, folder)

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"


class RabbitMQ(Broker):
    """With a name server (epmd) of its own, so that it neither finds nor leaves one on this machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "rabbitmq.conf").write_text(f"default_user = roundtrip\ndefault_pass = {PASSWORD}\n")
        (folder / "enabled_plugins").write_text("[].\n")
        epmd_port = str(free_port())
        environment = {
            "PATH": os.defpath,
            "HOME": str(folder),
            "ERL_EPMD_PORT": epmd_port,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_NODENAME": f"rt{secrets.token_hex(4)}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
        }
        self.epmd = Child("epmd", ["epmd", "-port", epmd_port, "-address", "127.0.0.1"], environment, folder)
        self.server = Child("rabbitmq", [RABBITMQ_SERVER], environment, folder)
        self.epmd.start()

    @property
    def url(self) -> str:
        return f"amqp://roundtrip:{PASSWORD}@127.0.0.1:{self.port}//"

    def close(self) -> None:
        super().close()
        self.epmd.close()


PROGRAMS: dict[type[Broker], str] = {Redis: "redis-server", RabbitMQ: RABBITMQ_SERVER}


def installed(program: str) -> bool:
    return shutil.which(program) is not None
