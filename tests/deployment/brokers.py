"""Debian's Redis and RabbitMQ, each on a loopback port with a folder of its own."""

import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from kombu import Connection

from tests.deployment.children import Child
from tests.journeys.running import free_port
from tests.stand_in.server import eventually

REDIS_SERVER = "redis-server"
EPMD = "epmd"
# Debian's wrapper in /usr/sbin insists on the account rabbitmq; the program itself does not.
RABBITMQ_SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"


class Broker(ABC):
    server: Child

    def __init__(self, folder: Path, password: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._password = password

    @property
    @abstractmethod
    def url(self) -> str:
        """Where Celery finds it."""

    def start(self) -> None:
        self.server.start()
        eventually(self._answers, within=60, every=0.1)

    def stop(self) -> None:
        self.server.stop()

    def kill(self) -> None:
        self.server.kill()

    def close(self) -> None:
        self.server.close()

    def _answers(self) -> bool:
        self.server.insist_alive()
        connection = Connection(self.url, connect_timeout=2)
        try:
            with connection:
                connection.connect()
                return True
        except connection.connection_errors:
            return False


class Redis(Broker):
    def __init__(self, folder: Path, arguments: Sequence[str], password: str) -> None:
        super().__init__(folder, password)
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder)]
        self.server = Child("redis", [REDIS_SERVER, *arguments, *place], {"PATH": os.defpath}, folder)

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"


class RabbitMQ(Broker):
    """With a name server (epmd) of its own, so that it neither finds one on this machine nor leaves one there."""

    def __init__(self, folder: Path, user: str, password: str) -> None:
        super().__init__(folder, password)
        self._user = user
        (folder / "rabbitmq.conf").write_text(f"default_user = {user}\ndefault_pass = {password}\n")
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
        self.server = Child("rabbitmq", [RABBITMQ_SERVER], environment, folder)
        self._epmd = Child("epmd", [EPMD, "-port", epmd_port, "-address", "127.0.0.1"], environment, folder)
        self._epmd.start()

    @property
    def url(self) -> str:
        return f"amqp://{self._user}:{self._password}@127.0.0.1:{self.port}//"

    def close(self) -> None:
        super().close()
        self._epmd.close()
