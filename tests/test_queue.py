"""Nudges: merged, never waited for, never missed because of one another."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from service import queue
from service.queue import (
    MESSAGE_SECONDS,
    QUEUE,
    Nudger,
    Publisher,
    RedisPublisher,
    TaskName,
    build_celery,
    open_nudger,
    transport_options,
)
from service.settings import Settings
from tests.journeys.running import free_port
from tests.stand_in.server import eventually


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


class Line:
    """Sends at once, while it is open."""

    def __init__(self) -> None:
        self.sent: list[TaskName] = []
        self.is_open = True

    def at_once(self, name: TaskName) -> bool:
        if self.is_open:
            self.sent.append(name)
        return self.is_open


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


def test_a_nudge_that_can_be_sent_at_once_is() -> None:
    published: list[TaskName] = []
    line = Line()
    nudger = Nudger(published.append, line.at_once)
    nudger.nudge(TaskName.SUBMIT)
    assert line.sent == [TaskName.SUBMIT]
    nudger.close()
    assert published == []


def test_a_nudge_that_cannot_be_sent_at_once_is_published() -> None:
    published: list[TaskName] = []
    nudger = Nudger(published.append, lambda _: False)
    nudger.nudge(TaskName.SUBMIT)
    nudger.close()
    assert published == [TaskName.SUBMIT]


def test_a_broker_that_refused_the_last_nudge_is_noted_and_this_one_is_published() -> None:
    gate = Gate()

    def refused(_: TaskName) -> bool:
        raise ConnectionError

    nudger = Nudger(gate.publish, refused)
    nudger.nudge(TaskName.SUBMIT)
    assert gate.entered.wait(10)
    assert nudger.is_away
    gate.opened.set()
    nudger.close()
    assert gate.published == [TaskName.SUBMIT]
    assert not nudger.is_away


def test_nothing_is_sent_at_once_while_the_thread_publishes() -> None:
    gate, line = Gate(), Line()
    line.is_open = False
    nudger = Nudger(gate.publish, line.at_once)
    nudger.nudge(TaskName.SUBMIT)
    assert gate.entered.wait(10)
    line.is_open = True
    nudger.nudge(TaskName.COPY)
    gate.opened.set()
    nudger.close()
    assert (gate.published, line.sent) == ([TaskName.SUBMIT, TaskName.COPY], [])


def test_beyond_the_first_few_nudges_become_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nudger, "INTERVAL", 3_600)
    published: list[TaskName] = []
    line = Line()
    nudger = Nudger(published.append, line.at_once)
    for _ in range(100):
        nudger.nudge(TaskName.SUBMIT)
    nudger.close()
    assert (len(line.sent), published) == (Nudger.MOST_TOGETHER, [TaskName.SUBMIT])


def test_there_is_room_for_another_nudge_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nudger, "MOST_TOGETHER", 1)
    published: list[TaskName] = []
    nudger = Nudger(published.append)
    nudger.nudge(TaskName.SUBMIT)
    eventually(lambda: len(published) == 1)
    nudger.nudge(TaskName.SUBMIT)
    eventually(lambda: len(published) == 2)
    nudger.close()


def test_a_nudger_may_be_closed_twice() -> None:
    nudger = Nudger(lambda _: None)
    nudger.close()
    nudger.close()


@pytest.fixture
def broker(settings: Settings) -> Iterator[Redis]:
    """Without messages, before and after."""
    with Redis(unix_socket_path=settings.require_broker_url().partition("://")[2]) as client:
        client.delete(QUEUE)
        yield client
        client.delete(QUEUE)


def test_a_nudge_reaches_the_broker(settings: Settings, broker: Redis) -> None:
    nudger = open_nudger(settings)
    for name in (TaskName.SUBMIT, TaskName.WATCH):
        nudger.nudge(name)
    nudger.close()
    messages = b"".join(broker.lrange(QUEUE, 0, -1))  # type: ignore[arg-type]
    assert broker.llen(QUEUE) == 2
    assert all(name.value.encode() in messages for name in (TaskName.SUBMIT, TaskName.WATCH))


def without_what_differs(message: Any) -> Any:
    """A message without what no two have in common, and how lasting kombu's producer wants it, which Redis ignores."""
    told = json.loads(message)
    left = datetime.fromisoformat(told["headers"]["expires"]) - datetime.now(UTC)
    assert MESSAGE_SECONDS - 60 < left.total_seconds() <= MESSAGE_SECONDS
    for name in ("id", "root_id", "expires"):
        del told["headers"][name]
    for name in ("correlation_id", "delivery_tag"):
        del told["properties"][name]
    told["properties"].pop("delivery_mode", None)
    return told


