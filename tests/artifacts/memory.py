"""How much memory processes take at their peak, in bytes, as Linux counts it."""

from pathlib import Path


def forget_peak(pid: int | str = "self") -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_of(pid: int | str = "self") -> int:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024
