"""What one GPU worker is told by its command, by way of the environment: Celery's processes read it there."""

import os
from pathlib import Path
from typing import Self

import msgspec

VARIABLE = "ROUNDTRIP_GPU_WORKER"


class WorkerConfig(msgspec.Struct, frozen=True):
    """`runtime` names a function `package.module:function` that makes the runtime instead of ours.

    `worker` is the name of this worker as long as it lives, whatever becomes of the processes in it.
    """

    worker: str
    model: str
    device: str
    folder: str
    data: str
    service_url: str
    allow_private_networks: bool = False
    runtime: str | None = None
    options: dict[str, str] = {}
    models: list[str] = []
    load_seconds: float = 900.0
    grace_seconds: float = 30.0
    gather_seconds: float = 0.2
    longest_seconds: float = 3_600.0

    def publish(self) -> None:
        os.environ[VARIABLE] = msgspec.json.encode(self).decode()

    @classmethod
    def published(cls) -> Self:
        return msgspec.json.decode(os.environ[VARIABLE], type=cls)

    @property
    def place(self) -> Path:
        """What workers keep on this machine: their key, results that are not told yet, why one could not load."""
        return place_in(Path(self.data))

    @property
    def complaint(self) -> Path:
        return self.place / f"{self.worker}.complaint"


def place_in(data: Path) -> Path:
    return data.resolve() / "gpu-worker"
