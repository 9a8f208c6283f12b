"""What a nudge is to a real broker, and what becomes of nudges when it restarts."""

from collections.abc import Iterator

import pytest
from celery import Celery
from structlog.testing import capture_logs

from service.queue import QUEUE, Nudger, TaskName, build_celery, open_nudger
from service.settings import Settings
from tests.deployment.brokers import Broker
from tests.stand_in.server import eventually

ENDS = pytest.mark.parametrize("end", [Broker.stop, Broker.kill], ids=["stopped", "killed"])


@pytest.fixture
def app(broker: Broker) -> Celery:
    return build_celery(Settings(broker_url=broker.url))


@pytest.fixture
def nudger(broker: Broker, app: Celery) -> Iterator[Nudger]:
    nudger = open_nudger(Settings(broker_url=broker.url))
    yield nudger
    nudger.close()
    with app.connection_for_write() as connection:
        app.amqp.queues[QUEUE](connection.default_channel).purge()


def next_nudge(app: Celery, within: float = 10) -> str:
    """Take the next message out of the queue that workers read."""
    with app.connection_for_read() as connection:
        queue = app.amqp.queues[QUEUE](connection.default_channel)
        queue.declare()
        message = eventually(lambda: queue.get(no_ack=True), within=within)
    name: str = message.headers["task"]
    return name


def test_a_nudge_is_one_message_in_the_workers_queue(app: Celery, nudger: Nudger) -> None:
    nudger.nudge(TaskName.SUBMIT)
    assert next_nudge(app) == TaskName.SUBMIT


def test_a_nudge_waits_while_the_broker_restarts(broker: Broker, app: Celery, nudger: Nudger) -> None:
    nudger.nudge(TaskName.SUBMIT)
    nudger.close()
    broker.stop()
    broker.start()
    assert next_nudge(app) == TaskName.SUBMIT


@ENDS
def test_the_first_nudge_after_a_restart_arrives(broker: Broker, app: Celery, nudger: Nudger, end: object) -> None:
    nudger.nudge(TaskName.SUBMIT)
    assert next_nudge(app) == TaskName.SUBMIT
    end(broker)  # type: ignore[operator]
    broker.start()
    nudger.nudge(TaskName.WATCH)
    # A broker that was killed may bring back a message that was taken just before, which does no harm.
    eventually(lambda: next_nudge(app) == TaskName.WATCH)


def test_a_nudge_to_a_broker_that_is_away_is_dropped_and_the_next_one_arrives(
    broker: Broker, app: Celery, nudger: Nudger
) -> None:
    broker.stop()
    with capture_logs() as said:
        nudger.nudge(TaskName.SUBMIT)
        eventually(lambda: said)
    broker.start()
    nudger.nudge(TaskName.COPY)
    assert next_nudge(app) == TaskName.COPY
    assert [entry["event"] for entry in said] == ["the broker is away; the sweep will find the work"]
