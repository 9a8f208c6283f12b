"""An embedded Valkey as Celery's broker: on a private socket and without memory, since messages are only nudges."""

import os
import socket
from pathlib import Path

from service.local.account import Account
from service.local.directory import DataDirectory
from service.local.processes import Program, Supervisor
from service.local.programs import valkey_program

SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "save": "",
    "appendonly": "no",
    "maxmemory": "64mb",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
    "loglevel": "warning",
}


def start_valkey(supervisor: Supervisor, directory: DataDirectory, place: Path, sockets: Path, account: Account) -> str:
    """Start it and return its address as Celery reads it."""
    address = sockets / "valkey.sock"
    settings = SETTINGS | {"unixsocket": str(address), "dir": str(sockets)}
    supervisor.start(
        Program(
            name="valkey",
            command=[
                valkey_program(place, account),
                *(word for name, value in settings.items() for word in (f"--{name}", value)),
            ],
            environment={"PATH": os.defpath},
            account=account,
            log=directory.path / "valkey.log",
            patience=5,
            before=lambda: address.unlink(missing_ok=True),
        )
    )
    supervisor.wait_for(lambda: _answers(address), within=30, what="Valkey did not get ready")
    return f"redis+socket://{address}"


def _answers(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(address))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
