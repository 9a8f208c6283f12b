"""Programs that only some machines have: without them a test is skipped aloud, or fails where all must run."""

import os
import shutil
from pathlib import Path

import pytest


def require(*programs: str | Path, installer: str = "scripts/install-test-servers as root") -> None:
    """Names of programs, or paths of anything that the installer puts there."""
    missing = [str(program) for program in programs if not _is_here(program)]
    if not missing:
        return
    words = f"{', '.join(missing)} not installed: run {installer}"
    if os.environ.get("ROUNDTRIP_TEST_ALL") == "1":
        pytest.fail(words)
    pytest.skip(words)


def _is_here(program: str | Path) -> bool:
    return program.exists() if isinstance(program, Path) else shutil.which(program) is not None
