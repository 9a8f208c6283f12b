"""Counts ended jobs into the figures that are kept: each once, in batches, whatever dies in between.

A job that ended has a mark in `uncounted`. One transaction takes marks away, fills in what is known only after the
end, and adds to the tallies; counters take turns, so what one reads no other changes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from service.db import Database, Row
from service.jobs.endings import between
from service.jobs.filters import PHASES
from service.stats.measures import ALL_TENANTS, COST, ERRORS, OF_ALL_TENANTS, TOTAL, bucket_of, clipped, values_of
from service.stats.prices import cost_of

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

# Counters of all processes come one after the other.
TURN = 0x636F756E

# Marks that a sweep counts in one transaction, and transactions of one sweep.
BATCH = 2_000
BATCHES = 20
# Of a whole installation at once: the more jobs, the less often a tally is written.
LARGE_BATCH = 100_000
LARGE_BATCH_SECONDS = 600

# With the job all that is known of it by then; later only what came in later.
_SIZES = {phase: f"CASE WHEN ended THEN {phase} END" for phase in PHASES} | {
    "copy_seconds": "CASE WHEN ended THEN coalesce(copy_seconds, copy_came) ELSE copy_came END",
    "callback_seconds": "CASE WHEN ended THEN coalesce(callback_seconds, callback_came) ELSE callback_came END",
    COST: "CASE WHEN ended THEN coalesce(cost, cost_came) END",
}


# All marks of a job go together, `end` with or before the others: what was filled in before the job was counted is
# counted with it, what comes after is counted when it is filled in.
_TAKE = """
WITH oldest AS (
    SELECT DISTINCT job_id FROM (SELECT job_id FROM uncounted ORDER BY job_id LIMIT $1) AS marks
), locked AS (
    SELECT uncounted.job_id, uncounted.part FROM uncounted JOIN oldest USING (job_id)
    FOR UPDATE OF uncounted SKIP LOCKED
), taken AS (
    DELETE FROM uncounted USING locked WHERE uncounted.job_id = locked.job_id AND uncounted.part = locked.part
    RETURNING uncounted.job_id, uncounted.part
)
SELECT coalesce(array_agg(job_id), '{}') AS jobs, coalesce(array_agg(part), '{}') AS parts FROM taken
"""

# $1 jobs, $2 parts. A statement of its own, because it has to see all that was recorded before the marks were locked.
# While copies of a job are owed, its mark is dropped: the last copy writes it again.
_COUNT = f"""
WITH asked AS (
    SELECT job_id, bool_or(part = 'end') AS ended, bool_or(part = 'copy') AS copied, bool_or(part = 'callback') AS told
    FROM unnest($1::uuid[], $2::text[]) AS mark (job_id, part) GROUP BY job_id
), late AS MATERIALIZED (
    SELECT outcomes.*, asked.ended,
        CASE WHEN asked.copied AND copy_seconds IS NULL
                  AND NOT EXISTS (SELECT FROM copies WHERE copies.job_id = outcomes.job_id) THEN (
            SELECT {between("outcomes.completed_at", "max(stored_at)")} FROM artifacts
            WHERE artifacts.job_id = outcomes.job_id
        ) END AS copy_came,
        CASE WHEN asked.told AND callback_seconds IS NULL THEN (
            SELECT {between("outcomes.completed_at", "min(at + make_interval(secs => coalesce(seconds, 0)))")}
            FROM callback_tries WHERE callback_tries.job_id = outcomes.job_id AND error IS NULL
        ) END AS callback_came,
        CASE WHEN asked.ended AND cost IS NULL THEN {cost_of("outcomes")} END AS cost_came
    FROM asked JOIN outcomes USING (job_id)
), filled AS (
    UPDATE outcomes
    SET copy_seconds = coalesce(outcomes.copy_seconds, copy_came), cost = coalesce(outcomes.cost, cost_came),
        callback_seconds = coalesce(outcomes.callback_seconds, callback_came)
    FROM late
    WHERE outcomes.job_id = late.job_id AND num_nonnulls(copy_came, callback_came, cost_came) > 0
), kind AS MATERIALIZED (
    SELECT row_number() OVER () AS kind, each.* FROM (
        SELECT DISTINCT tenant_id, model, provider, status FROM late
    ) AS each
), job AS MATERIALIZED (
    SELECT kind.kind, date_trunc('hour', late.created_at, 'UTC') AS hour, late.*
    FROM late JOIN kind ON kind.tenant_id = late.tenant_id AND kind.model = late.model
      AND kind.provider = late.provider AND kind.status = late.status
), told AS MATERIALIZED (
    {values_of("job", "job.kind, job.hour", _SIZES, told="job.ended")}
    UNION ALL
    SELECT job.kind, job.hour, '{ERRORS}' || coalesce(error_type, ''), {TOTAL}::numeric, {TOTAL} FROM job WHERE ended
), hourly AS MATERIALIZED (
    SELECT kind, measure, hour, {bucket_of("size")} AS bucket, count(*)::int4 AS n FROM told GROUP BY 1, 2, 3, 4
), hours AS MATERIALIZED (
    SELECT kind, measure, hour, sum(exact) AS total FROM told GROUP BY 1, 2, 3
), met AS MATERIALIZED (
    -- Each for itself and with others: few questions tell models and providers apart, few of how long jobs took their
    -- statuses, and few of an operator's their tenants.
    SELECT kind, owner.tenant_id, measure, place.model, place.provider, how.status
    FROM (SELECT DISTINCT kind, measure FROM hours) AS told JOIN kind USING (kind)
    CROSS JOIN LATERAL (VALUES (kind.tenant_id), ('{ALL_TENANTS}')) AS owner (tenant_id)
    CROSS JOIN LATERAL (VALUES (kind.model, kind.provider), ('', '')) AS place (model, provider)
    CROSS JOIN LATERAL (VALUES (kind.status), ('')) AS how (status)
    WHERE (how.status <> '' OR measure = '{TOTAL}')
      AND (owner.tenant_id <> '{ALL_TENANTS}' OR measure IN ({", ".join(f"'{name}'" for name in OF_ALL_TENANTS)}))
), added AS (
    INSERT INTO series (tenant_id, measure, model, provider, status)
    SELECT DISTINCT tenant_id, measure, model, provider, status FROM met
    WHERE NOT EXISTS (
        SELECT FROM series WHERE series.tenant_id = met.tenant_id AND series.measure = met.measure
          AND series.model = met.model AND series.provider = met.provider AND series.status = met.status
    )
    RETURNING *
), known AS MATERIALIZED (
    SELECT met.kind, met.measure, found.id FROM met
    JOIN (SELECT series.* FROM series UNION ALL SELECT * FROM added) AS found
    USING (tenant_id, measure, model, provider, status)
), by_hour AS MATERIALIZED (
    SELECT id AS series_id, 0::int2 AS grain, hour AS start, bucket, sum(n)::int4 AS n, NULL::numeric AS total
    FROM hourly JOIN known USING (kind, measure) GROUP BY 1, 3, 4
    UNION ALL
    SELECT id, 0::int2, hour, NULL, NULL, sum(total) FROM hours JOIN known USING (kind, measure) GROUP BY 1, 3
), by_day AS MATERIALIZED (
    SELECT series_id, 1::int2 AS grain, date_trunc('day', start, 'UTC') AS start, bucket, sum(n)::int4 AS n,
           sum(total) AS total
    FROM by_hour GROUP BY 1, 3, 4
), added_up AS MATERIALIZED (
    SELECT * FROM by_hour UNION ALL SELECT * FROM by_day UNION ALL
    SELECT series_id, 2::int2, date_trunc('month', start, 'UTC'), bucket, sum(n)::int4, sum(total)
    FROM by_day GROUP BY 1, 3, 4
), before AS MATERIALIZED (
    -- OFFSET 0 keeps this a look-up by key for one after the other, also while PostgreSQL takes the table for empty.
    SELECT stands.* FROM (SELECT series_id, grain, start FROM added_up WHERE bucket IS NULL) AS cell
    CROSS JOIN LATERAL (
        SELECT * FROM tallies
        WHERE tallies.series_id = cell.series_id AND tallies.grain = cell.grain AND tallies.start = cell.start
        OFFSET 0
    ) AS stands
), spread AS (
    -- Beside the buckets there is a row without one, which has the total.
    SELECT series_id, grain, start, bucket, {clipped("sum(n)")} AS n, sum(total) AS total FROM (
        SELECT * FROM added_up
        UNION ALL SELECT series_id, grain, start, unnest(buckets), unnest(counts), NULL FROM before
        UNION ALL SELECT series_id, grain, start, NULL, NULL, sum FROM before
    ) AS all_of_them GROUP BY 1, 2, 3, 4
)
INSERT INTO tallies (series_id, grain, start, n, sum, buckets, counts)
SELECT series_id, grain, start, sum(n), sum(total), array_agg(bucket ORDER BY bucket) FILTER (WHERE bucket IS NOT NULL),
       array_agg(n ORDER BY bucket) FILTER (WHERE bucket IS NOT NULL)
