"""Makes `.venv` from uv.lock with nothing but Python: fetches the pinned uv and lets it install the rest."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".stamp"
UV = "uv==0.13.8"
UV_HOME = VENV / f".{UV.replace('==', '-')}"
SOURCES = (ROOT / "uv.lock", ROOT / "pyproject.toml", ROOT / "scripts" / "setup.py")

NO_PIP = f"""\
setup: this Python has neither pip nor ensurepip, so nothing can be fetched with it.
  Debian, Ubuntu: apt-get install python3-venv
  Fedora:         dnf install python3-pip
  or name another Python: make PYTHON=/path/to/python3 …
(looked at {sys.executable})"""


def main() -> None:
    VENV.mkdir(exist_ok=True)
    with (VENV / ".setup-lock").open("w") as lock:
        # Two `make` at once take turns, and the second one finds everything done.
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = installed_extras()
        extras = installed | set(sys.argv[1:])
        if not is_fresh() or extras != installed:
            make_environment()
            sync(pinned_uv(), sorted(extras))
            STAMP.write_text("\n".join(sorted(extras)))


def installed_extras() -> set[str]:
    """Those that were asked for once stay."""
    return set(STAMP.read_text().split()) if STAMP.exists() else set()


def is_fresh() -> bool:
    return STAMP.exists() and works(PYTHON) and STAMP.stat().st_mtime >= max(map(modified, SOURCES))


def modified(path: Path) -> float:
    return path.stat().st_mtime


def make_environment() -> None:
    if not works(PYTHON):
        for part in ("bin", "include", "lib", "lib64", "pyvenv.cfg"):
            remove(VENV / part)
        run([sys.executable, "-m", "venv", "--without-pip", VENV])


def works(python: Path) -> bool:
    """Not so when the Python that it was made from has gone, or is too old."""
    question = "import sys; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([python, "-c", question], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def pinned_uv() -> Path:
    """Beside the environment's packages and not among them, so that the packages are exactly the lock file's."""
    uv = UV_HOME / "bin" / "uv"
    if not uv.exists():
        with tempfile.TemporaryDirectory(prefix=".uv-", dir=VENV) as draft:
            print(f"setup: fetching {UV}", flush=True)
            quietly = os.environ | {"PIP_ROOT_USER_ACTION": "ignore"}
            run([*pip(Path(draft)), "install", "--quiet", "--target", Path(draft) / "uv", UV], quietly)
            remove(UV_HOME)
            os.rename(Path(draft) / "uv", UV_HOME)
    return uv


def pip(draft: Path) -> list[str | Path]:
    """This Python's own, or one that ensurepip makes for the occasion."""
    common = ["-m", "pip", "--disable-pip-version-check", "--no-input"]
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
        return [sys.executable, *common]
    made = subprocess.run([sys.executable, "-m", "venv", draft / "pip"], capture_output=True, check=False)
    if made.returncode != 0:
        sys.exit(NO_PIP)
    return [draft / "pip" / "bin" / "python", *common]


def sync(uv: Path, extras: list[str]) -> None:
    print("setup: installing what uv.lock names into .venv", flush=True)
    settings = {"UV_PROJECT_ENVIRONMENT": str(VENV), "UV_PYTHON_DOWNLOADS": "never"}
    if not can_cache():
        settings["UV_NO_CACHE"] = "1"
    outer = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    # Where Python is told to write no bytecode, each process would compile at its start what it imports: seconds of CPU
    # time, and megabytes that stay with it.
    command: list[str | Path] = [uv, "sync", "--frozen", "--quiet", "--compile-bytecode", "--python", PYTHON]
    for extra in extras:
        command += ["--extra", extra]
    if subprocess.run(command, cwd=ROOT, env=outer | settings, check=False).returncode != 0:
        print("setup: once more, with the certificates that this machine trusts", flush=True)
        run([*command, "--system-certs"], outer | settings)


def can_cache() -> bool:
    """Not so for an account without a home; uv would end there instead of doing without."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = Path(os.environ.get("UV_CACHE_DIR") or Path(home) / "uv")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(place, os.W_OK)


def run(command: list[str | Path], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if done.returncode != 0:
        sys.exit(f"setup: {' '.join(map(str, command))} ended with status {done.returncode}")


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        main()
    except PermissionError as error:
        sys.exit(f"setup: {error.filename}: {error.strerror}; make it writable, or run as the account that owns it")
