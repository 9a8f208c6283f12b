"""GPU workers over RabbitMQ, where a message that was taken is the worker's until it says otherwise."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment.brokers import Broker
from tests.deployment.conftest import rabbitmq
from tests.gpu.working import SETTINGS, Worker, body, rows, working
from tests.journeys.driver import Driver, parsed
from tests.journeys.running import Service, installation
from tests.stand_in import StandIn

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    folder = Path(tempfile.mkdtemp(prefix="rtg-"))
    broker = rabbitmq(folder)
    try:
        broker.start()
        yield broker
    finally:
        broker.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def service(fal: StandIn, broker: Broker) -> Iterator[Service]:
    with installation(fal, **SETTINGS, ROUNDTRIP_BROKER_URL=broker.url) as service:
        service.start()
        yield service


@pytest.fixture(scope="module")
def worker(service: Service) -> Iterator[Worker]:
    with working(service, name="over-rabbitmq") as worker:
        yield worker


def submit(client: Driver, prompt: str = "look") -> str:
    answer = client.http.post("/v1/jobs", json=body(prompt))
    assert answer.status_code == 202, answer.text
    request_id: str = parsed(answer)["request_id"]
    return request_id


def test_jobs_go_round_one_after_the_other(client: Driver, worker: Worker) -> None:
    request_ids = [submit(client) for _ in range(5)]
    assert [client.ended(each, within=60)["status"] for each in request_ids] == ["completed"] * 5


def test_a_process_that_dies_costs_one_run(client: Driver, worker: Worker) -> None:
    request_id = submit(client, "wait 100")
    client.reaches(request_id, "in_progress")
    os.kill(worker.model_process(), signal.SIGKILL)
    assert client.ended(request_id, within=120)["status"] == "completed"


def test_a_broker_that_dies_in_the_middle_of_a_run_costs_nothing(
    client: Driver, worker: Worker, broker: Broker, service: Service
) -> None:
    request_id = submit(client, "wait 100")
    client.reaches(request_id, "in_progress")
    broker.kill()
    broker.start()
    assert client.ended(request_id, within=120)["status"] == "completed"
    assert client.ended(submit(client), within=120)["status"] == "completed"
    worker.child.insist_alive()
    crashed = rows(service, "SELECT FROM runs WHERE job_id = $1::text::uuid AND how = 'crashed'", request_id)
    assert crashed == []
