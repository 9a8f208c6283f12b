"""Putting a file into the store, while files that nothing refers to are deleted there."""

from service.artifacts.storage import Spooled, Storage, Stored
from service.db import Database
from service.retention import blobs


async def file(db: Database, storage: Storage, spooled: Spooled) -> Stored:
    """Whoever calls this then writes down what refers to the file; it stays for long enough for that.

    Raises Unavailable.
    """
    await blobs.reclaim(db, spooled.sha256)
    return await storage.keep(spooled)