def test_what_goes_to_redis_is_what_celery_sends_there(settings: Settings, broker: Redis) -> None:
    sent = []
    for publish in (Publisher(settings), RedisPublisher(settings)):
        for name in (TaskName.SUBMIT, TaskName.WATCH, TaskName.SUBMIT):
            publish(name)
        sent.append([without_what_differs(each) for each in broker.lrange(QUEUE, 0, -1)])
        broker.delete(QUEUE)
    assert sent[0] == sent[1]
    assert [each["headers"]["task"] for each in sent[1]] == [TaskName.SUBMIT, TaskName.WATCH, TaskName.SUBMIT]


def test_a_broker_that_hung_up_gets_the_next_nudge(settings: Settings, broker: Redis) -> None:
    publish = RedisPublisher(settings)
    publish(TaskName.SUBMIT)
    broker.client_kill_filter(_type="normal", skipme=True)
    publish(TaskName.SUBMIT)
    assert broker.llen(QUEUE) == 2


def test_a_broker_that_refuses_a_nudge_gets_the_next(settings: Settings, broker: Redis) -> None:
    publish = RedisPublisher(settings)
    broker.set(QUEUE, "no list")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        publish(TaskName.SUBMIT)
    broker.delete(QUEUE)
    publish(TaskName.SUBMIT)
    assert broker.llen(QUEUE) == 1


def test_the_first_nudge_to_redis_opens_what_the_next_is_sent_on_at_once(settings: Settings, broker: Redis) -> None:
    publisher = RedisPublisher(settings)
    assert not publisher.at_once(TaskName.SUBMIT)
    assert broker.llen(QUEUE) == 0
    publisher(TaskName.SUBMIT)
    assert not publisher.at_once(TaskName.WATCH)  # Its message is still to be made.
    assert publisher.at_once(TaskName.SUBMIT)
    eventually(lambda: broker.llen(QUEUE) == 2)
    eventually(lambda: publisher.at_once(TaskName.SUBMIT))  # The answer may be a moment behind.
    publisher(TaskName.WATCH)
    names = [json.loads(each)["headers"]["task"] for each in broker.lrange(QUEUE, 0, -1)]
    assert names == [TaskName.WATCH, *[TaskName.SUBMIT] * 3]


def test_nobody_waits_for_what_redis_answers(settings: Settings, broker: Redis) -> None:
    publisher = RedisPublisher(settings)
    publisher(TaskName.SUBMIT)
    broker.client_pause(60_000, all=False)
    assert publisher.at_once(TaskName.SUBMIT)
    assert not publisher.at_once(TaskName.SUBMIT)
    broker.client_unpause()
    publisher(TaskName.SUBMIT)
    assert broker.llen(QUEUE) == 3


@pytest.fixture(params=["a socket", "TCP"])
def reached(request: pytest.FixtureRequest, settings: Settings, broker: Redis) -> Iterator[Settings]:
    """The same broker over either; over TCP what is sent to one that hung up is lost without a word."""
    if request.param == "a socket":
        yield settings
    else:
        port = free_port()
        broker.config_set("port", port)
        yield settings.model_copy(update={"broker_url": f"redis://127.0.0.1:{port}"})
        broker.config_set("port", 0)


