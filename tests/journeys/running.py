"""The service as its operator starts it: one `up` process, with data in a folder of its own."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.stand_in import StandIn
from tests.stand_in.server import eventually

ROOT = Path(__file__).parents[2]
QUICK = {
    "ROUNDTRIP_FIRST_POLL_SECONDS": "1.5",
    "ROUNDTRIP_POLL_SECONDS": "1",
    "ROUNDTRIP_SWEEP_SECONDS": "0.5",
    "ROUNDTRIP_AMBIGUOUS_SECONDS": "4",
    "ROUNDTRIP_SUBMIT_TIMEOUT_SECONDS": "2",
    "ROUNDTRIP_LOST_AFTER_SECONDS": "6",
}
READY_SECONDS = 90


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    started: str
    command: tuple[str, ...]

    @property
    def alive(self) -> bool:
        found = inspect(self.pid)
        return found is not None and found.started == self.started


@dataclass
class Service:
    """One installation: `start` and `stop` it as often as you like, the data stays."""

    fal: StandIn
    data: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=lambda: free_port())
    admin_key: str = field(default_factory=lambda: f"admin:{secrets.token_hex(20)}")
    fal_key: str = field(default_factory=lambda: f"fal:{secrets.token_hex(20)}")
    _up: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._up is not None, "the service was not started"
        return self._up.pid

    @property
    def log(self) -> Path:
        return self.data.parent / "up.log"

    def environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("ROUNDTRIP_", "FAL_"))}
        return ours | {
            "PYTHONPATH": str(ROOT),
            "FAL_KEY": self.fal_key,
            "ROUNDTRIP_FAL_QUEUE_URL": self.fal.url,
            "ROUNDTRIP_FAL_JWKS_URL": f"{self.fal.url}/.well-known/jwks.json",
            "ROUNDTRIP_FAL_USER_ID": self.fal.user_id,
            "ROUNDTRIP_ADMIN_KEY": self.admin_key,
            **QUICK,
            **self.settings,
        }

    def start(self) -> None:
        command = [sys.executable, "-m", "service.cli", "up", "--host", "127.0.0.1", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self._up = subprocess.Popen(
                [*command, "--data", str(self.data)],
                cwd=ROOT,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_ready()

    def wait_ready(self, within: float = READY_SECONDS) -> None:
        eventually(self._ready, within=within, every=0.1)

    def _ready(self) -> bool:
        assert self._up is not None
        assert self._up.poll() is None, f"up ended with {self._up.returncode}:\n{self.log.read_text()[-4000:]}"
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def processes(self) -> list[Process]:
        """Every process below `up`, itself left out."""
        return below(self.pid)

    def find(self, *words: str) -> list[Process]:
        """The processes of ours whose command line has all these words in it."""
        return [process for process in self.processes() if all(word in " ".join(process.command) for word in words)]

    def stop(self, within: float = 60) -> int:
        """SIGTERM, as Ctrl-C would; returns the exit status."""
        assert self._up is not None
        self._up.send_signal(signal.SIGTERM)
        return self._up.wait(timeout=within)

    def kill(self) -> None:
        """SIGKILL of `up` alone; what it started is left to itself."""
        assert self._up is not None
        self._up.kill()
        self._up.wait()

    def close(self) -> None:
        """Stop, whatever state it is in; what does not stop by itself is killed by its own number."""
        if self._up is None or self._up.poll() is not None:
            return
        started = self.processes()
        try:
            self.stop()
        except subprocess.TimeoutExpired:
            self.kill()
            for process in started:
                if process.alive:
                    os.kill(process.pid, signal.SIGKILL)

    def run(self, *arguments: str) -> str:
        """Run the program once, with this installation's settings, and return what it printed."""
        done = self.try_running(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def try_running(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service.cli", *arguments],
            cwd=ROOT,
            env=self.environment() | settings,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def client(self, key: str | None = None) -> httpx.Client:
        headers = {"authorization": f"Key {key or self.admin_key}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30)


@contextmanager
def installation(fal: StandIn, **settings: str) -> Iterator[Service]:
    """A new one in a short path that other users may pass through, as PostgreSQL must when we are root."""
    folder = Path(tempfile.mkdtemp(prefix="rt-"))
    folder.chmod(0o755)
    service = Service(fal, folder / "data", settings)
    try:
        yield service
    finally:
        service.close()
        if not os.environ.get("KEEP_JOURNEYS"):
            shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def inspect(pid: int) -> Process | None:
    """None if there is no such process, or if it is dead and only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return None
    return None if fields[0] == "Z" else Process(pid, int(fields[1]), fields[19], tuple(command.split("\0")))


def below(pid: int) -> list[Process]:
    everything = [process for entry in Path("/proc").glob("[0-9]*") if (process := inspect(int(entry.name)))]
    found, parents = [], {pid}
    while children := [process for process in everything if process.parent in parents]:
        found += children
        parents = {child.pid for child in children}
    return found


def wait_gone(processes: list[Process], within: float = 30) -> list[Process]:
    """Those that are still there after that time."""
    deadline = time.monotonic() + within
    while (left := [process for process in processes if process.alive]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left
