"""Celery as the nudge: a message says "look now" and nothing else; the work itself stands in PostgreSQL.

A message that is lost costs time, until the next sweep, and never work. So messages are forgotten by the broker
when they are taken, carry no data, and are merged: however many jobs came, one message wakes a task that
takes them all.
"""

import heapq
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from time import monotonic
from typing import Any, Self
from uuid import uuid4

import structlog
from celery import Celery
from kombu import Connection, Exchange, Producer, Queue, serialization
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from service.settings import Settings

log = structlog.get_logger()

QUEUE = "roundtrip"

# A nudge that nobody took for so long has been made up for by sweeps. Minutes, because clocks differ.
MESSAGE_SECONDS = 600.0

# Redis keeps expired messages, too, until somebody takes them. Were all its memory theirs, no worker could start.
MOST_WAITING = 1_000

RETRY_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


class TaskName(StrEnum):
    SUBMIT = "roundtrip.submit_jobs"
    SUBMIT_GPU = "roundtrip.submit_jobs_to_gpu"
    WATCH = "roundtrip.watch_jobs"
    COPY = "roundtrip.copy_files"
    DELIVER = "roundtrip.deliver_callbacks"
    BULK = "roundtrip.bulk_actions"
    SWEEP = "roundtrip.sweep"
    TIDY = "roundtrip.tidy"
    CANARY = "roundtrip.canary"


def submission(provider: str) -> TaskName:
    """The nudge for jobs that wait for this provider."""
    return TaskName.SUBMIT_GPU if provider == "gpu" else TaskName.SUBMIT


class PatientConnection(Connection):
    """Looks for a broker that is away every few seconds, however long it has been away."""

    LONGEST_INTERVAL = 5

    def ensure_connection(self, *arguments: Any, **options: Any) -> Self:
        return super().ensure_connection(*arguments, **{"interval_max": self.LONGEST_INTERVAL, **options})


def build_celery(settings: Settings) -> Celery:
    """The Celery application, the same in every process. Remote control stays on: without it a worker
    can stop consuming for good after its broker restarted while it was busy."""
    app = Celery("roundtrip", broker=settings.require_broker_url(), set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        # A taken message is gone. Kombu's Redis transport would keep a copy until it is acknowledged, and one such copy
        # that cannot be read, whatever spoiled it, ends every worker at its start.
        task_queues=[Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE, no_ack=True)],
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_publish_retry=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_soft_shutdown_timeout=20.0,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2,
        broker_heartbeat=10,
        broker_transport_options=transport_options(settings.require_broker_url()),
        timezone="UTC",
    )
    app.amqp.Connection = PatientConnection
    return app


def transport_options(broker_url: str) -> dict[str, object]:
    match broker_url.partition("://")[0]:
        case "redis" | "rediss" | "redis+socket":
            return {
                # Nor are copies looked at that others left there.
                "unacked_restore_limit": 0,
                # A list for each priority is asked otherwise.
                "priority_steps": [0],
                "socket_connect_timeout": 2,
                "socket_timeout": 5,
                "socket_keepalive": True,
                "health_check_interval": 25,
            }
        case "amqp" | "amqps":
            return {"confirm_publish": True}
        case _:
            return {"use_notify": True}


def forgets_what_is_taken(broker_url: str) -> bool:
    """Whether `no_ack` is all that there is to say; other transports of kombu's want each message acknowledged."""
    return broker_url.startswith(("redis", "amqp"))


