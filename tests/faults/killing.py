"""Finding the processes of a service by their command line, and ending them without a word."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.journeys.running import Process, Service
from tests.stand_in.server import eventually


def is_worker(process: Process) -> bool:
    words = " ".join(process.command)
    return "worker" in words and "gpu" not in words and "postgres" not in words


def is_api(process: Process) -> bool:
    return "api" in process.command or "uvicorn" in " ".join(process.command)


def is_postgres(process: Process) -> bool:
    return Path(process.command[0]).name == "postgres"


def is_valkey(process: Process) -> bool:
    return "valkey" in Path(process.command[0]).name


def is_beat(process: Process) -> bool:
    return "beat" in process.command


def kill(service: Service, which: Callable[[Process], bool], when: Callable[[], bool] = lambda: True) -> Process:
    """SIGKILL of all such processes below `up`, at the moment `when` first holds; returns one of them."""
    victims = [process for process in service.processes() if which(process)]
    assert victims, f"no such process: {[process.command for process in service.processes()]}"
    eventually(when, every=0.001)
    for victim in victims:
        with suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
    return victims[0]
