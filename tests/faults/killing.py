"""Finding the processes of a service by their command line, and ending them without a word."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.journeys.running import Process, Service


def is_worker(process: Process) -> bool:
    words = " ".join(process.command)
    return "worker" in words and "gpu" not in words and "postgres" not in words


def is_api(process: Process) -> bool:
    return "api" in process.command or "uvicorn" in " ".join(process.command)


def is_postgres(process: Process) -> bool:
    return Path(process.command[0]).name == "postgres"


def kill(service: Service, which: Callable[[Process], bool]) -> Process:
    """SIGKILL of the first such process below `up`, and of its own children of the same kind."""
    victims = [process for process in service.processes() if which(process)]
    assert victims, f"no such process: {[process.command for process in service.processes()]}"
    for victim in victims:
        os.kill(victim.pid, signal.SIGKILL)
    return victims[0]
