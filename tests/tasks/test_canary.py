"""The canary's way through a worker, and beat's scheduler, without a process of their own."""

import asyncio
import importlib
import threading
from types import ModuleType

import pytest
from redis import Redis
from structlog.testing import capture_logs

from service.context import Context
from service.jobs import due
from service.queue import QUEUE, PatientConnection, TaskName, build_celery, publishing
from service.settings import Settings
from service.watchdog import ALIVE, ARRIVED
from tasks.canary import own_queue
from tasks.runtime import Runtime, Worker
from tests.tasks.test_tasks import environment, run, tasks

__all__ = ["environment", "tasks"]


class Said:
    """In the place of a watched process."""

    def __init__(self) -> None:
        self.words = b""

    def say(self, word: bytes) -> None:
        self.words += word

    def renew(self) -> None:
        pass


async def test_a_canary_arrives_without_anything_being_opened(
    tasks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is away may keep a worker from opening what it needs."""
    said, runtime = Said(), Runtime()
    monkeypatch.setattr(tasks.canary, "_watched", said)
    monkeypatch.setattr(tasks, "runtime", runtime)
    await run(tasks.hear_canary)
    assert said.words == ARRIVED
    assert runtime._loop is None


async def test_a_canary_does_not_arrive_while_the_loop_stands_still(environment: None, context: Context) -> None:
    runtime, arrived, standing, go_on = Runtime(), threading.Event(), threading.Event(), threading.Event()

    async def stand_still(_: Worker) -> None:
        standing.set()
        go_on.wait(10)

    work = asyncio.create_task(asyncio.to_thread(runtime.run, stand_still))
    await asyncio.to_thread(standing.wait, 10)
    runtime.touch(arrived.set)
    assert not arrived.is_set()
    go_on.set()
    assert await asyncio.to_thread(arrived.wait, 10)
    await work
    await asyncio.to_thread(runtime.close)


async def test_sweeps_that_the_database_does_not_answer_hold_one_thread(
    tasks: ModuleType, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = [], asyncio.Event()

    async def hang(_: object) -> dict[str, bool]:
        asked.append(True)
        await answer.wait()
        return dict.fromkeys(("submit", "submit_gpu", "leave", "watch", "copy", "deliver", "count", "bulk"), False)

    monkeypatch.setattr(due, "anything_due", hang)
    worker = Worker(context)
    first = asyncio.create_task(tasks._sweep(worker))
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        for _ in range(3):
            await tasks._sweep(worker)
    answer.set()
    await first
    assert len(asked) == 1
    await tasks._sweep(worker)
    assert len(asked) == 2


def test_the_own_queue_is_one_that_brokers_forget() -> None:
    queue = own_queue("roundtrip.canary.x", 100.0)
    assert (queue.durable, queue.auto_delete, queue.expires, queue.no_ack) == (True, True, 100.0, True)


def test_a_broker_that_is_away_is_looked_for_every_few_seconds(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    connection = build_celery(settings).connection_for_read()
    monkeypatch.setattr(connection, "_ensure_connection", lambda *_, **options: asked.append(options["interval_max"]))
    assert isinstance(connection, PatientConnection)
    connection.ensure_connection(print, 0)
    assert asked == [PatientConnection.LONGEST_INTERVAL]


def test_beat_says_that_it_is_alive_and_says_once_that_its_broker_is_away(
    tasks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = importlib.import_module("tasks.clock").WatchedScheduler(tasks.celery_app, lazy=True)
    said = Said()
    monkeypatch.setitem(vars(scheduler), "_watched", said)
    monkeypatch.setattr(scheduler, "_heap", [])
    monkeypatch.setattr(type(scheduler), "schedule", {})
    scheduler.tick()
    scheduler.tick()
    assert said.words == ALIVE * 2

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("gone")

    entry = scheduler.Entry("sweep", app=tasks.celery_app)
    with capture_logs() as logged:
        for publish in (fail, fail, lambda *_, **__: None, fail):
            monkeypatch.setattr(scheduler, "apply_async", publish)
            scheduler.apply_entry(entry)
    assert [line["error"] for line in logged] == ["ConnectionError('gone')"] * 2


def test_what_is_asked_by_the_clock_does_not_fill_redis_when_nobody_takes_it(
    tasks: ModuleType, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = importlib.import_module("tasks.clock")
    monkeypatch.setattr(clock, "MOST_WAITING", 5)
    scheduler = clock.WatchedScheduler(tasks.celery_app, lazy=True)
    with Redis(unix_socket_path=settings.require_broker_url().partition("://")[2]) as broker:
        broker.delete(QUEUE)
        for _ in range(8):
            scheduler.apply_entry(scheduler.Entry(TaskName.SWEEP.value, TaskName.SWEEP.value, app=tasks.celery_app))
        assert broker.llen(QUEUE) == 5
        broker.delete(QUEUE)


def test_what_beat_sends_is_sent_over_a_new_connection_when_the_old_one_is_lost(environment: None) -> None:
    """RabbitMQ's; with Redis the client does it. Seen for good in tests/deployment."""
    beat = importlib.import_module("tasks.beat")
    assert beat.celery_app.conf.beat_schedule
    for entry in beat.celery_app.conf.beat_schedule.values():
        assert entry["options"].items() >= publishing(beat.settings.require_broker_url()).items()
