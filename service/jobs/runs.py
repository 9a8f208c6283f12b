"""Statements about what GPU workers do: a message that came twice begins nothing, and one that was lost is missed.

The live row's `run` is the one under way, and its `due_at` the lease on it, which every heartbeat renews.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from service.db import Database, Row
from service.jobs.guards import CHANNEL, guard, target
from service.jobs.lifecycle import AttemptState, Duty, Event
from service.jobs.turns import GONE_SECONDS

# A run that was not heard of for so long has crashed, or its machine has.
STALE_SECONDS = 15
MOST_CRASHES = 3

MOST_LINES = 2_000


class NoGo(StrEnum):
    """Why a worker is not to begin, or not to go on."""

    OVER = "over"  # it has ended, or somebody else has it
    CANCELLED = "cancelled"
    TAKEN = "taken"  # another worker is at it, or was
    CRASHED = "crashed"  # too often


@dataclass(frozen=True, slots=True)
class Started:
    """`input` is as the record holds it."""

    number: int
    model: str
    input: str


_OWNER = """
SELECT live_jobs.attempt, live_jobs.duty, live_jobs.cancel_requested_at, live_jobs.status, jobs.model,
       attempts.provider, (SELECT body FROM inputs WHERE inputs.job_id = live_jobs.job_id) AS input
FROM live_jobs JOIN jobs ON jobs.id = live_jobs.job_id
JOIN attempts ON attempts.job_id = live_jobs.job_id AND attempts.number = live_jobs.attempt
WHERE live_jobs.job_id = $1 FOR UPDATE OF live_jobs
"""
# Those that were registered first, in the order of their messages: one that is begun before another that waits longer
# makes that one's message seem lost. What has crashed before is to have a device to itself.
IN_SIGHT = 256
_IN_LINE = f"""
SELECT job_id, attempt, (SELECT body FROM inputs WHERE inputs.job_id = waiting.job_id) AS input FROM (
    SELECT live_jobs.job_id, live_jobs.attempt, coalesce(attempts.sent_at, attempts.claimed_at) AS sent_at
    FROM live_jobs JOIN jobs ON jobs.id = live_jobs.job_id
    JOIN attempts ON attempts.job_id = live_jobs.job_id AND attempts.number = live_jobs.attempt
    WHERE live_jobs.provider = 'gpu' AND live_jobs.run IS NULL AND live_jobs.duty = '{Duty.REPORT}'
      AND live_jobs.cancel_requested_at IS NULL AND jobs.model = $1
      AND NOT EXISTS (SELECT FROM runs WHERE runs.job_id = live_jobs.job_id AND runs.attempt = live_jobs.attempt)
    ORDER BY live_jobs.job_id LIMIT {IN_SIGHT}
) AS waiting
ORDER BY sent_at, job_id LIMIT $2
"""
_LAST = f"""
SELECT number, worker, ended_at IS NULL AS open, heartbeat_at > now() - interval '{STALE_SECONDS} s' AS beating,
       (SELECT count(*) FROM runs other WHERE other.job_id = $1 AND other.attempt = $2 AND how = 'crashed') AS crashes
