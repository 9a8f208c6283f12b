"""Putting a file into the store, while files that nothing refers to are deleted there."""

from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError

from service.artifacts import records
from service.artifacts.records import Measured
from service.artifacts.storage import Spooled, Storage, Stored
from service.db import Database
from service.errors import Unavailable
from service.retention import blobs


async def file(db: Database, storage: Storage, spooled: Spooled, measured: Measured) -> Stored:
    """Whoever calls this then writes down what refers to the file; it stays for long enough for that, and no longer.

    Its row comes before its bytes, so that none are ever without. Raises Unavailable.
    """
    while not await records.announce(db, measured):
        await blobs.reclaim(db, spooled.sha256)
    return await storage.keep(spooled)


@contextmanager
def storing() -> Iterator[None]:
    """Raises Unavailable where the disk is full or the bucket is away."""
    try:
        yield
    except (OSError, BaseError) as error:
        raise Unavailable("The file cannot be stored.") from error