FROM spread GROUP BY 1, 2, 3
ON CONFLICT (series_id, grain, start) DO UPDATE
SET n = excluded.n, sum = excluded.sum, buckets = excluded.buckets, counts = excluded.counts
"""


async def count_some(db: Database, limit: int = BATCH) -> int:
    """Count jobs with up to so many marks, oldest first. Returns the number of marks that were taken."""
    is_large = limit > BATCH
    async with db.in_turn(TURN) as connection:
        taken = await connection.fetchrow(_TAKE, limit)
        assert taken is not None
        if taken["jobs"]:
            # What is good for ten jobs is not for ten thousand, so it is planned each time.
            await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
            await connection.execute(f"SET LOCAL work_mem = '{'256MB' if is_large else '32MB'}'")
            if is_large:
                await connection.execute(f"SET LOCAL statement_timeout = {LARGE_BATCH_SECONDS * 1_000}")
            patience = LARGE_BATCH_SECONDS if is_large else None
            await connection.execute(_COUNT, taken["jobs"], taken["parts"], timeout=patience)
        return len(taken["jobs"])


_TAKE_OF = """
WITH taken AS (
    DELETE FROM uncounted WHERE job_id = ANY ($1::uuid[]) RETURNING job_id, part
)
SELECT coalesce(array_agg(job_id), '{}') AS jobs, coalesce(array_agg(part), '{}') AS parts FROM taken
"""


async def count_jobs(connection: "PoolConnectionProxy[Row]", job_ids: Sequence[UUID]) -> None:
    """Count what is not counted of these jobs, in a transaction that has the `TURN`."""
    taken = await connection.fetchrow(_TAKE_OF, job_ids)
    assert taken is not None
    if taken["jobs"]:
        await connection.execute(_COUNT, taken["jobs"], taken["parts"])


async def count_all(db: Database, batch: int = LARGE_BATCH) -> int:
    """Count all that has ended so far. Returns the number of marks."""
    counted = 0
    while taken := await count_some(db, batch):
        counted += taken
    return counted


class Counter:
    """What a worker counts when it sweeps: so much that its thread is back soon, and never twice at once."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._busy = False
        self._stopped = False

    def stop(self) -> None:
        """After the batch that is under way."""
        self._stopped = True

    async def count(self) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            for _ in range(BATCHES):
                if self._stopped or await count_some(self._db, BATCH) < BATCH:
                    return
        finally:
            self._busy = False