FROM runs WHERE job_id = $1 AND attempt = $2 ORDER BY number DESC LIMIT 1
"""
_CRASH = (
    "UPDATE runs SET ended_at = clock_timestamp(), how = 'crashed' WHERE job_id = $1 AND attempt = $2 AND how IS NULL"
)
_GO_ON = f"""
WITH run AS (
    UPDATE runs SET heartbeat_at = clock_timestamp() WHERE job_id = $1 AND attempt = $2 AND number = $3
)
UPDATE live_jobs SET due_at = least(now() + interval '{STALE_SECONDS} s', deadline_at) WHERE job_id = $1
"""
_GIVE_UP = "UPDATE live_jobs SET run = NULL, due_at = now() WHERE job_id = $1"
_BEGIN = f"""
WITH run AS (
    INSERT INTO runs (job_id, attempt, number, worker, key_id, model) VALUES ($1, $2, $3, $4, $5, $6)
), was AS (
    SELECT status FROM live_jobs WHERE job_id = $1
), moved AS (
    UPDATE live_jobs
    SET run = $3, duty = '{Duty.REPORT}', queue_position = NULL, missing_since = NULL, missing_times = 0,
        started_at = coalesce(started_at, clock_timestamp()),
        due_at = least(now() + interval '{STALE_SECONDS} s', deadline_at),
        status = CASE WHEN {guard(Event.STARTED, "live_jobs.status")} THEN {target(Event.STARTED)}
                      ELSE live_jobs.status END
    WHERE job_id = $1
    RETURNING job_id, status
), tried AS (
    UPDATE attempts
    SET provider_request_id = coalesce(provider_request_id, $7),
        state = CASE WHEN state IN ('{AttemptState.SUBMITTING}', '{AttemptState.AMBIGUOUS}')
                     THEN '{AttemptState.SUBMITTED}' ELSE state END
    WHERE job_id = $1 AND number = $2
), noted AS (
    INSERT INTO job_events (job_id, event, status, attempt)
    SELECT $1, event, status, $2 FROM (
        SELECT 1 AS place, '{Event.ACCEPTED}' AS event, {target(Event.ACCEPTED)} AS status FROM was
        WHERE {guard(Event.ACCEPTED, "was.status")}
        UNION ALL
        SELECT 2, '{Event.STARTED}', {target(Event.STARTED)} FROM was WHERE {guard(Event.STARTED, "was.status")}
    ) AS both_events ORDER BY place
)
SELECT (SELECT pg_notify('{CHANNEL}', waiters.job_id::text) FROM waiters WHERE waiters.job_id = moved.job_id)
FROM moved
"""


async def start(
    db: Database,
    job_id: UUID,
    attempt: int,
    provider: str,
    worker: str,
    key_id: str,
    request_id: str,
    *,
    again: bool = False,
    fresh: bool = False,
) -> Started | NoGo:
    """A worker has the message of an attempt, for the first time or once more: may it begin?

    `again`: the process that asks did so before, so a run that it then began has not crashed; it heard no answer.
    `fresh`: it has no message, and may begin what nobody began before.
    """
    async with db.transaction() as connection:
        live = await connection.fetchrow(_OWNER, job_id)
        if live is None or (live["attempt"], live["provider"]) != (attempt, provider):
            return NoGo.OVER
        if live["duty"] in {Duty.SUBMIT, Duty.CLOSE}:
            return NoGo.OVER
        if live["cancel_requested_at"] is not None:
            return NoGo.CANCELLED
        last = await connection.fetchrow(_LAST, job_id, attempt)
        if last is not None and (fresh or (last["open"] and last["beating"] and last["worker"] != worker)):
            return NoGo.TAKEN
        if again and last is not None and last["open"] and last["worker"] == worker:
            await connection.execute(_GO_ON, job_id, attempt, last["number"])
            return Started(last["number"], live["model"], live["input"])
        crashes = 0 if last is None else int(last["crashes"]) + bool(last["open"])
        if last is not None and last["open"]:
            await connection.execute(_CRASH, job_id, attempt)
        if crashes >= MOST_CRASHES:
            await connection.execute(_GIVE_UP, job_id)
            return NoGo.CRASHED
        number = 1 if last is None else last["number"] + 1
        await connection.fetch(_BEGIN, job_id, attempt, number, worker, key_id, live["model"], request_id)
        return Started(number, live["model"], live["input"])


@dataclass(frozen=True, slots=True)
class Waiting:
    """An attempt that a worker may well get next; `input` is as the record holds it."""

    job_id: UUID
    attempt: int
    input: str


async def in_line(db: Database, model: str, most: int) -> list[Waiting]:
    """Those that wait for a worker for the first time, in their order."""
    return [Waiting(**dict(row)) for row in await db.fetch(_IN_LINE, model, most)]


_BEAT = f"""
WITH told AS (
    UPDATE runs SET heartbeat_at = clock_timestamp(), ended_at = NULL, how = NULL, done = $5, of = $6
    WHERE job_id = $1 AND attempt = $2 AND number = $3 AND worker = $4 AND how IS DISTINCT FROM 'finished'
      AND NOT EXISTS (SELECT FROM runs later WHERE later.job_id = $1 AND later.attempt = $2 AND later.number > $3)
      AND EXISTS (SELECT FROM live_jobs WHERE job_id = $1 AND attempt = $2 AND duty = '{Duty.REPORT}')
    RETURNING job_id
), renewed AS (
    UPDATE live_jobs SET run = $3, due_at = least(now() + interval '{STALE_SECONDS} s', deadline_at)
    FROM told WHERE live_jobs.job_id = told.job_id AND live_jobs.attempt = $2 AND duty = '{Duty.REPORT}'
    RETURNING live_jobs.cancel_requested_at
), lines AS (
    INSERT INTO run_logs (job_id, attempt, run, line)
    SELECT told.job_id, $2, $3, line FROM told, unnest($7::text[]) WITH ORDINALITY AS said (line, place)
    WHERE (SELECT count(*) FROM run_logs WHERE job_id = $1) < {MOST_LINES} ORDER BY place
)
SELECT cancel_requested_at IS NOT NULL AS cancelled, CASE WHEN cardinality($7::text[]) > 0 THEN (
           SELECT pg_notify('{CHANNEL}', waiters.job_id::text) FROM waiters WHERE job_id = $1) END
