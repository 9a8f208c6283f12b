"""Where a bench works: a directory that goes when it ends, settings that are nobody's, and lines on stderr."""

import argparse
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


def filled(name: str) -> Path:
    """A data directory that is there, as the type of an argument: a mistyped one would be made anew, with no jobs."""
    data = Path(name)
    if not data.is_dir() or not any(data.iterdir()):
        raise argparse.ArgumentTypeError(f"{name} is no data directory; `python -m bench.load --data {name}` makes one")
    return data


def at_least_one(word: str) -> int:
    """The type of an argument that counts something."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def settings_for(data: Path, provider_url: str) -> Settings:
    """Nothing of what this account has set for its own service counts here. The key is asked for by nobody."""
    for name in [name for name in os.environ if name.startswith("ROUNDTRIP_") or name == "FAL_KEY"]:
        if name != "ROUNDTRIP_RUN_AS":
            del os.environ[name]
    keys = f"{provider_url}/.well-known/jwks.json"
    return load_settings(data=data, fal_queue_url=provider_url, fal_jwks_url=keys, FAL_KEY="bench")


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
