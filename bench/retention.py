"""How fast rules of retention remove jobs, one part after the other, until nothing is left of them."""

import time

from service.db import Database, open_database
from service.retention import rules
from service.retention.parts import Keep, Part
from service.retention.rules import EVERY_MODEL

# In the order in which an operator lets them go.
PARTS = (Part.INPUT, Part.RESULT, Part.FILES, Part.EVIDENCE, Part.JOB)


async def removed_a_second(database_url: str, tenant: str, jobs: int) -> float:
    """Of the tenant's oldest jobs so many, or all that there are; as a worker does it, and nobody else."""
    async with open_database(database_url, max_size=2) as db:
        begun = time.monotonic()
        for part in PARTS:
            removed = await _remove(db, tenant, part, jobs)
        return removed / (time.monotonic() - begun)


async def _remove(db: Database, tenant: str, part: Part, jobs: int) -> int:
    rule = await rules.set_rule(db, tenant, EVERY_MODEL, part, 0.0, Keep.NOTHING)
    assert rule is not None
    removed = 0
    while removed < jobs and (batch := await rules.next_batch(db, rule)):
        await rules.carry_out(db, batch)
        removed += len(batch.due)
    await rules.remove_rule(db, tenant, EVERY_MODEL, part)
    return removed