FROM renewed
"""


async def beat(
    db: Database,
    job_id: UUID,
    attempt: int,
    number: int,
    worker: str,
    done: int | None,
    of: int | None,
    lines: Sequence[str],
) -> NoGo | None:
    """A run is alive, and so far. Returns why it is to stop, if it is."""
    row = await db.fetchrow(_BEAT, job_id, attempt, number, worker, done, of, list(lines))
    if row is None:
        return NoGo.OVER
    return NoGo.CANCELLED if row["cancelled"] else None


async def finish(db: Database, job_id: UUID, attempt: int) -> None:
    """Its end was told."""
    await db.execute(
        "UPDATE runs SET ended_at = clock_timestamp(), how = 'finished' WHERE job_id = $1 AND attempt = $2"
        " AND how IS NULL",
        job_id,
        attempt,
    )


# A worker that nothing came to for so long idles; before that it may be between two jobs.
IDLE_SECONDS = 5
# Messages come in their order, so these show whether one is missing.
LATEST_RUNS = 10


@dataclass(frozen=True, slots=True)
class Stand:
    """Where an attempt is. `lost`: a worker idles or had a later message, so that of this attempt will not come."""

    live: bool
    beating: bool
    open: bool
    crashes: int
    workers: int
    lost: bool


_STAND = f"""
WITH mine AS (
    SELECT jobs.model, coalesce(attempts.sent_at, attempts.claimed_at) AS sent_at
    FROM live_jobs JOIN jobs ON jobs.id = live_jobs.job_id
    JOIN attempts ON attempts.job_id = live_jobs.job_id AND attempts.number = live_jobs.attempt
    WHERE live_jobs.job_id = $1 AND live_jobs.attempt = $2
), latest AS (
    SELECT begun.started_at, coalesce(attempts.sent_at, attempts.claimed_at) AS sent_at
    FROM (
        SELECT * FROM runs WHERE model = (SELECT model FROM mine) ORDER BY started_at DESC LIMIT {LATEST_RUNS}
    ) AS begun JOIN attempts ON attempts.job_id = begun.job_id AND attempts.number = begun.attempt
), last AS (
    SELECT how IS NULL AS open, heartbeat_at > now() - interval '{STALE_SECONDS} s' AS beating
    FROM runs WHERE job_id = $1 AND attempt = $2 ORDER BY number DESC LIMIT 1
), idle AS (
    SELECT count(*) AS workers, count(*) FILTER (WHERE state = 'idle') AS idle FROM gpu_workers, mine
    WHERE gpu_workers.model = mine.model AND seen_at > now() - interval '{GONE_SECONDS} s'
)
SELECT EXISTS (SELECT FROM mine) AS live,
       coalesce((SELECT open AND beating FROM last), false) AS beating,
       coalesce((SELECT open FROM last), false) AS open,
       (SELECT count(*) FROM runs WHERE job_id = $1 AND attempt = $2 AND how = 'crashed')::int4 AS crashes,
       (SELECT workers FROM idle)::int4 AS workers,
       (SELECT idle > 0 FROM idle)
           AND NOT EXISTS (SELECT FROM latest WHERE started_at > now() - interval '{IDLE_SECONDS} s')
           AND NOT EXISTS (SELECT FROM mine WHERE sent_at > now() - interval '{IDLE_SECONDS} s')
       OR EXISTS (SELECT FROM latest JOIN mine ON latest.started_at > mine.sent_at AND latest.sent_at > mine.sent_at)
           AS lost
