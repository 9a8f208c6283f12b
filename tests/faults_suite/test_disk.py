"""Both ways to a full disk refuse what is written while they last, and nothing afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faults.disk import SmallDisk, SmallFiles, disk_under

WRITER = """
import sys
for path in sys.stdin:
    try:
        with open(path.strip(), "wb") as file:
            file.write(bytes(5_000))
        print("written", flush=True)
    except OSError as error:
        print("refused", flush=True)
"""


def test_a_process_with_small_files_can_write_again_when_they_are_over(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None

        def says(name: str) -> str:
            print(tmp_path / name, file=writer.stdin, flush=True)
            return writer.stdout.readline().strip()

        limited = SmallFiles()
        assert says("before") == "written"
        limited.fill([writer.pid])
        assert says("during") == "refused"
        limited.free([writer.pid])
        assert says("after") == "written"
        writer.stdin.close()


def test_a_small_disk_is_full_until_it_is_freed_and_gone_at_the_end(tmp_path: Path) -> None:
    with disk_under(tmp_path / "store") as disk:
        if not isinstance(disk, SmallDisk):
            pytest.skip("nothing can be mounted here")
        disk.fill([])
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "store" / "file").write_bytes(bytes(5_000))
        disk.free([])
        (tmp_path / "store" / "file").write_bytes(bytes(5_000))
    assert not os.path.ismount(tmp_path / "store")