class Nudger:
    """Publishes nudges so that no request waits for the broker: at once where `at_once` can, else from a thread.

    While one message is on its way, any number of further nudges become one. A broker that is away is
    noted once; the sweep finds the work.
    """

    # Messages are this far apart on the average, however many jobs come; a few may come together.
    INTERVAL = 0.005
    MOST_TOGETHER = 10

    # Later ones beyond these are left to the sweep.
    MOST_LATER = 1_000

    def __init__(
        self, publish: Callable[[TaskName], None], at_once: Callable[[TaskName], bool] = lambda _: False
    ) -> None:
        """`at_once` sends without waiting, or says that it cannot; never while `publish` does. Both may raise."""
        self._publish = publish
        self._at_once = at_once
        self._now: set[TaskName] = set()
        self._later: list[tuple[float, TaskName]] = []
        self._changed = threading.Condition()
        # Each message moves it on by an interval, at least from now.
        self._used_until = 0.0
        self._publishing = False
        self._closing = False
        self._away = False
        self._thread = threading.Thread(target=self._run, name="nudger", daemon=True)
        self._thread.start()

    def nudge(self, name: TaskName, after: float = 0.0) -> None:
        """Publish soon, or `after` seconds. Returns at once."""
        with self._changed:
            if after > 0:
                if len(self._later) < self.MOST_LATER:
                    heapq.heappush(self._later, (monotonic() + after, name))
                    self._changed.notify()
            elif name not in self._now and not self._sent_at_once(name):
                self._now.add(name)
                self._changed.notify()

    @property
    def is_away(self) -> bool:
        """Whether the last message that was answered could not be published."""
        return self._away

    def close(self) -> None:
        """Publish what is due and end; what is due later is the sweep's."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout=10)

    def _sent_at_once(self, name: TaskName) -> bool:
        if self._now or self._publishing or self._closing or self._full_for() > 0:
            return False
        try:
            sent = self._at_once(name)
        except Exception as error:
            self._failed(error)
            return False
        if sent:
            self._use()
        return sent

    def _run(self) -> None:
        while names := self._due():
            for name in names:
                try:
                    self._publish(name)
                except Exception as error:  # kombu raises each transport's own classes
                    self._failed(error)
                else:
                    self._away = False

    def _due(self) -> set[TaskName]:
        """Wait until something is due and there is room; nothing when it is time to end."""
        with self._changed:
            self._publishing = False
            while True:
                while self._later and self._later[0][0] <= monotonic():
                    self._now.add(heapq.heappop(self._later)[1])
                full_for = self._full_for()
                if self._closing or (self._now and full_for <= 0):
                    self._use()
                    self._publishing = True
                    names, self._now = self._now, set()
                    return names
                if self._now:
                    self._changed.wait(full_for)
                else:
                    self._changed.wait(self._later[0][0] - monotonic() if self._later else None)

    def _full_for(self) -> float:
        """In how many seconds there is room for a message; none or fewer if there is now."""
        return self._used_until - monotonic() - (self.MOST_TOGETHER - 1) * self.INTERVAL

    def _use(self) -> None:
        self._used_until = max(self._used_until, monotonic()) + self.INTERVAL

    def _failed(self, error: Exception) -> None:
        if not self._away:
            log.warning("the broker is away; the sweep will find the work", error=repr(error))
        self._away = True


def publishing(broker_url: str) -> dict[str, Any]:
    """How to publish without ever waiting long."""
    if broker_url.startswith("amqp"):
        # A pooled connection does not know that its broker was restarted until it is used.
        return {"retry": True, "retry_policy": RETRY_ONCE, "confirm_timeout": 5}
    return {"retry": False}


# Well before it expires, a message is made anew.
KEPT_SECONDS = MESSAGE_SECONDS / 10


class Publisher:
    """Sends nudges, for one thread. Producer and messages are kept: to make them costs as much as to send them."""

    def __init__(self, settings: Settings) -> None:
        self._app = build_celery(settings)
        self._options = publishing(settings.require_broker_url())
        self._producer: Producer | None = None
        self._messages: dict[TaskName, tuple[float, Any]] = {}

    def __call__(self, name: TaskName) -> None:
        """Raises what the broker's transport raises."""
        message = self._message(name)
        if self._producer is None:
            self._producer = self._app.producer_pool.acquire(block=True)
        try:
            self._producer.publish(
                message.body,
                exchange="",
                routing_key=QUEUE,
                declare=[self._app.amqp.queues[QUEUE]],
                serializer="json",
                headers=message.headers,
                **message.properties,
                **self._options,
            )
        except BaseException:
            self._producer.release()
            self._producer = None
            raise

    def _message(self, name: TaskName) -> Any:
        """For as long as it is kept it has the same ID, which nobody asks for."""
        if self._is_stale(name):
            self._messages[name] = monotonic(), self._make(name)
        return self._messages[name][1]

    def _is_stale(self, name: TaskName) -> bool:
        made, _ = self._messages.get(name, (float("-inf"), None))
        return monotonic() - made > KEPT_SECONDS

    def _make(self, name: TaskName) -> Any:
        return self._app.amqp.create_task_message(
            str(uuid4()), name.value, (), {}, expires=MESSAGE_SECONDS, ignore_result=True
        )


