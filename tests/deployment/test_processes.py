"""The processes of compose.yaml against real brokers: jobs go round, and go on when parts of it die."""

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from scripts.demo import as_data_uri, examples
from scripts.picture import draw
from service.local.announcing import EXAMPLE
from service.queue import QUEUE, build_celery
from service.settings import Settings
from service.watchdog import SHORTEST_PATIENCE, Finding
from tests.deployment.brokers import Broker
from tests.deployment.processes import Deployment, deployed
from tests.journeys.driver import Driver, Json, parsed
from tests.stand_in.server import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def deployment(broker: Broker, place: Path) -> Iterator[Deployment]:
    """Everything but beat."""
    folder = place / f"{type(broker).__name__}-deployment"
    folder.mkdir(mode=0o755)
    with deployed(broker, folder) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def whole(deployment: Deployment) -> Deployment:
    deployment.beat.start()
    return deployment


@pytest.fixture(scope="module")
def clients(deployment: Deployment) -> Iterator[list[Driver]]:
    with deployment.clients() as clients:
        yield clients


def submit(client: Driver, body: Json = EXAMPLE) -> str:
    answer = client.http.post("/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    request_id: str = parsed(answer)["request_id"]
    return request_id


def submit_many(clients: list[Driver], number: int) -> list[str]:
    return [submit(client) for client in itertools.islice(itertools.cycle(clients), number)]


def completed(clients: list[Driver], request_ids: list[str], within: float = 90) -> list[list[Json]]:
    """The attempts of each job, after all of them completed; they are looked at through the last API."""
    client = clients[-1]
    statuses = {client.ended(request_id, within=within)["status"] for request_id in request_ids}
    assert statuses == {"completed"}
    return [client.attempts(request_id) for request_id in request_ids]


def ended_of(client: Driver, request_ids: list[str]) -> int:
    return sum(client.job(request_id)["completed_at"] is not None for request_id in request_ids)


def test_the_five_models_complete_through_either_api_by_nudges_alone(clients: list[Driver]) -> None:
    bodies = [{"model": job.model, "input": job.input} for job in examples(as_data_uri(draw()))]
    request_ids = [submit(client, body) for client in clients for body in bodies]
    attempts = completed(clients, request_ids)
    assert [len(made) for made in attempts] == [1] * 10
    masked = clients[0].stored(request_ids[3])
    assert masked["masks"]
    for client in clients:
        path = masked["masks"][0]["url"].removeprefix(str(clients[0].http.base_url).rstrip("/"))
        assert client.http.get(path).content.startswith(b"\x89PNG")


def test_an_end_that_one_api_hears_of_is_waited_for_at_the_other(clients: list[Driver]) -> None:
    request_id = submit(clients[0])
    waited = parsed(clients[1].get(f"/v1/jobs/{request_id}", wait=30))
    assert waited["status"] == "completed"


def test_a_worker_that_starts_finds_what_nobody_was_told_of(deployment: Deployment, clients: list[Driver]) -> None:
    """There is no beat yet that would ask anybody to look."""
    for worker in deployment.workers:
        worker.stop()
    # One, whose one nudge is taken away.
    request_ids = [submit(clients[0])]
    app = build_celery(Settings(broker_url=deployment.broker.url))
    with app.connection_for_write() as connection:
        queue = app.amqp.queues[QUEUE](connection.default_channel)
        assert eventually(queue.purge) > 0
    for worker in deployment.workers:
        worker.start()
    completed(clients, request_ids)


def test_fifty_jobs_complete_with_one_attempt_each(whole: Deployment, clients: list[Driver]) -> None:
    attempts = completed(clients, submit_many(clients, 50))
    assert [len(made) for made in attempts] == [1] * 50


def test_a_worker_killed_in_the_middle_loses_no_job(whole: Deployment, clients: list[Driver]) -> None:
    request_ids = submit_many(clients, 25)
    eventually(lambda: ended_of(clients[0], request_ids) > 3)
    whole.workers[0].kill()
    request_ids += submit_many(clients, 25)
    attempts = completed(clients, request_ids)
    # Only what was on its way to the provider at that moment may have gone there twice, and says so.
    again = [made for made in attempts if len(made) > 1]
    assert all(made[0]["state"] in ("ambiguous", "abandoned") for made in again)
    whole.workers[0].start()


@pytest.mark.parametrize("end", [Broker.stop, Broker.kill], ids=["stopped", "killed"])
def test_jobs_go_on_when_the_broker_restarts(whole: Deployment, clients: list[Driver], end: object) -> None:
    before = submit_many(clients, 20)
    eventually(lambda: ended_of(clients[0], before) > 3)
    end(whole.broker)  # type: ignore[operator]
    meanwhile = submit_many(clients, 10)
    whole.broker.start()
    after = submit_many(clients, 10)
    attempts = completed(clients, [*before, *meanwhile, *after])
    assert [len(made) for made in attempts] == [1] * 40


def test_nobody_is_ended_because_the_broker_is_away(whole: Deployment, clients: list[Driver]) -> None:
    whole.broker.stop()
    request_ids = submit_many(clients, 5)
    time.sleep(SHORTEST_PATIENCE + 3)
    whole.broker.start()
    completed(clients, request_ids)
    time.sleep(SHORTEST_PATIENCE)
    for child in (*whole.workers, whole.beat):
        child.insist_alive()


def test_a_worker_that_stands_still_is_ended(whole: Deployment, clients: list[Driver]) -> None:
    worker = whole.workers[0]
    os.kill(worker.pid, signal.SIGSTOP)
    assert worker.ended(within=60) == -signal.SIGKILL
    assert Finding.SILENT.value in worker.words()
    worker.start()
    completed(clients, submit_many(clients, 3))


def test_a_worker_that_consumes_nothing_is_ended_and_leaves_no_queue(whole: Deployment, clients: list[Driver]) -> None:
    worker = whole.workers[0]
    whole.workers[1].stop()
    app = build_celery(Settings(broker_url=whole.broker.url))
    found = eventually(lambda: app.control.inspect(timeout=3).active_queues())
    [queues] = found.values()
    for queue in queues:
        app.control.cancel_consumer(queue["name"], reply=True)
    assert worker.ended(within=60) == 0
    assert Finding.DEAF.value in worker.words()
    for child in whole.workers:
        child.start()
    completed(clients, submit_many(clients, 3))
    [own] = [queue["name"] for queue in queues if queue["name"] != QUEUE]
    eventually(lambda: not there(app, own), within=60, every=0.5)


def there(app: Celery, queue: str) -> bool:
    """Whether the broker knows a queue of that name."""
    with app.connection_for_read() as connection:
        if connection.transport.driver_type == "redis":
            return bool(connection.default_channel.client.exists(queue))
        try:
            connection.default_channel.queue_declare(queue, passive=True)
        except connection.channel_errors:
            return False
        return True


def test_every_worker_takes_work_again_after_all_this(whole: Deployment, clients: list[Driver]) -> None:
    """Each is left alone with jobs once."""
    for worker in whole.workers:
        worker.stop()
        completed(clients, submit_many(clients, 3))
        worker.start()


def test_every_process_ends_by_itself_after_sigterm(whole: Deployment) -> None:
    for child in reversed(whole.running):
        child.insist_alive()
        # uvicorn ends by the same signal once it has closed everything.
        assert child.stop(within=40) in (0, -signal.SIGTERM)
