"""Programs as child processes of the test: each leads a group of its own and is ended by its own number."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Child:
    """One program, which can be started again after its end; its output is kept in `log`."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    stop_signal: signal.Signals = signal.SIGTERM
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, within: float = 60) -> None:
        """Start it and insist that it ends well by itself."""
        self.start()
        assert self._process is not None
        assert self._process.wait(within) == 0, self.words()

    def insist_alive(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, f"{self.name} ended with {self._process.returncode}:\n{self.words()}"

    def stop(self, within: float = 60) -> int:
        assert self._process is not None
        self._process.send_signal(self.stop_signal)
        return self._process.wait(within)

    def ended(self, within: float) -> int:
        """The status with which it ends by itself."""
        assert self._process is not None
        return self._process.wait(within)

    def kill(self) -> None:
        """SIGKILL for it and for what it forked into its group."""
        assert self._process is not None
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self.stop()
            self.kill()

    def words(self) -> str:
        """The last of what it said."""
        return self.log.read_text(errors="replace")[-4000:]