class RedisPublisher(Publisher):
    """The same for Redis, with what kept messages become on the wire, over one connection of kombu's pool.

    Kombu encodes each message anew and makes a client for it, which takes four times as long as to send it.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._channel: Any = None
        self._connection: Any = None
        self._is_open = False
        # Whether the last message's answer is still to be read.
        self._is_owed = False
        self._waiting = 0

    def __call__(self, name: TaskName) -> None:
        """Raises RedisError, or what kombu makes of it."""
        if self._connection is None:
            self._channel = self._app.connection_for_write().channel()
            self._connection = self._channel.client.connection_pool.get_connection()
        packed = self._message(name)
        # Twice at most, as a broker that was restarted is noticed only now. It connects again by itself.
        try:
            self._send(packed)
        except RedisConnectionError:
            self._send(packed)
        if self._waiting > MOST_WAITING:
            self._send(self._connection.pack_command("LTRIM", QUEUE, 0, MOST_WAITING - 1))
        self._is_open = True

    def at_once(self, name: TaskName) -> bool:
        """Send without waiting for an answer, which is read before the next message.

        False, and nothing is sent, where that would mean to connect, to wait, to ask whether the broker is still there,
        to make a message or to make room. Raises RedisError where the last one was refused; this one is not sent then.
        """
        if not self._is_open or self._is_stale(name) or monotonic() > self._connection.next_health_check:
            return False
        try:
            if self._is_owed and not self._connection.can_read():
                return False
            self._read_owed()
            if self._waiting > MOST_WAITING:
                return False
            # There is nothing to read now, but that the broker has hung up.
            if self._connection.can_read():
                self._connection.disconnect()
                self._is_open = False
                return False
            self._connection.send_packed_command(self._message(name), check_health=False)
        except RedisError as error:
            self._is_open = self._is_owed = False
            if isinstance(error, RedisConnectionError):
                return False
            raise
        self._is_owed = True
        return True

    def _send(self, packed: Sequence[bytes]) -> None:
        self._is_open = False
        # Whether the broker still refuses what it refused then, it tells of this one.
        with suppress(ResponseError):
            self._read_owed()
        self._connection.send_packed_command(packed)
        self._read_answer()

    def _read_owed(self) -> None:
        if self._is_owed:
            self._is_owed = False
            self._read_answer()

    def _read_answer(self) -> None:
        """To a message: how many wait now. To making room: that it is made."""
        answer = self._connection.read_response()
        self._waiting = answer if isinstance(answer, int) else 0

    def _make(self, name: TaskName) -> Sequence[bytes]:
        message = super()._make(name)
        content_type, encoding, body = serialization.dumps(message.body, serializer="json")
        prepared = self._channel.prepare_message(
            body,
            content_type=content_type,
            content_encoding=encoding,
            headers=message.headers,
            properties=dict(message.properties),
        )
        encoded = Encoded()
        self._channel.basic_publish(prepared, exchange="", routing_key=QUEUE, _publish_batch=encoded)
        # One answer is read for it.
        [command] = encoded.commands
        packed: Sequence[bytes] = self._connection.pack_command(*command)
        return packed


class Encoded:
    """The commands that make up a message, as kombu's Redis transport hands them to a batch (`PublishBatch`, 5.7)."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []

    def add(self, name: str, *arguments: str) -> None:
        self.commands.append((name, *arguments))


def open_nudger(settings: Settings) -> Nudger:
    if settings.require_broker_url().startswith("redis"):
        publisher = RedisPublisher(settings)
        return Nudger(publisher, publisher.at_once)
    return Nudger(Publisher(settings))
