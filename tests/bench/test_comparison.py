"""The comparison with other stacks and the curves, at their smallest: every job comes round, all tables are whole."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.comparison import goals_table, summary
from bench.stacks import FLOOR, NAMES, OURS
from bench.stand_in import CHECKOUT

SMALLEST = ("--jobs=20", "--clients=4", "--warm-up=10", "--rate=20", "--seconds=0.5", "--idle=0.5")
SMALLEST_TURN = (*SMALLEST, "--alone=3", "--webhooks=20", "--rounds=1", "--settle=0.5")
# The others' packages are fetched from PyPI.
STACKS = NAMES if os.environ.get("ROUNDTRIP_TEST_ALL") else (OURS, FLOOR)


def bench(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    folder.chmod(0o711)  # PostgreSQL may run as another account.
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=CHECKOUT,
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.long
@pytest.mark.timeout(300)
def test_every_stack_does_the_work_and_is_measured(folder: Path):
    done = bench(folder, "--peers", *SMALLEST_TURN, "--stacks", *STACKS)
    assert done.returncode == 0, done.stderr
    assert f"|  | {' | '.join(STACKS)} |" in done.stdout
    rates = re.search(r"\| jobs/s, closed loop \| (.*) \|", done.stdout)
    assert rates is not None
    assert all(float(rate.replace(",", "")) > 0 for rate in rates[1].split(" | "))
    assert "webhook's answer, p99 ms" in done.stdout
    assert "PostgreSQL transactions a job, open loop" in done.stdout
    assert "were heard of" not in done.stderr
    # uv leaves the file that it locks.
    assert [each.name for each in folder.iterdir() if not each.name.startswith("uv-")] == []


@pytest.mark.long
@pytest.mark.timeout(200)
def test_the_curves_are_drawn_on_new_services(folder: Path):
    done = bench(folder, "--growth", "payload", "rows", *SMALLEST)
    assert done.returncode == 0, done.stderr
    assert "| 5,000 |" in done.stdout
    assert done.stdout.count("| empty |") == 2
    assert list(folder.iterdir()) == []


def test_a_goal_is_judged_by_its_ratio():
    found = {OURS: {"closed jobs/s": 600.0, "webhook p99": 21.0}, FLOOR: {"closed jobs/s": 800.0}}
    table = goals_table(found)
    assert f"| jobs/s, closed loop | 600.00 | 800.00 | 0.75 | ≥ 0.7 times {FLOOR} | yes |" in table
    assert "| webhook's answer, p99 ms | 21.00 |  |  | ≤ 20 | **no** |" in table
    assert "Procrastinate" not in table


def test_of_several_turns_the_median_counts():
    assert summary([{"a": 1.0}, {"a": 9.0, "b": 2.0}, {"a": 3.0}]) == {"a": 3.0, "b": 2.0}
