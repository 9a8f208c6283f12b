"""The pictures of inputs that lie elsewhere: kept, so that masks can be drawn on them when their hosts are gone.

No row says that one is owed, as a job is whole without it: a worker looks for it when the first mask is copied, and if
that fails, or the worker dies, it is kept when masks are first drawn on it.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from uuid import UUID

import structlog

from service.artifacts import downloads, records, sources
from service.artifacts.decoders import PictureRefused, Starved
from service.artifacts.downloads import DownloadFailed
from service.artifacts.filing import file, spooled
from service.artifacts.links import FileLinks
from service.artifacts.pictures import measure_in_child
from service.artifacts.records import Measured
from service.artifacts.storage import TooLarge
from service.context import Context
from service.errors import NotDrawable, NotFound, Unavailable
from service.pump import Pump

log = structlog.get_logger()

LARGEST_PICTURE = 100 * 2**20
FETCH_SECONDS = 30.0

# Fetched at a time in one process, each with its place in the spool, and those that wait for that, and how long.
SLOTS = 8
FETCHERS = asyncio.Semaphore(SLOTS)
MOST_FETCHES = 64
WAIT_SECONDS = 30.0

# In line in a worker. What finds no place is kept when masks are first drawn on it.
LONGEST_LINE = 1_000
TRIES = 3
PAUSE_SECONDS = 2.0


class TooManyFetches(Unavailable):
    message = "Too many pictures are being fetched; try again shortly."


_fetching: dict[tuple[UUID, str], asyncio.Task[str]] = {}


class Keeper:
    """The pictures that one worker process looks for."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._line: deque[tuple[UUID, str]] = deque()
        self.pump = Pump("input picture", self._take, self._keep, slots=SLOTS)

    def look(self, job_id: UUID, text: str) -> None:
        """Keep the picture that this input names. Returns at once."""
        if len(self._line) < LONGEST_LINE:
            self._line.append((job_id, text))
            self.pump.wake()

    async def _take(self, limit: int) -> Sequence[tuple[UUID, str]]:
        return [self._line.popleft() for _ in range(min(limit, len(self._line)))]

    async def _keep(self, asked: tuple[UUID, str]) -> None:
        links = FileLinks(self._context.settings.public_url, await self._context.file_secret.get(self._context.db))
        for left in reversed(range(TRIES)):
            try:
                await picture_of(self._context, links, *asked)
            except (NotFound, NotDrawable) as error:
                log.info("the picture of an input was not kept", job_id=str(asked[0]), reason=error.message)
                return
            except Unavailable as error:
                log.info("the picture of an input was not kept", job_id=str(asked[0]), reason=error.message, left=left)
                await asyncio.sleep(PAUSE_SECONDS if left else 0)
            else:
                return


async def picture_of(context: Context, links: FileLinks, job_id: UUID, text: str) -> str:
    """The SHA-256 of the picture that an input names, in the store. Raises NotFound, NotDrawable or Unavailable."""
    name = sources.named_in(text)
    if name is None:
        raise NotFound("The job's input names no picture that its masks could be drawn on.")
    if sha256 := await sources.stored(context.db, links, name):
        return sha256
    came = sources.kept_in(text)
    if sha256 := await records.kept_picture(context.db, job_id, came):
        return sha256
    return await _fetched(context, job_id, name, came)


async def _fetched(context: Context, job_id: UUID, url: str, came: Sequence[str]) -> str:
    """Once for all who ask meanwhile."""
    fetching = _fetching.get((job_id, url))
    if fetching is None:
        if len(_fetching) >= MOST_FETCHES:
            raise TooManyFetches
        fetching = _fetching[job_id, url] = asyncio.create_task(_fetch_in_turn(context, job_id, url, came))
        fetching.add_done_callback(partial(_forget, (job_id, url)))
    return await asyncio.shield(fetching)


def _forget(asked: tuple[UUID, str], done: asyncio.Task[str]) -> None:
    del _fetching[asked]
    if not done.cancelled():
        done.exception()  # Whoever asked may be gone, and then nobody hears of it.


async def _fetch_in_turn(context: Context, job_id: UUID, url: str, came: Sequence[str]) -> str:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await FETCHERS.acquire()
    except TimeoutError:
        raise TooManyFetches from None
    try:
        # It may have been kept since it was looked for.
        return await records.kept_picture(context.db, job_id, came) or await _fetch(context, job_id, url)
    finally:
        FETCHERS.release()


async def _fetch(context: Context, job_id: UUID, url: str) -> str:
    # A client named it, so not even what the operator trusts for outputs is trusted here.
    chunks = downloads.fetch(context.callbacks, url, LARGEST_PICTURE, FETCH_SECONDS)
    try:
        async with spooled(context.storage, chunks, LARGEST_PICTURE) as received:
            picture, _ = await measure_in_child(received.path, mask=False)
            if picture.width is None:
                raise NotDrawable("What the job's input names is no picture that can be drawn on.")
            kept = Measured(received.sha256, received.size, picture.content_type, picture.width, picture.height)
            await file(context.db, context.storage, received, kept)
    except DownloadFailed as error:
        words = f"The picture of the job's input cannot be had: {error.reason}."
        raise (Unavailable if error.retryable else NotFound)(words) from error
    except (Starved, OSError) as error:  # No process can be started, for one.
        raise Unavailable("The picture of the job's input could not be looked at in time.") from error
    except (TooLarge, PictureRefused):
        raise NotDrawable("The picture of the job's input is too large to be drawn on.") from None
    await records.record_input_picture(context.db, job_id, kept.sha256)
    return kept.sha256
