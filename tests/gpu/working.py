"""GPU workers as their operator starts them, on the processor of this machine, with a small model."""

import asyncio
import base64
import io
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from service.db import one_connection
from service.local.directory import DataDirectory
from tests.deployment.children import Child
from tests.journeys.driver import Json
from tests.journeys.running import Service, below, free_port
from tests.stand_in.server import eventually

MODEL = "tests/colours"
SETTINGS = {"ROUNDTRIP_MODELS": MODEL, "ROUNDTRIP_ALLOW_PRIVATE_NETWORKS": "true"}


def picture(side: int = 8, colour: str = "#ff8040") -> str:
    written = io.BytesIO()
    Image.new("RGB", (side, 2 * side), colour).save(written, "PNG")
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def body(prompt: str = "look", *, provider: str = "gpu", image_url: str | None = None, **job: Any) -> Json:
    return {
        "model": MODEL,
        "input": {"image_url": image_url or picture(), "prompt": prompt},
        "provider": provider,
        **job,
    }


@dataclass
class Worker:
    """`roundtrip gpu-worker` beside a running service, on the same data directory unless one is named."""

    service: Service
    arguments: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    data: Path | None = None
    name: str = "gpu-worker"

    def __post_init__(self) -> None:
        data = self.data or self.service.data
        command = [sys.executable, "-m", "service.cli", "gpu-worker", "--model", MODEL, "--device", "cpu"]
        command += ["--runtime", "tests.gpu.colours:find", "--data", str(data), *self.arguments]
        environment = self.service.environment() | self.settings
        self.child = Child(self.name, command, environment, self.service.data.parent)

    def start(self, *, ready: bool = True) -> None:
        before = self.said_ready()
        self.child.start()
        if ready:
            eventually(lambda: self._ready(before), within=60, every=0.05)

    def _ready(self, before: int) -> bool:
        self.child.insist_alive()
        return self.said_ready() > before

    def said_ready(self) -> int:
        log = self.child.log
        return log.read_text(errors="replace").count("is loaded") if log.exists() else 0

    def model_processes(self) -> list[int]:
        """The numbers of the processes of the pool: one, but for the moments after it was killed."""
        return [process.pid for process in below(self.child.pid) if process.parent == self.child.pid]

    def model_process(self) -> int:
        """The number of the one that there is, as soon as there is one only."""

        def alone() -> list[int] | None:
            now = self.model_processes()
            return now if len(now) == 1 else None

        [pid] = eventually(alone)
        return pid

    @property
    def broker_url(self) -> str:
        running = DataDirectory(self.service.data).published()
        assert running is not None
        return running["broker_url"]


class Forwarder:
    """A way from one process to another that a test can close, and open again."""

    def __init__(self, to_port: int) -> None:
        self._to = to_port
        self.port = free_port()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Whoever comes is refused, and whoever is there is cut off."""
        if self._listener is not None:
            # A thread that waits in accept() holds the socket open; shutdown wakes it.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = socket.create_connection(("127.0.0.1", self._to))
                self._open |= {here, there}
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def rows(service: Service, sql: str, *values: object) -> list[Any]:
    """What the service's database holds."""
    running = DataDirectory(service.data).published()
    assert running is not None

    async def ask(url: str) -> list[Any]:
        async with one_connection(url) as connection:
            return await connection.fetch(sql, *values)

    return asyncio.run(ask(running["database_url"]))


@contextmanager
def working(service: Service, *arguments: str, ready: bool = True, **options: Any) -> Iterator[Worker]:
    worker = Worker(service, arguments, **options)
    try:
        worker.start(ready=ready)
        yield worker
    finally:
        worker.child.close()
