"""A worker shows that it works by doing work: now and then it sends a message to itself.

The message takes the way of every other one: broker, consumer, a thread of the pool, the event loop. The watchdog
of the process hears of both ends, and replaces a worker that still sends canaries but takes none.
"""

import threading
from math import ceil
from typing import Any
from uuid import uuid4

import structlog
from celery import Celery
from kombu import Exchange, Queue

from service.queue import TaskName, publishing
from service.settings import Settings
from service.watchdog import ALIVE, ARRIVED, ENDING, SENT, Watched

log = structlog.get_logger()

# Brokers that forget the queue of a worker that died: it is deleted, or its messages are.
FORGETFUL = {"redis", "rediss", "redis+socket", "amqp", "amqps"}


class Canary:
    def __init__(self, app: Celery, settings: Settings) -> None:
        broker_url = settings.require_broker_url()
        self._app = app
        self._seconds = settings.canary_seconds
        self._forgotten_after = 10 * self._seconds
        self._kind = broker_url.partition("://")[0]
        self._options = publishing(broker_url)
        self._queue = own_queue(f"roundtrip.canary.{uuid4().hex[:12]}", self._forgotten_after)
        self._watched: Watched | None = None
        self._away = False

    def start(self) -> None:
        """Let this worker consume the queue of its own beside the shared one, and send to it from now on."""
        if self._kind in FORGETFUL:
            self._app.amqp.queues.select_add(self._queue)
            # Celery puts its own exchange in; a binding there would stay in Redis when this worker is killed.
            self._queue.exchange = Exchange("")
        self._watched = Watched(self._seconds)
        threading.Thread(target=self._run, args=(self._watched,), name="canary", daemon=True).start()

    def arrived(self) -> None:
        if self._watched is not None:
            self._watched.say(ARRIVED)

    def stop(self) -> None:
        """The process ends by itself, and takes its time."""
        if self._watched is not None:
            self._watched.say(ENDING)

    def _run(self, watched: Watched) -> None:
        watched.say(ALIVE)
        pause = threading.Event()
        sending: threading.Thread | None = None
        while not pause.wait(self._seconds):
            try:
                watched.renew()
            except OSError as error:  # There is no room for a process now; the next time there may be.
                log.warning("no watchdog can be started", error=repr(error))
            if self._kind not in FORGETFUL or (sending is not None and sending.is_alive()):
                # A broker that does not answer holds the thread that sends, not this one.
                watched.say(ALIVE)
            else:
                sending = threading.Thread(target=self._send, args=(watched,), name="canary-sending", daemon=True)
                sending.start()

    def _send(self, watched: Watched) -> None:
        # Said first, as it may arrive before this thread goes on.
        watched.say(SENT)
        try:
            self._publish()
        except Exception as error:  # kombu raises each transport's own classes
            if not self._away:
                log.warning("no canary can be sent: the broker is away", error=repr(error))
            self._away = True
            watched.say(ALIVE)
        else:
            self._away = False

    def _publish(self) -> None:
        with self._app.producer_pool.acquire(block=True) as producer:
            self._app.send_task(
                TaskName.CANARY.value,
                queue=self._queue.name,
                # The consumer declares it. To declare it here as well would bring back what it had left.
                declare=[],
                expires=self._forgotten_after,
                ignore_result=True,
                producer=producer,
                **self._options,
            )
            if self._kind.startswith("redis"):
                # What a worker leaves unread when it dies. A list that is read to its end is gone at once.
                channel: Any = producer.channel
                channel.client.expire(self._queue.name, ceil(self._forgotten_after))


def own_queue(name: str, seconds: float) -> Queue:
    """A queue that leaves nothing behind when its worker dies. RabbitMQ from 4.3 on wants shared queues durable."""
    return Queue(name, routing_key=name, durable=True, auto_delete=True, expires=seconds, no_ack=True)
