"""The bench at its smallest: it brings every job round, prints its tables, ends by itself and leaves nothing."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.processes import cpu_seconds, memory_bytes
from bench.report import percentile
from bench.stand_in import CHECKOUT

SMALLEST = ("--jobs=20", "--clients=4", "--warm-up=5", "--rate=20", "--seconds=0.5", "--idle=0.5", "--settle=0")
SPENDER = "import time\nwhile time.process_time() < 0.1: pass"


def test_every_job_of_the_bench_completes_once(folder: Path):
    folder.chmod(0o711)  # PostgreSQL may run as another account.
    done = subprocess.run(
        [sys.executable, "-m", "bench", *SMALLEST],
        cwd=CHECKOUT,
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert "| jobs | 20 | 10 |" in done.stdout
    assert "| duplicate submits | 0 | 0 |" in done.stdout
    assert "| incomplete jobs | 0 | 0 |" in done.stdout
    assert "| transactions a minute |" in done.stdout
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("bench --growth rows --rows-of {}", "is no data directory"),
        ("bench.questions --data {}", "is no data directory"),
        ("bench.exports --data {}", "is no data directory"),
        ("bench --jobs 0", "0 is less than 1"),
    ],
)
def test_a_mistyped_argument_is_refused_and_nothing_is_made_for_it(folder: Path, command: str, words: str):
    absent = folder / "absent"
    done = subprocess.run(
        [sys.executable, "-m", *command.format(absent).split()],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert not absent.exists()


def test_the_cpu_of_a_dead_child_counts_for_its_tree():
    command = ["sh", "-c", '"$0" -c "$1"; echo done; read line', sys.executable, SPENDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        assert shell.stdout.readline() == "done\n"
        assert cpu_seconds({"shell": shell.pid})["shell"] >= 0.08
        assert memory_bytes({"shell": shell.pid})["shell"] > 0
        shell.stdin.close()


def test_a_percentile_is_a_value_that_was_measured():
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 0.99) == 2.0
    assert percentile([1.0] * 98 + [5.0, 9.0], 0.99) == 5.0
    assert math.isnan(percentile([], 0.5))
