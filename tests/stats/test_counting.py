"""Each job is counted once, whatever counts, in whatever order, and whatever dies meanwhile."""

import asyncio
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

import pytest

from service.artifacts import records
from service.artifacts.records import Measured, OwedCopy
from service.catalog.base import Lifted, LiftedFile
from service.db import Database, DatabaseAway, Row, one_connection
from service.jobs import endings
from service.stats import counting
from service.stats.counting import Counter, count_all, count_some
from service.stats.measures import ALL_TENANTS, MOST_NAMES
from tests import making
from tests.servers import Addresses, delete_all_rows
from tests.stats import drawn

TALLIES = """
SELECT tenants.name, measure, model, provider, status, grain, start, n, sum, buckets, counts
FROM tallies JOIN series ON series.id = series_id LEFT JOIN tenants ON tenants.id = tenant_id
ORDER BY 1, 2, 3, 4, 5, 6, 7
"""


async def tallies(db: Database) -> list[Row]:
    return await db.fetch(TALLIES)


async def told(db: Database, measure: str) -> dict[str, Any]:
    """How many jobs told a measure, and the sum, by the month's tally of all models."""
    row = await db.fetchrow(
        "SELECT sum(n)::int AS n, sum(sum) AS total FROM tallies JOIN series ON series.id = series_id"
        " WHERE grain = 2 AND measure = $1 AND model = '' AND status <> '' AND tenant_id <> $2",
        *(measure, ALL_TENANTS),
    )
    assert row is not None
    return dict(row)


async def drawn_jobs(db: Database, number: int) -> None:
    """The same ones each time."""
    tenants = [await making.make_tenant(db, name) for name in ("ours", "theirs")]
    await drawn.write(db, drawn.draw(Random(9), tenants, number))


async def test_batches_of_any_size_by_two_at_once_add_up_to_the_same(db: Database) -> None:
    await drawn_jobs(db, 1_000)
    assert await count_all(db) > 1_000
    at_once = await tallies(db)
    await delete_all_rows(db.pool)

    await drawn_jobs(db, 1_000)
    random = Random(1)

    async def count() -> None:
        while await count_some(db, random.choice([1, 3, 40, 300])):
            continue

    await asyncio.gather(count(), count())
    assert await tallies(db) == at_once


async def test_who_is_killed_while_he_counts_has_counted_nothing(db: Database, addresses: Addresses) -> None:
    await drawn_jobs(db, 200)
    await count_all(db)
    once = await tallies(db)
    await delete_all_rows(db.pool)
    await drawn_jobs(db, 200)
    await count_some(db, 100)
    async with one_connection(addresses.database) as other:
        holding = other.transaction()
        await holding.start()
        # The marks are taken by then, and outcomes are filled in: he waits for the last of it.
        await other.execute("LOCK TABLE tallies IN SHARE MODE")
        counting_on = asyncio.create_task(count_some(db, 100_000))
        await making.until(lambda: _waits_for_lock(db))
        await db.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL")
        with pytest.raises(DatabaseAway):
            await counting_on
        await holding.rollback()
    assert await making.count(db, "uncounted") > 0
    await count_all(db)
    assert await tallies(db) == once


async def _waits_for_lock(db: Database) -> bool:
    row = await db.fetchrow("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation IS NOT NULL) AS waits")
    return row is not None and bool(row["waits"])


async def test_copies_are_counted_once_when_the_last_of_them_is_there(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant)
    files = tuple(LiftedFile("mask", index, f"http://files.example/{index}") for index in range(2))
    ending = making.completed()
    assert await endings.settle(db, claim.job_id, 1, ending, making.heard(ending.body), "webhook", Lifted(files=files))

    async def copied(index: int) -> None:
        measured = Measured(f"{index}" * 64, 1, "image/png")
        assert await records.announce(db, measured)
        await records.record_copy(db, OwedCopy(claim.job_id, "mask", index, "", 1), measured)

    await copied(0)
    await count_all(db)
    assert await told(db, "copy_seconds") == {"n": None, "total": None}
    await copied(1)
    await count_all(db)
    await db.execute("INSERT INTO uncounted VALUES ($1, 'copy')", claim.job_id)
    await count_all(db)
    row = await making.outcome(db, claim.job_id)
    assert row is not None
    assert await told(db, "copy_seconds") == {"n": 1, "total": Decimal(repr(row["copy_seconds"]))}
    assert (await told(db, "total_seconds"))["n"] == 1


async def test_a_callback_is_counted_by_its_first_delivery(db: Database, tenant: UUID) -> None:
    claim = await making.ended(db, tenant)
    for seconds, error in ((3, "HTTP 500"), (7, None), (90, None)):
        await db.execute(
            "INSERT INTO callback_tries (job_id, at, seconds, error)"
            " SELECT job_id, completed_at + make_interval(secs => $2 - 0.5), 0.5, $3 FROM outcomes WHERE job_id = $1",
            *(claim.job_id, seconds, error),
        )
        await db.execute("INSERT INTO uncounted VALUES ($1, 'callback')", claim.job_id)
        await count_all(db)
    assert await told(db, "callback_seconds") == {"n": 1, "total": 7}


async def test_what_stood_in_an_outcome_before_it_was_counted_is_counted_with_it(db: Database, tenant: UUID) -> None:
    claim = await making.ended(db, tenant)
    await db.execute("UPDATE outcomes SET copy_seconds = 2, callback_seconds = 3, cost = 0.5")
    await db.execute("INSERT INTO uncounted SELECT $1, unnest(ARRAY['copy', 'callback'])", claim.job_id)
    # Fewer than the job has, and all of them go together.
    assert await count_some(db, 1) == 3
    assert [(await told(db, name))["total"] for name in ("copy_seconds", "callback_seconds", "cost")] == [
        2,
        3,
        Decimal("0.5"),
    ]


async def test_a_job_that_is_deleted_stays_in_the_figures(db: Database, tenant: UUID) -> None:
    for _ in range(2):
        await making.ended(db, tenant)
    await count_all(db)
    counted = await tallies(db)
    await making.ended(db, tenant)
    await db.execute("DELETE FROM jobs")
    assert await count_all(db) == 1
    assert await tallies(db) == counted
    assert (await told(db, "total_seconds"))["n"] == 2


async def test_odd_figures_of_a_model_stop_nobody(db: Database, tenant: UUID) -> None:
    usage = {f"n{number}": number for number in range(100)} | {"x" * 5_000: 1, "": -1.5, "huge": 1.7e308, "-": -1e-300}
    for _ in range(2):
        claim = await making.submitted(db, tenant)
        ending = making.completed()
        lifted = Lifted(usage=usage, timings={"wild 'name' %s {}": 1e300})
        assert await endings.settle(db, claim.job_id, 1, ending, making.heard(ending.body), "webhook", lifted)
    await count_all(db)
    assert (await told(db, "timings.model.wild 'name' %s {}"))["total"] == 2 * 10**300
    row = await db.fetchrow("SELECT count(DISTINCT measure) FROM series WHERE measure LIKE 'usage.%' AND model = ''")
    assert row is not None
    assert row["count"] == MOST_NAMES


async def test_a_sweep_counts_what_there_is_and_no_more_than_its_share(
    db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "BATCH", 2)
    monkeypatch.setattr(counting, "BATCHES", 2)
    for _ in range(5):
        await making.ended(db, tenant)
    counter = Counter(db)
    # The second finds that the first is at it.
    await asyncio.gather(counter.count(), counter.count())
    assert await making.count(db, "uncounted") == 1
    counter.stop()
    await counter.count()
    assert await making.count(db, "uncounted") == 1