def test_a_broker_that_hung_up_is_sent_nothing_at_once(reached: Settings, broker: Redis) -> None:
    publisher = RedisPublisher(reached)
    publisher(TaskName.SUBMIT)
    for _ in range(2):  # With an answer that is read, and with one that is not.
        broker.client_kill_filter(_type="normal", skipme=True)
        eventually(lambda: len(broker.client_list()) == 1)
        assert not publisher.at_once(TaskName.SUBMIT)
        publisher(TaskName.SUBMIT)
        assert publisher.at_once(TaskName.SUBMIT)
    eventually(lambda: broker.llen(QUEUE) == 5)


def test_what_nobody_takes_does_not_fill_redis(
    settings: Settings, broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MOST_WAITING", 20)
    publisher = RedisPublisher(settings)
    for _ in range(10):
        publisher(TaskName.WATCH)
        for _ in range(10):
            if not publisher.at_once(TaskName.SUBMIT):
                publisher(TaskName.SUBMIT)
        assert int(broker.llen(QUEUE)) <= 20 + 2
    publisher(TaskName.TIDY)
    names = [json.loads(each)["headers"]["task"] for each in broker.lrange(QUEUE, 0, -1)]
    assert names[0] == TaskName.TIDY
    assert len(names) > 10


def test_what_redis_refused_is_told_with_the_next_nudge(settings: Settings, broker: Redis) -> None:
    publisher = RedisPublisher(settings)
    publisher(TaskName.SUBMIT)
    broker.set(QUEUE, "no list")
    assert publisher.at_once(TaskName.SUBMIT)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        eventually(lambda: publisher.at_once(TaskName.SUBMIT))
    broker.delete(QUEUE)
    publisher(TaskName.SUBMIT)
    assert broker.llen(QUEUE) == 1


def test_what_redis_refused_does_not_keep_the_next_nudge_back(settings: Settings, broker: Redis) -> None:
    publisher = RedisPublisher(settings)
    publisher(TaskName.SUBMIT)
    broker.set(QUEUE, "no list")
    assert publisher.at_once(TaskName.SUBMIT)
    eventually(publisher._connection.can_read)
    broker.delete(QUEUE)
    publisher(TaskName.WATCH)
    assert broker.llen(QUEUE) == 1


def test_a_connection_that_was_long_at_rest_is_looked_at_first(settings: Settings, broker: Redis) -> None:
    publisher = RedisPublisher(settings)
    publisher(TaskName.SUBMIT)
    publisher._connection.next_health_check = 0.0
    assert not publisher.at_once(TaskName.SUBMIT)
    publisher(TaskName.SUBMIT)
    assert publisher.at_once(TaskName.SUBMIT)


def test_a_message_is_made_anew_before_it_expires(
    settings: Settings, broker: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = RedisPublisher(settings)
    monkeypatch.setattr(queue, "KEPT_SECONDS", 0)
    for _ in range(2):
        publish(TaskName.SUBMIT)
    first, second = (json.loads(each)["headers"]["id"] for each in broker.lrange(QUEUE, 0, -1))
    assert first != second


def test_a_broker_that_is_away_is_no_ones_trouble(settings: Settings) -> None:
    away = settings.model_copy(update={"broker_url": "redis+socket:///nowhere/valkey.sock"})
    nudger = open_nudger(away)
    nudger.nudge(TaskName.SUBMIT)
    nudger.close()
    assert nudger.is_away


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "redis+socket:///x", "amqp://h", "amqps://h", "pgmq://h/d"])
def test_every_broker_has_its_options(settings: Settings, url: str) -> None:
    app = build_celery(settings.model_copy(update={"broker_url": url}))
    assert app.conf.broker_transport_options == transport_options(url)
    assert app.conf.worker_enable_remote_control  # Without it a worker can stop consuming for good.
    assert app.conf.accept_content == ["json"]
