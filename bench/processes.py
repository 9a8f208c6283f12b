"""CPU time and memory of process trees, read from /proc."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    parent: int
    cpu_seconds: float
    # Of the children it has waited for, so nothing is lost when one of them ends.
    waited_seconds: float


def cpu_seconds(roots: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds of the tree under each named process so far, dead children included."""
    processes = dict(_processes())
    return {
        name: sum(_spent(pid, processes[pid]) for pid in _tree(root, processes) if pid in processes)
        for name, root in roots.items()
    }


def memory_bytes(roots: Mapping[str, int]) -> dict[str, int]:
    """Proportional set size of the tree under each named process: a page that n processes share counts 1/n."""
    processes = dict(_processes())
    return {name: sum(map(_pss, _tree(root, processes))) for name, root in roots.items()}


def _tree(root: int, processes: Mapping[int, Process]) -> Iterator[int]:
    yield root
    for pid, process in processes.items():
        if process.parent == root:
            yield from _tree(pid, processes)


def _processes() -> Iterator[tuple[int, Process]]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The command's name, in brackets, may hold spaces and brackets of its own.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            own, waited = (sum(map(int, fields[part])) / TICKS for part in (slice(11, 13), slice(13, 15)))
            yield int(entry.name), Process(int(fields[1]), own, waited)


def _spent(pid: int, process: Process) -> float:
    """To the nanosecond where the kernel tells: a session of PostgreSQL's may spend less in a phase than a tick."""
    exact = 0
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            exact += int((task / "schedstat").read_text().split()[0])
    # Threads that have ended are in the ticks only.
    return max(exact / 1e9, process.cpu_seconds) + process.waited_seconds


def _pss(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
