"""Several beats at once sweep more often and do nothing twice."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.faults.killing import is_valkey, kill
from tests.journeys.driver import Driver, new_tag
from tests.journeys.running import ROOT, Service, installation
from tests.stand_in import Script, StandIn

BEATS = 3
JOBS = 60

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def fal() -> Iterator[StandIn]:
    with StandIn() as fal:
        yield fal


@pytest.fixture(scope="module")
def service(fal: StandIn) -> Iterator[Service]:
    with installation(fal, ROUNDTRIP_SWEEP_SECONDS="0.2") as service, ExitStack() as stack:
        service.start()
        for number in range(BEATS - 1):
            stack.callback(end, one_more_beat(service, number))
        yield service


def one_more_beat(service: Service, number: int) -> subprocess.Popen[bytes]:
    running = json.loads((service.data / "running.json").read_text())
    addresses = {f"ROUNDTRIP_{name.upper()}": running[name] for name in ("database_url", "broker_url")}
    # Its schedule file is its own; two on one file are not what is tried here.
    own = {"ROUNDTRIP_DATA": str(service.data.parent / f"beat-{number}")}
    return subprocess.Popen(
        [sys.executable, "-m", "service.cli", "beat"],
        cwd=ROOT,
        env=service.environment() | addresses | own,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def end(beat: subprocess.Popen[bytes]) -> None:
    assert beat.poll() is None, "it ended before the tests did"
    beat.send_signal(signal.SIGTERM)
    beat.wait(30)


def test_each_job_is_submitted_once_and_ends(fal: StandIn, service: Service) -> None:
    """Half of them without a webhook, so that the sweeps have to find their ends; and the broker loses all it has."""
    tags = [new_tag() for _ in range(JOBS)]
    for tag in tags[::2]:
        fal.script(tag, Script(webhooks=()))
    with service.client() as http:
        client = Driver(http)
        ids = []
        for number, tag in enumerate(tags):
            ids.append(client.post(tag)["request_id"])
            if number == JOBS // 2:
                kill(service, is_valkey)
        jobs = [client.ended(request_id, within=60) for request_id in ids]
    assert {job["status"] for job in jobs} == {"completed"}
    assert {job["attempt"] for job in jobs} == {1}
    assert [len(fal.submits_of(tag)) for tag in tags] == [1] * JOBS
