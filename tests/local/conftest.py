"""A data directory with a short path that other accounts may pass through, as PostgreSQL must when we are root."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.local import directory


@pytest.fixture
def place() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="local-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def data(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(directory, "ELSEWHERE", (elsewhere,))
    return place / "data"
