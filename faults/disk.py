"""A full disk under the artifact store: a small file system of its own where root may mount one, else a limit."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

SIZE_MB = 48
# With this limit on a worker, no file of an output can be written; its log goes through a pipe.
FEW_BYTES = 32


class Disk(Protocol):
    how: str

    def fill(self, pids: list[int]) -> None: ...

    def free(self, pids: list[int]) -> None: ...


class SmallDisk:
    """A tmpfs that is filled to the last block."""

    how = f"a tmpfs of {SIZE_MB} MB, filled"

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def fill(self, pids: list[int]) -> None:
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4_096))

    def free(self, pids: list[int]) -> None:
        self._filler.unlink(missing_ok=True)


class SmallFiles:
    """Without root: the kernel refuses the workers every file that is larger than a few bytes."""

    how = f"RLIMIT_FSIZE of {FEW_BYTES} bytes on the workers"

    def fill(self, pids: list[int]) -> None:
        self._limit(pids, FEW_BYTES)

    def free(self, pids: list[int]) -> None:
        self._limit(pids, resource.RLIM_INFINITY)

    def _limit(self, pids: list[int], limit: int) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (most if limit == resource.RLIM_INFINITY else limit, most))


@contextmanager
def disk_under(folder: Path) -> Iterator[Disk]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MB}m,mode=700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield SmallFiles()
        return
    try:
        yield SmallDisk(folder)
    finally:
        # Lazily, should a process that has just been killed still hold a file of it.
        subprocess.run(["umount", "-l", folder], check=False)
