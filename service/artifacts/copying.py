"""Copying the files of an output into our own store, before their links expire."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import structlog

from service.artifacts import downloads, records
from service.artifacts.downloads import DownloadFailed
from service.artifacts.pictures import Mask, Picture, PictureRefused, measure_in_child
from service.artifacts.records import Measured, OwedCopy
from service.artifacts.storage import Spooled, TooLarge
from service.context import Context
from service.db import DatabaseAway
from service.pump import Pump
from service.queue import TaskName

log = structlog.get_logger()

# Many, because a link may not live long: what is fetched then waits for its turn to be measured.
SLOTS = 64
LARGEST_FILE = 512 * 2**20
COPY_SECONDS = 120.0
UNREADABLE = "application/octet-stream"

# A copy whose worker dies is somebody else's after this long; whoever makes it says so more often.
LEASE_SECONDS = 15.0

# Links of fal live for minutes at least, so the first tries are close together and the last are not.
MOST_TRIES = 10
MOST_TRIES_WHEN_GONE = 4
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 300.0
STORE_AGAIN_SECONDS = 10.0


class Copier:
    """The copies of one worker process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.pump = Pump("copy", self._take, self._copy, slots=SLOTS)

    async def _take(self, limit: int) -> list[OwedCopy]:
        return await records.take_owed(self._context.db, limit, LEASE_SECONDS)

    async def _copy(self, owed: OwedCopy) -> None:
        await copy(self._context, owed)


async def copy_due(context: Context) -> None:
    """Make every copy that is owed."""
    await Copier(context).pump.drain()


async def copy(context: Context, owed: OwedCopy) -> None:
    try:
        async with _lease(context, owed):
            chunks = downloads.fetch(context.downloads, owed.source_url, LARGEST_FILE, COPY_SECONDS)
            async with context.storage.spool(chunks, LARGEST_FILE) as spooled:
                measured = await _measure(spooled, owed)
                await context.storage.keep(spooled)
    except (DownloadFailed, TooLarge) as error:
        again_in = backoff(owed.tries) if owed.tries < _most_tries(error) else None
        await _failed(context, owed, str(error), again_in, counts=True)
    except Exception as error:
        # Our own store or disk is at fault, which says nothing of the file: it is tried until it works.
        log.exception("a copy could not be stored", job_id=str(owed.job_id), index=owed.index)
        words = f"It could not be stored ({type(error).__name__})."
        await _failed(context, owed, words, STORE_AGAIN_SECONDS, counts=False)
    else:
        if await records.record_copy(context.db, owed, measured):
            context.nudger.nudge(TaskName.DELIVER)


@asynccontextmanager
async def _lease(context: Context, owed: OwedCopy) -> AsyncGenerator[None]:
    """Keep the copy ours while it is being made."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            with suppress(DatabaseAway):  # The next renewal may be in time.
                await records.renew_lease(context.db, owed, LEASE_SECONDS)

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.wait([renewing])


async def _measure(spooled: Spooled, owed: OwedCopy) -> Measured:
    """A file that is strange is stored all the same: the model gave it, and it was paid for."""
    picture, mask = Picture(UNREADABLE, None, None), None
    try:
        picture, mask = await measure_in_child(spooled.path, mask=owed.kind == "mask")
    except PictureRefused as error:
        log.warning("a file was stored unmeasured", job_id=str(owed.job_id), index=owed.index, reason=str(error))
    return _facts(spooled, picture, mask)


def _facts(spooled: Spooled, picture: Picture, mask: Mask | None) -> Measured:
    return Measured(
        spooled.sha256,
        spooled.size,
        picture.content_type,
        picture.width,
        picture.height,
        mask.area_fraction if mask else None,
        mask.bbox if mask else None,
    )


def _most_tries(error: DownloadFailed | TooLarge) -> int:
    if isinstance(error, TooLarge):
        return 1
    return MOST_TRIES if error.retryable else MOST_TRIES_WHEN_GONE if error.gone else 1


def backoff(tries: int) -> float:
    longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(tries, 10))
    return longest * random.uniform(0.5, 1.0)


async def _failed(context: Context, owed: OwedCopy, reason: str, again_in: float | None, *, counts: bool) -> None:
    log.warning("a copy failed", job_id=str(owed.job_id), index=owed.index, reason=reason, again_in=again_in)
    if await records.record_failure(context.db, owed, reason, again_in, counts=counts):
        context.nudger.nudge(TaskName.DELIVER)
    if again_in is not None:
        context.nudger.nudge(TaskName.COPY, after=again_in)
