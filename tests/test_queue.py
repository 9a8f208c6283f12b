"""Nudges: merged, never waited for, never missed because of one another."""

import threading
from time import monotonic
from typing import Any

import pytest
from redis import Redis

from service.queue import QUEUE, Nudger, Publisher, TaskName, build_celery, open_nudger, transport_options
from service.settings import Settings


class Gate:
    """A publisher that tells when it is called, and lets nobody through before it is opened."""

    def __init__(self) -> None:
        self.published: list[TaskName] = []
        self.entered = threading.Event()
        self.opened = threading.Event()

    def publish(self, name: TaskName) -> None:
        self.published.append(name)
        self.entered.set()
        assert self.opened.wait(10)


def test_a_nudge_is_published() -> None:
    published: list[TaskName] = []
    nudger = Nudger(published.append)
    nudger.nudge(TaskName.SUBMIT)
    nudger.close()
    assert published == [TaskName.SUBMIT]


def test_nudges_that_come_while_one_is_on_its_way_become_one() -> None:
    gate = Gate()
    nudger = Nudger(gate.publish)
    nudger.nudge(TaskName.SUBMIT)
    assert gate.entered.wait(10)
    for _ in range(100):
        nudger.nudge(TaskName.SUBMIT)
        nudger.nudge(TaskName.WATCH)
    gate.opened.set()
    nudger.close()
    assert gate.published[0] is TaskName.SUBMIT
    assert sorted(gate.published[1:]) == [TaskName.SUBMIT, TaskName.WATCH]


def test_nobody_waits_for_the_broker() -> None:
    gate = Gate()
    nudger = Nudger(gate.publish)
    nudger.nudge(TaskName.SUBMIT)
    assert gate.entered.wait(10)
    nudger.nudge(TaskName.SUBMIT)  # Returns, though the publisher does not.
    gate.opened.set()
    nudger.close()
    assert len(gate.published) == 2


def test_a_publisher_that_fails_is_asked_again() -> None:
    asked: list[TaskName] = []
    failed = threading.Event()

    def publish(name: TaskName) -> None:
        asked.append(name)
        if len(asked) < 3:
            failed.set()
            raise ConnectionError

    nudger = Nudger(publish)
    for _ in range(3):
        failed.clear()
        nudger.nudge(TaskName.COPY)
        failed.wait(0.1 if len(asked) == 2 else 10)
    nudger.close()
    assert asked == [TaskName.COPY] * 3


def test_a_nudge_for_later_comes_later() -> None:
    came: list[float] = []
    told = threading.Event()

    def publish(_: TaskName) -> None:
        came.append(monotonic())
        told.set()

    nudger = Nudger(publish)
    due = monotonic() + 0.05
    nudger.nudge(TaskName.SUBMIT, after=0.05)
    assert told.wait(10)
    nudger.close()
    assert came[0] >= due
    assert len(came) == 1


def test_a_nudge_for_later_does_not_hold_up_one_for_now() -> None:
    told = threading.Event()
    nudger = Nudger(lambda _: told.set())
    nudger.nudge(TaskName.WATCH, after=3_600)
    nudger.nudge(TaskName.SUBMIT)
    assert told.wait(10)
    nudger.close()


def test_the_end_publishes_what_is_due_and_nothing_else() -> None:
    published: list[TaskName] = []
    nudger = Nudger(published.append)
    nudger.nudge(TaskName.COPY, after=3_600)
    nudger.nudge(TaskName.SUBMIT)
    nudger.close()
    assert published == [TaskName.SUBMIT]


def test_a_nudger_may_be_closed_twice() -> None:
    nudger = Nudger(lambda _: None)
    nudger.close()
    nudger.close()


def test_a_nudge_reaches_the_broker(settings: Settings) -> None:
    broker = Redis(unix_socket_path=settings.require_broker_url().partition("://")[2])
    broker.delete(QUEUE)
    nudger = open_nudger(settings)
    for name in (TaskName.SUBMIT, TaskName.WATCH):
        nudger.nudge(name)
    nudger.close()
    messages = b"".join(broker.lrange(QUEUE, 0, -1))  # type: ignore[arg-type]
    assert broker.llen(QUEUE) == 2
    assert all(name.value.encode() in messages for name in (TaskName.SUBMIT, TaskName.WATCH))


def test_nudges_to_redis_share_a_client(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Redis] = []
    make = Redis.__init__

    def note(client: Redis, *arguments: Any, **options: Any) -> None:
        made.append(client)
        make(client, *arguments, **options)

    monkeypatch.setattr(Redis, "__init__", note)
    publish = Publisher(settings)
    publish(TaskName.SUBMIT)
    made.clear()
    for _ in range(3):
        publish(TaskName.SUBMIT)
    assert len(made) == 1


def test_a_broker_that_is_away_is_no_ones_trouble(settings: Settings) -> None:
    away = settings.model_copy(update={"broker_url": "redis+socket:///nowhere/valkey.sock"})
    nudger = open_nudger(away)
    nudger.nudge(TaskName.SUBMIT)
    nudger.close()


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "redis+socket:///x", "amqp://h", "amqps://h", "pgmq://h/d"])
def test_every_broker_has_its_options(settings: Settings, url: str) -> None:
    app = build_celery(settings.model_copy(update={"broker_url": url}))
    assert app.conf.broker_transport_options == transport_options(url)
    assert app.conf.worker_enable_remote_control  # Without it a worker can stop consuming for good.
    assert app.conf.accept_content == ["json"]
