"""A folder of weights on local disk: which commit it is a snapshot of, and whether its code is still the reviewed one.

`python -m service.gpu.runtimes.snapshots FOLDER REPOSITORY REVISION` seals a folder after somebody has read its code.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

from service.gpu.runtimes.base import CannotLoad

SEAL = "roundtrip-snapshot.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def seal(folder: Path, repository: str, revision: str) -> dict[str, object]:
    """Write down what the folder is, with the SHA-256 of all code in it."""
    if not _COMMIT.fullmatch(revision):
        raise CannotLoad(f"{revision!r} is no commit: 40 hexadecimal digits")
    content: dict[str, object] = {"repository": repository, "revision": revision, "code": _digests(folder)}
    (folder / SEAL).write_text(json.dumps(content, indent=2) + "\n")
    return content


def check_snapshot(folder: Path, revision: str | None) -> None:
    """Raises CannotLoad unless the folder is there and, if a revision is wanted, is known to be of it."""
    if not folder.is_dir():
        raise CannotLoad(f"{folder} is not a folder; no worker downloads weights, see docs/gpu-models.md")
    if revision is not None and (found := revision_of(folder)) != revision:
        raise CannotLoad(
            f"{folder} is a snapshot of {found or 'nobody knows which commit'}, and revision={revision} is wanted"
        )


def check_code(folder: Path, trusted: bool, revision: str | None) -> str:
    """The revision whose code may run. Raises CannotLoad unless that was allowed, and the code is the sealed one."""
    check_snapshot(folder, revision)
    if not trusted:
        raise CannotLoad("this model brings its own Python code: read it, then set trust_remote_code=yes")
    sealed = _read(folder)
    if sealed is None:
        raise CannotLoad(
            f"{folder} has no {SEAL}: read its code, then run "
            f"`python -m {__name__} {folder} REPOSITORY REVISION` to say that this code may run"
        )
    if sealed.get("code") != (now := _digests(folder)):
        before = sealed.get("code")
        changed = sorted(
            name
            for name in {*now, *(before if isinstance(before, dict) else ())}
            if not isinstance(before, dict) or before.get(name) != now.get(name)
        )
        raise CannotLoad(f"the code of {folder} is not what was sealed: {', '.join(changed)}")
    return str(sealed.get("revision"))


def revision_of(folder: Path) -> str | None:
    """From our seal, the layout of the hub's cache, or what the hub's client leaves in a local folder."""
    sealed = _read(folder)
    if sealed is not None:
        return str(sealed.get("revision"))
    if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name):
        return folder.name
    notes = (folder / ".cache" / "huggingface" / "download").rglob("*.metadata")
    commits = {note.read_text().partition("\n")[0] for note in notes}
    return commits.pop() if len(commits) == 1 else None


def _read(folder: Path) -> dict[str, object] | None:
    path = folder / SEAL
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError:
        raise CannotLoad(f"{path} cannot be read as JSON") from None
    if not isinstance(content, dict):
        raise CannotLoad(f"{path} does not hold an object")
    return content


def _digests(folder: Path) -> dict[str, str]:
    """Of what runs, and of the files that name what runs."""
    files = [*folder.rglob("*.py"), *folder.glob("*config.json")]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
        if "__pycache__" not in path.parts
    }


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        sys.stdout.write(json.dumps(seal(Path(sys.argv[1]), *sys.argv[2:]), indent=2) + "\n")
    except CannotLoad as error:
        sys.exit(str(error))
