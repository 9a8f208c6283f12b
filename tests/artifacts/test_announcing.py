"""Many who store the same bytes at the same time, each for a job of its own."""

import asyncio
import hashlib
from uuid import UUID

from service.artifacts import records
from service.artifacts.records import Measured, OwedCopy
from service.db import Database
from tests import making

URL = "https://files.example/mask.png"


async def owed(db: Database, tenant: UUID) -> OwedCopy:
    claim = await making.ended(db, tenant)
    names = (claim.job_id, "mask", 0)
    await db.execute(
        "INSERT INTO artifacts (job_id, tenant_id, kind, index, source_url) SELECT $1, tenant_id, $2, $3, $4"
        " FROM jobs WHERE id = $1",
        *names,
        URL,
    )
    await db.execute("INSERT INTO copies (job_id, kind, index) VALUES ($1, $2, $3)", *names)
    return OwedCopy(*names, URL, 1)


async def test_none_of_them_waits_for_another_that_waits_for_him(db: Database, tenant: UUID) -> None:
    async def store(copy: OwedCopy, file: Measured) -> None:
        assert await records.announce(db, file)
        await records.record_copy(db, copy, file)
        assert await records.announce(db, file)
        await records.record_input_picture(db, copy.job_id, file.sha256)

    for number in range(40):
        file = Measured(hashlib.sha256(str(number).encode()).hexdigest(), 10, "image/png")
        copies = [await owed(db, tenant) for _ in range(8)]
        await asyncio.gather(*(store(copy, file) for copy in copies))
    assert await making.count(db, "blobs") == 40
    assert await making.count(db, "artifacts WHERE sha256 IS NOT NULL") == 320
