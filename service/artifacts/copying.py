"""Copying the files of an output into our own store, before their links expire."""

import asyncio
import random

import structlog

from service.artifacts import downloads, records
from service.artifacts.downloads import DownloadFailed
from service.artifacts.pictures import Mask, Picture, PictureRefused, measure_in_child
from service.artifacts.records import Measured, OwedCopy
from service.artifacts.storage import Spooled, TooLarge
from service.context import Context
from service.queue import TaskName

log = structlog.get_logger()

ROUND = 16

# Each may take the memory that a decoder is allowed.
DECODERS = asyncio.Semaphore(2)
LARGEST_FILE = 512 * 2**20
COPY_SECONDS = 120.0
LEASE_SECONDS = COPY_SECONDS + 30.0
UNREADABLE = "application/octet-stream"

# Links of fal live for minutes at least, so the first tries are close together and the last are not.
MOST_TRIES = 10
MOST_TRIES_WHEN_GONE = 4
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 300.0


async def copy_due(context: Context) -> None:
    """Make every copy that is owed."""
    while True:
        owed = await records.take_owed(context.db, ROUND, LEASE_SECONDS)
        await asyncio.gather(*(copy(context, each) for each in owed))
        if len(owed) < ROUND:
            return


async def copy(context: Context, owed: OwedCopy) -> None:
    try:
        chunks = downloads.fetch(context.downloads, owed.source_url, LARGEST_FILE, COPY_SECONDS)
        async with context.storage.spool(chunks, LARGEST_FILE) as spooled:
            measured = await _measure(spooled, owed)
            await context.storage.keep(spooled)
    except (DownloadFailed, TooLarge) as error:
        await _failed(context, owed, error)
    else:
        await records.record_copy(context.db, owed, measured)


async def _measure(spooled: Spooled, owed: OwedCopy) -> Measured:
    """A file that is strange is stored all the same: the model gave it, and it was paid for."""
    picture, mask = Picture(UNREADABLE, None, None), None
    try:
        async with DECODERS:
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


async def _failed(context: Context, owed: OwedCopy, error: DownloadFailed | TooLarge) -> None:
    most = 1
    if isinstance(error, DownloadFailed):
        most = MOST_TRIES if error.retryable else MOST_TRIES_WHEN_GONE if error.gone else 1
    again_in = None
    if owed.tries < most:
        again_in = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0**owed.tries) * random.uniform(0.5, 1.0)
    log.warning("a copy failed", job_id=str(owed.job_id), index=owed.index, reason=str(error), again_in=again_in)
    await records.record_failure(context.db, owed, str(error), again_in)
    if again_in is not None:
        context.nudger.nudge(TaskName.COPY, after=again_in)
