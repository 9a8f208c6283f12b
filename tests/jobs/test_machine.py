"""In whatever order news, workers, watchers, clients and time come, a job goes forward and ends once."""

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from service.jobs import watching
from tests.machine.jobs import JobMachine
from tests.machine.world import World
from tests.servers import Addresses

# `make fuzz` goes on for so long with orders that were never tried; otherwise there is one round.
SECONDS = float(os.environ.get("ROUNDTRIP_FUZZ_SECONDS", "0"))
ROUND = hypothesis_settings(
    max_examples=60,
    stateful_step_count=40,
    print_blob=True,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink),
)


@pytest.fixture
def world(addresses: Addresses, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # Two of these come about often enough to be met.
    monkeypatch.setattr(watching, "MOST_RESUBMISSIONS", 2)
    world = World(addresses)
    yield world
    world.close()


@pytest.mark.timeout(900 + SECONDS)  # A failure is made as short as it can be, which takes its time.
def test_a_job_goes_forward_and_ends_once(world: World) -> None:
    ends, machines = time.monotonic() + SECONDS, 0

    def machine() -> JobMachine:
        nonlocal machines
        machines += 1
        return JobMachine(world)

    while True:
        try:
            run_state_machine_as_test(machine, settings=ROUND)  # type: ignore[arg-type]
        except Flaky as error:
            # What really runs at the same time does not fail each time. Hypothesis then tells of that only.
            raise AssertionError("\n".join(world.failures[:1])) from error
        if time.monotonic() > ends:
            break
    print(f"{machines} lives of several jobs, {world.steps} steps")
