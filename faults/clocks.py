"""Clocks that are off: libfaketime under one API and one worker, whose time of day is then set while they run."""

from collections.abc import Sequence
from pathlib import Path

LIBRARIES = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"),
)


def library() -> Path | None:
    """Debian's `libfaketime`; `scripts/install-test-servers` installs it."""
    return next((path for path in LIBRARIES if path.exists()), None)


class FakeClocks:
    """The clocks of the named processes. Only the time of day is touched, as when somebody sets it."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._library = library()
        self._files = {name: folder / f"clock-{name}" for name in names}
        for name in names:
            self.set(name, 0.0)

    def environment(self, name: str) -> dict[str, str]:
        if self._library is None or name not in self._files:
            return {}
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._files[name]),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, name: str, offset: float) -> None:
        """Its clock is so many seconds off, from the next second on."""
        self._files[name].write_text(f"{offset:+.0f}s\n")
