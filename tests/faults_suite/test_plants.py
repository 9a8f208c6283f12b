"""Bugs that are planted in the real service turn red the checks that are there to see them.

One short run has several at once, because each is seen by a check of its own; `python -m faults --plant all` has every
plant alone.
"""

import shutil
from collections.abc import Iterator

import pytest

from faults.plants import PLANTS
from faults.run import Run, Size, run

SIZE = Size(jobs=90, seconds=10.0, kills=2, forged=150, readers=2, bound=20.0)
TOGETHER = (
    "key-ignored",
    "answer-before-commit",
    "outcome-overwritten",
    "doubt-is-refusal",
    "signature-skipped",
    "half-copies",
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def planted() -> Iterator[Run]:
    done = run(4711, SIZE, TOGETHER, [each for name in TOGETHER for each in PLANTS[name].needed])
    yield done
    shutil.rmtree(done.history.folder)


@pytest.mark.parametrize("name", TOGETHER)
def test_a_planted_bug_is_seen(planted: Run, name: str) -> None:
    assert PLANTS[name].check(planted.evidence).red
