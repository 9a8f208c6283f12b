"""An S3, started when the first test of a process wants it, and the memory that a test takes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.artifacts.memory import forget_peak, peak_of
from tests.artifacts.s3 import S3, running_s3


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    with running_s3() as s3:
        yield s3


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """As a process finds it that is told of it by its environment."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def extra_memory() -> Callable[[], int]:
    """By how many bytes this process has grown at most since the test began."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is counted in /proc")
    forget_peak()
    before = peak_of()
    return lambda: peak_of() - before
