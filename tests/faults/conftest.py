"""Nothing is shared here but what a module shares itself: each has its own stand-in and installation."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def only_where_processes_can_be_seen() -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("the processes to kill are found in /proc")