"""


async def stand(db: Database, job_id: UUID, attempt: int) -> Stand:
    row = await db.fetchrow(_STAND, job_id, attempt)
    assert row is not None
    return Stand(**dict(row))


_PLACES = f"""
SELECT live_jobs.job_id, live_jobs.attempt,
       (row_number() OVER (PARTITION BY jobs.model ORDER BY attempts.claimed_at, jobs.id) - 1)::int4 AS ahead
FROM live_jobs JOIN jobs ON jobs.id = live_jobs.job_id
JOIN attempts ON attempts.job_id = live_jobs.job_id AND attempts.number = live_jobs.attempt
WHERE live_jobs.provider = $1 AND live_jobs.run IS NULL AND live_jobs.duty <> '{Duty.SUBMIT}'
"""


async def places(db: Database, provider: str) -> dict[tuple[UUID, int], int]:
    """Of each attempt that waits for a worker, how many of its model stand before it."""
    return {(row["job_id"], row["attempt"]): row["ahead"] for row in await db.fetch(_PLACES, provider)}


async def note_sent(db: Database, job_id: UUID, attempt: int) -> None:
    """The message of an attempt went out once more, and stands behind all others again."""
    await db.execute("UPDATE attempts SET sent_at = now() WHERE job_id = $1 AND number = $2", job_id, attempt)


_CRASHED = f"""
WITH run AS (
    UPDATE runs SET ended_at = clock_timestamp(), how = 'crashed'
    WHERE job_id = $1 AND attempt = $2 AND how IS NULL AND heartbeat_at <= now() - interval '{STALE_SECONDS} s'
    RETURNING job_id, number
), freed AS (
    UPDATE live_jobs SET run = NULL FROM run
    WHERE live_jobs.job_id = run.job_id AND live_jobs.attempt = $2 AND live_jobs.run = run.number
), said AS (
    INSERT INTO run_logs (job_id, attempt, run, line)
    SELECT job_id, $2, number, 'The worker was not heard of any more; the job is given to another.' FROM run
)
SELECT number FROM run
"""


async def crash(db: Database, job_id: UUID, attempt: int) -> bool:
    """Its run was not heard of for long: it counts as crashed. False: somebody was quicker, or it was heard of."""
    return await db.fetchrow(_CRASHED, job_id, attempt) is not None


async def hello(db: Database, worker: str, key_id: str, model: str, device: str, state: str) -> None:
    await db.execute(
        "INSERT INTO gpu_workers (id, key_id, model, device, state) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id)"
        " DO UPDATE SET key_id = $2, model = $3, device = $4, state = $5, seen_at = now()",
        worker,
        key_id,
        model,
        device,
        state,
    )


async def workers(db: Database) -> list[Row]:
    """How many of each model were heard of lately."""
    return await db.fetch(
        "SELECT model, count(*)::int4 AS workers FROM gpu_workers"
        f" WHERE seen_at > now() - interval '{GONE_SECONDS} s' GROUP BY model"
    )


async def forget_workers(db: Database) -> None:
    await db.execute("DELETE FROM gpu_workers WHERE seen_at < now() - interval '1 day'")


async def logs_of(db: Database, job_id: UUID, after: int = 0) -> list[Row]:
    return await db.fetch("SELECT * FROM run_logs WHERE job_id = $1 AND id > $2 ORDER BY id", job_id, after)
