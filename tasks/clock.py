"""Beat's scheduler, with a watchdog: beat that stands still is replaced, and one that waits for its broker is not."""

from functools import cached_property
from typing import Any

import structlog
from celery.beat import PersistentScheduler, ScheduleEntry

from service.queue import MOST_WAITING, QUEUE
from service.watchdog import ALIVE, Watched

log = structlog.get_logger()


class WatchedScheduler(PersistentScheduler):
    """Says at every tick that it is alive. The ticks come as often as canaries would, or oftener."""

    _away = False

    @cached_property
    def _watched(self) -> Watched:
        return Watched(self.app.conf.beat_max_loop_interval)

    def tick(self, *arguments: Any, **options: Any) -> float:
        self._watched.renew()
        self._watched.say(ALIVE)
        return super().tick(*arguments, **options)

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> None:
        try:
            self.apply_async(entry, producer=producer, advance=False)
            self._make_room()
        except Exception as error:  # kombu raises each transport's own classes
            self._note_away(error.__cause__ or error)
        else:
            self._away = False

    def _make_room(self) -> None:
        """Without a worker what is asked by the clock would fill Redis in the end."""
        channel: Any = self.producer.channel
        if self.connection.transport.driver_type == "redis":
            channel.client.ltrim(QUEUE, 0, MOST_WAITING - 1)

    def _ensure_connected(self) -> Any:
        """Waits for the broker as long as it takes, which is no standing still."""

        def on_failure(error: Exception, _: float) -> None:
            self._watched.say(ALIVE)
            self._note_away(error)

        return self.connection.ensure_connection(on_failure, self.app.conf.broker_connection_max_retries)

    def _note_away(self, error: BaseException) -> None:
        if not self._away:
            log.warning("the broker is away; no sweeps are asked for", error=repr(error))
        self._away = True
