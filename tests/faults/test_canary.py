"""A worker, or beat, that lives and does no work is found out and replaced; one that only waits is left alone."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from celery import Celery
from redis import Redis

from service.queue import QUEUE, build_celery
from service.settings import Settings
from service.watchdog import SHORTEST_PATIENCE, Finding
from tests.faults.killing import is_beat, is_postgres, is_valkey, is_worker
from tests.journeys.driver import Driver, new_tag
from tests.journeys.running import Process, Service, below, installation
from tests.stand_in import StandIn
from tests.stand_in.server import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

CANARY_SECONDS = 1.0
LONGER_THAN_PATIENCE = SHORTEST_PATIENCE + 3


@pytest.fixture(scope="module")
def fal() -> Iterator[StandIn]:
    with StandIn() as fal:
        yield fal


@pytest.fixture(scope="module")
def service(fal: StandIn) -> Iterator[Service]:
    with installation(fal, ROUNDTRIP_CANARY_SECONDS=str(CANARY_SECONDS)) as service:
        service.start()
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[Driver]:
    with service.client() as http:
        client = Driver(http)
        job_completes(client)
        yield client


def job_completes(client: Driver) -> None:
    assert client.ended(client.post(new_tag())["request_id"], within=60)["status"] == "completed"


def the(service: Service, which: Callable[[Process], bool]) -> Process:
    """The one of that kind, when it is at work and watched."""

    def at_work() -> Process | None:
        found = [process for process in service.processes() if which(process)]
        return found[0] if found and below(found[0].pid) else None

    return eventually(at_work)


def broker_url(service: Service) -> str:
    url: str = json.loads((service.data / "running.json").read_text())["broker_url"]
    return url


def celery_of(service: Service) -> Celery:
    return build_celery(Settings(broker_url=broker_url(service)))


def lines(service: Service, finding: Finding) -> int:
    return service.log.read_text(errors="replace").count(f"watchdog: {finding.value}")


@contextmanager
def standing_still(processes: list[Process]) -> Iterator[None]:
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            if process.alive:
                os.kill(process.pid, signal.SIGCONT)


def test_a_worker_and_beat_that_stand_still_are_replaced(service: Service, client: Driver) -> None:
    old = [the(service, is_worker), the(service, is_beat)]
    with standing_still(old):
        eventually(lambda: not any(process.alive for process in old), within=40)
    assert {the(service, which).pid for which in (is_worker, is_beat)}.isdisjoint(process.pid for process in old)
    job_completes(client)
    assert lines(service, Finding.SILENT) == 2


def test_a_worker_that_consumes_nothing_is_replaced(service: Service, client: Driver) -> None:
    old = the(service, is_worker)
    control = celery_of(service).control
    [queues] = eventually(lambda: control.inspect(timeout=2).active_queues()).values()
    for queue in queues:
        control.cancel_consumer(queue["name"], reply=True)
    eventually(lambda: not old.alive, within=60)
    job_completes(client)
    assert lines(service, Finding.DEAF) == 1


def test_a_worker_that_was_killed_leaves_its_queue_to_nobody(service: Service, client: Driver) -> None:
    broker = Redis(unix_socket_path=broker_url(service).partition("://")[2])
    old = the(service, is_worker)
    [(name, queues)] = eventually(lambda: celery_of(service).control.inspect(timeout=2).active_queues()).items()
    [canaries] = [queue["name"] for queue in queues if "canary" in queue["name"]]
    celery_of(service).control.cancel_consumer(canaries, destination=[name], reply=True)
    # A worker that dies between the message and its time to live leaves that one message.
    eventually(lambda: broker.ttl(canaries) > 0)
    os.kill(old.pid, signal.SIGKILL)
    job_completes(client)
    assert not broker.exists("unacked")
    bound = {
        member
        for key in broker.scan_iter("_kombu.binding.*")
        if broker.type(key) == b"set"
        for member in broker.smembers(key)
    }  # type: ignore[union-attr]
    assert not [member for member in bound if b"canary" in member]
    eventually(lambda: not broker.exists(canaries))


def test_a_worker_starts_and_works_whatever_stands_in_the_broker(service: Service, client: Driver) -> None:
    broker = Redis(unix_socket_path=broker_url(service).partition("://")[2])
    # A message that another worker took and did not acknowledge, and two that lie in the queue.
    broker.hset("unacked", "some-tag", "no\0JSON{")
    broker.zadd("unacked_index", {"some-tag": 0})
    old = the(service, is_worker)
    os.kill(old.pid, signal.SIGSTOP)
    broker.rpush(QUEUE, "no\0JSON{", '{"body": "e30=", "properties": {}}')
    os.kill(old.pid, signal.SIGKILL)
    job_completes(client)
    eventually(lambda: not broker.exists(QUEUE))
    assert broker.hkeys("unacked") == [b"some-tag"]


def test_who_waits_for_a_silent_server_is_left_alone(service: Service, client: Driver) -> None:
    """Stopped, it takes connections and answers nothing, which is worse than being gone."""
    before = the(service, is_worker), the(service, is_beat)
    said = [lines(service, finding) for finding in Finding]
    for silent in (is_valkey, is_postgres):
        with standing_still([process for process in service.processes() if silent(process)]):
            time.sleep(LONGER_THAN_PATIENCE)
        job_completes(client)
    time.sleep(SHORTEST_PATIENCE)
    assert (the(service, is_worker), the(service, is_beat)) == before
    assert [lines(service, finding) for finding in Finding] == said
