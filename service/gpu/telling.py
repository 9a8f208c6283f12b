"""Telling the service of results until it has them; what it never takes is told of as a failure."""

import asyncio
from contextlib import suppress

import structlog

from service.gpu.line import Line, LineDown, NotTaken, envelope_of
from service.gpu.outbox import Entry, Outbox, Result
from service.gpu.watch import LINES_A_BEAT

log = structlog.get_logger()

BEAT_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0


class Teller:
    """`woken` is set when there is something new."""

    def __init__(self, outbox: Outbox, line: Line) -> None:
        self._outbox = outbox
        self._line = line
        self.woken = asyncio.Event()
        self.woken.set()  # For what an earlier process left.

    async def tell_of(self, request_id: str) -> None:
        """Of this one, now. Raises LineDown."""
        await self._tell(next(each for each in self._outbox.entries() if each.folder.name == request_id))

    async def tell_all(self) -> None:
        """Tell of every end that is on disk until the service has it."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.woken.wait(), None if pause == FIRST_PAUSE_SECONDS else pause)
            self.woken.clear()
            failed = False
            for entry in list(self._outbox.entries()):
                failed |= not await self._told(entry)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS) if failed else FIRST_PAUSE_SECONDS

    async def _told(self, entry: Entry) -> bool:
        """Whether that is done with; if not, it is tried again."""
        lines = len(entry.result.lines)
        try:
            await self._tell(entry)
        except NotTaken as error:
            self._give_up_telling(entry, str(error))
        except LineDown as error:
            log.warning("a result could not be told", request_id=entry.folder.name, error=str(error))
            if len(entry.result.lines) < lines:
                entry.keep()  # What was said is not said again.
            return False
        except OSError as error:  # One of its files cannot be read.
            log.error("a result is set aside", request_id=entry.folder.name, error=str(error))
            self._outbox.set_aside(entry.folder)
        return True

    def _give_up_telling(self, entry: Entry, why: str) -> None:
        """A result that the service does not take is told of as a failure, and if it does not take that, no more."""
        log.error("a result is not taken", request_id=entry.folder.name, error=why)
        if entry.result.error is not None:
            self._outbox.set_aside(entry.folder)
            return
        words = f"The result could not be handed over: {why}."
        said = {"detail": words, "error_type": "result_refused"}
        self._outbox.replace(Result(entry.result.ticket, entry.result.run, 500, said, words))
        self.woken.set()

    async def _tell(self, entry: Entry) -> None:
        result = entry.result
        beating = asyncio.create_task(self._beat_while_telling(result))
        try:
            while lines := result.lines[:LINES_A_BEAT]:
                await self._say_of(result, lines)
                del result.lines[:LINES_A_BEAT]
            urls = [
                await self._line.keep(result.ticket, file.name, entry.content(index), file.content_type)
                for index, file in enumerate(result.files)
            ]
            envelope = envelope_of(result.ticket.request_id, result.status, entry.payload(urls), result.error)
            await self._line.tell(result.ticket, envelope)
        finally:
            beating.cancel()
        entry.remove()

    async def _beat_while_telling(self, result: Result) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            with suppress(LineDown):
                await self._say_of(result, [])

    async def _say_of(self, result: Result, lines: list[str]) -> None:
        await self._line.beat(result.ticket, result.run, result.done, result.of, lines)
