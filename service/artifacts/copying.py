"""Copying the files of an output into our own store, before their links expire."""

import asyncio
import mimetypes
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic

import structlog

from service.artifacts import downloads, records, sources
from service.artifacts.decoders import PictureRefused
from service.artifacts.downloads import DownloadFailed
from service.artifacts.filing import file
from service.artifacts.keeping import Keeper
from service.artifacts.links import PREFIX, FileLinks
from service.artifacts.pictures import OCTETS, PICTURES, Mask, Picture, measure_in_child
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

KNOWN = frozenset(PICTURES.values())
ALIASES = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/x-ms-bmp": "image/bmp",
}
LONGEST_TYPE = 100
LONGEST_REMARK = 300

# A copy whose worker dies is somebody else's after this long; whoever makes it says so more often.
LEASE_SECONDS = 15.0

# What cannot be reached is tried for as long as its link lasts; links of fal live for minutes at least, so the first
# tries are close together and the others are not. What is refused by our own guard will hardly ever do.
MOST_TRIES_WHEN_REFUSED = 10
# After these a picture is looked at once more whose decoder the machine may have starved.
PAUSES = (2.0, 10.0, 30.0)
MOST_TRIES_WHEN_GONE = 4
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 300.0
STORE_AGAIN_SECONDS = 10.0


class Copier:
    """The copies of one worker process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._keeper = Keeper(context)
        self.pump = Pump("copy", self._take, self._copy, slots=SLOTS)
        self.pictures = self._keeper.pump

    async def _take(self, limit: int) -> list[OwedCopy]:
        return await records.take_owed(self._context.db, limit, LEASE_SECONDS)

    async def _copy(self, owed: OwedCopy) -> None:
        await copy(self._context, owed)
        if owed.input and owed.tries == 1:
            self._keeper.look(owed.job_id, owed.input)


async def copy_due(context: Context) -> None:
    """Make every copy that is owed."""
    copier = Copier(context)
    await copier.pump.drain()
    await copier.pictures.drain()


async def copy(context: Context, owed: OwedCopy) -> None:
    begun = monotonic()
    try:
        async with _lease(context, owed):
            chunks = await _source(context, owed.source_url)
            async with context.storage.spool(chunks, LARGEST_FILE) as spooled:
                measured = await _measure(spooled, owed)
                await file(context.db, context.storage, spooled, measured)
    except (DownloadFailed, TooLarge) as error:
        again_in = _pause(error, owed.tries, owed.seconds_left - (monotonic() - begun))
        then = "it is tried again" if again_in else f"given up at try {owed.tries}"
        await _failed(context, owed, f"{error}; {then}", again_in, counts=True)
    except Exception as error:
        # Our own store or disk is at fault, which says nothing of the file: it is tried until it works.
        log.exception("a copy could not be stored", job_id=str(owed.job_id), index=owed.index)
        words = f"it could not be stored ({type(error.__cause__ or error).__name__}); it is tried again"
        await _failed(context, owed, words, STORE_AGAIN_SECONDS, counts=False)
    else:
        context.progress.add("copied")
        if await records.record_copy(context.db, owed, measured):
            context.nudger.nudge(TaskName.DELIVER)


async def _source(context: Context, url: str) -> AsyncIterator[bytes]:
    """A file that a GPU worker has stored with us lies in the store already, at a sealed address."""
    if PREFIX in url:
        links = FileLinks(context.settings.public_url, await context.file_secret.get(context.db))
        sha256 = await sources.stored(context.db, links, url) if links.is_ours(url) else None
        if sha256 is not None and await context.storage.exists(sha256):
            return await context.storage.read(sha256)
    return downloads.fetch(context.downloads, url, LARGEST_FILE, COPY_SECONDS)


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
    """A file that is strange is stored all the same, with a remark: the model gave it, and it was paid for."""
    picture, mask, remark = Picture(OCTETS, None, None), None, None
    try:
        picture, mask = await measure_in_child(spooled.path, owed.kind == "mask", PAUSES)
    except PictureRefused as error:
        remark = f"it was not decoded and not measured: {error}"[:LONGEST_REMARK]
    else:
        remark = _lie(owed, picture)
    if remark:
        log.warning("a strange file was stored", job_id=str(owed.job_id), index=owed.index, remark=remark)
    return _facts(spooled, picture, mask, remark)


def _lie(owed: OwedCopy, picture: Picture) -> str | None:
    """What is to be said of a file that is not what it was called, by its type or else by its name."""
    called = (owed.content_type or "").split(";")[0].strip().lower() or mimetypes.guess_type(owed.file_name or "")[0]
    called = ALIASES.get(called or OCTETS, called or OCTETS)
    found = picture.content_type
    if called == found:
        return "it is no picture" if found == OCTETS else None
    if called == OCTETS or KNOWN.isdisjoint({called, found}):
        return None
    return f"it is called {called[:LONGEST_TYPE]} and is {'no picture' if found == OCTETS else found}"


def _facts(spooled: Spooled, picture: Picture, mask: Mask | None, remark: str | None) -> Measured:
    return Measured(
        spooled.sha256,
        spooled.size,
        picture.content_type,
        picture.width,
        picture.height,
        mask.area_fraction if mask else None,
        mask.bbox if mask else None,
        remark,
    )


def _pause(error: DownloadFailed | TooLarge, tries: int, left: float) -> float | None:
    """The seconds until the next try, `left` seconds before the link ends. None: there is no further one."""
    if isinstance(error, TooLarge) or not (error.retryable or error.gone):
        return None
    if error.retryable and not error.refused and left > 0:
        return min(backoff(tries), left / 2)  # So that the last try of a long failure is not long before the end.
    most = MOST_TRIES_WHEN_REFUSED if error.refused else MOST_TRIES_WHEN_GONE
    return backoff(tries) if tries < most else None


def backoff(tries: int) -> float:
    longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(tries, 10))
    return longest * random.uniform(0.5, 1.0)


async def _failed(context: Context, owed: OwedCopy, reason: str, again_in: float | None, *, counts: bool) -> None:
    log.warning("a copy failed", job_id=str(owed.job_id), index=owed.index, reason=reason, again_in=again_in)
    if await records.record_failure(context.db, owed, reason, again_in, counts=counts):
        context.nudger.nudge(TaskName.DELIVER)
    if again_in is not None:
        context.nudger.nudge(TaskName.COPY, after=again_in)
