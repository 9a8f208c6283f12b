"""Putting a file into the store, while files that nothing refers to are deleted there."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import structlog
from obstore.exceptions import BaseError

from service.artifacts import records
from service.artifacts.records import Measured
from service.artifacts.storage import Spooled, Storage, Stored
from service.db import Database
from service.errors import Unavailable
from service.retention import blobs

log = structlog.get_logger()


@contextmanager
def storing() -> Iterator[None]:
    """Raises Unavailable where the disk is full or the bucket is away."""
    try:
        yield
    except (OSError, BaseError) as error:
        log.warning("a file could not be stored", error=repr(error))
        raise Unavailable("The file cannot be stored.") from error


@asynccontextmanager
async def spooled(storage: Storage, chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncGenerator[Spooled]:
    """Receive a file to look at; it is gone afterwards, unless it was kept. Raises TooLarge or Unavailable."""
    async with AsyncExitStack() as stack:
        with storing():
            received = await stack.enter_async_context(storage.spool(chunks, max_bytes))
        yield received


async def file(db: Database, storage: Storage, received: Spooled, measured: Measured) -> Stored:
    """Whoever calls this then writes down what refers to the file; it stays for long enough for that, and no longer.

    Its row comes before its bytes, so that none are ever without. Raises Unavailable.
    """
    while not await records.announce(db, measured):
        await blobs.reclaim(db, received.sha256)
    with storing():
        return await storage.keep(received)
