"""Where a bench works: a directory that goes when it ends, settings that are nobody's, and lines on stderr."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.settings import Settings, load_settings


@contextmanager
def data_directory() -> Iterator[Path]:
    data = Path(tempfile.mkdtemp(prefix="roundtrip-bench-"))
    data.chmod(0o711)  # PostgreSQL runs as another account when we are root, and has to get in.
    try:
        yield data
    finally:
        shutil.rmtree(data, ignore_errors=True)


def settings_for(data: Path, provider_url: str) -> Settings:
    """Nothing of what this account has set for its own service counts here."""
    for name in [name for name in os.environ if name.startswith("ROUNDTRIP_") or name == "FAL_KEY"]:
        if name != "ROUNDTRIP_RUN_AS":
            del os.environ[name]
    return load_settings(data=data, fal_queue_url=provider_url, fal_jwks_url=f"{provider_url}/.well-known/jwks.json")


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
