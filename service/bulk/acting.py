"""What a worker does of bulk actions: batch by batch, each written down before it is done.

A batch is planned in one statement: its jobs, the IDs of their retries, and how far the walk is. Then it is done, and
then it is recorded. Whoever goes on for a worker that died does what was planned again, which changes nothing that was
done: a job is repeated once, and by the ID of the repetition one knows by whom.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from service.bulk import asking, records
from service.bulk.lifecycle import BulkOutcome, BulkState, BulkVerb
from service.bulk.records import Action, Came, Planned
from service.context import Context
from service.db import DatabaseAway, Row
from service.errors import ServiceError
from service.jobs import endings, lists, operations, store
from service.jobs.cursors import Cursor, moment_of
from service.jobs.lifecycle import LIVE, Duty, Status
from service.pump import Pump
from service.queue import TaskName

log = structlog.get_logger()

BATCH = 100

# Who has not come back by then is dead, and somebody else goes on.
LEASE_SECONDS = 30.0

# A job's ID begins with the time at which it was made, and lists, figures and retention look for a job within a minute
# of that (jobs/cursors.py).
OLD_SECONDS = 30.0

# Repetitions wait for their turn like every other job. While so many jobs are due, no more are added, so that those
# that come meanwhile are not kept waiting by a million of old ones.
MOST_DUE = 1_000
AGAIN_IN_SECONDS = 2.0

# Of all tenants so many are looked through for one batch.
TENANTS_AT_ONCE = 20


class Actor:
    """The bulk actions of one worker process: one batch at a time, of one action after the other."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.pump = Pump("bulk", self._take, self._act, slots=1)

    async def _take(self, limit: int) -> Sequence[Action]:
        action = await records.take(self._context.db, LEASE_SECONDS)
        return [action] if action else []

    async def _act(self, action: Action) -> None:
        try:
            again_in = await carry_on(self._context, action)
        except DatabaseAway:
            raise  # It stays taken until its lease is over.
        except ServiceError as error:
            log.warning("a bulk action is put off", action=str(action.id), error=error.message)
            await records.release(self._context.db, action.id, LEASE_SECONDS, error.message)
        else:
            await records.release(self._context.db, action.id, again_in)
            if again_in:
                self._context.nudger.nudge(TaskName.BULK, after=again_in)


async def carry_on(context: Context, action: Action) -> float:
    """One batch. Returns in how many seconds the next one is to be done."""
    db = context.db
    batch = await records.planned(db, action.id, BATCH)
    if not batch and action.state is BulkState.RUNNING and not action.walk_ended:
        if action.verb is BulkVerb.RETRY and await _many_are_due(context):
            return AGAIN_IN_SECONDS
        await plan(context, action)
        batch = await records.planned(db, action.id, BATCH)
    if batch:
        came = await do(context, action, batch)
        await records.record(db, action.id, came)
    return 0.0


async def _many_are_due(context: Context) -> bool:
    row = await context.db.fetchrow(
        "SELECT count(*) FROM (SELECT FROM live_jobs"
        f" WHERE duty = '{Duty.SUBMIT}' AND due_at <= now() LIMIT {MOST_DUE}) AS due"
    )
    return row is not None and row["count"] >= MOST_DUE


async def plan(context: Context, action: Action) -> None:
    """Find the next jobs, from where the walk is, and write them down."""
    db = context.db
    wanted = asking.before(asking.filter_of(action.verb, action.conditions), action.created_at)
    tenant_id = action.of_tenant or action.walked_tenant or await records.next_tenant(db, None)
    place, planned = action.walked_to, list[Planned]()
    for _ in range(TENANTS_AT_ONCE):
        if tenant_id is None:
            break
        page = replace(wanted, limit=BATCH, cursor=Cursor(place) if place else None)
        found, older = await lists.next_ids(db, tenant_id, page)
        planned = [_planned(action.verb, job_id, tenant_id) for job_id in found]
        place = older.place if older else None
        if older is None:
            tenant_id = None if action.of_tenant else await records.next_tenant(db, tenant_id)
        if found or older:
            break
    await records.plan(db, action, planned, tenant_id, place, ended=tenant_id is None)


def _planned(verb: BulkVerb, job_id: UUID, tenant_id: UUID) -> Planned:
    return Planned(job_id, tenant_id, operations.new_job_id() if verb is BulkVerb.RETRY else None)


async def do(context: Context, action: Action, batch: Sequence[Planned]) -> list[Came]:
    """Carry it out, unless it is being aborted, and say of each what came of it."""
    if action.state is BulkState.RUNNING:
        try:
            await _do_all(context, action, batch)
        except DatabaseAway:
            raise
        except Exception:  # One of them may be what spoils it for all.
            log.exception("a batch of a bulk action failed; its jobs are tried one by one", action=str(action.id))
            failed = [await _do_one(context, action, each) for each in batch]
            spoiled = {came.job_id: came for came in failed if came is not None}
            left = [each for each in batch if each.job_id not in spoiled]
            return [*spoiled.values(), *await _look_up(context, action, left)]
    return await _look_up(context, action, batch)


async def _do_all(context: Context, action: Action, batch: Sequence[Planned]) -> None:
    job_ids = [each.job_id for each in batch]
    if action.verb is BulkVerb.RETRY:
        async with context.db.transaction() as connection:
            asked = await records.hold_planned(connection, action.id, job_ids, _is_old, operations.new_job_id)
            await store.register_retries(connection, asked)
        context.nudger.nudge(TaskName.SUBMIT)
        context.nudger.nudge(TaskName.SUBMIT_GPU)
    else:
        await endings.request_cancels(context.db, job_ids)
        context.nudger.nudge(TaskName.WATCH)


def _is_old(job_id: UUID) -> bool:
    return datetime.now(UTC) - moment_of(job_id) > timedelta(seconds=OLD_SECONDS)


async def _do_one(context: Context, action: Action, planned: Planned) -> Came | None:
    """None: it was done, or there was nothing to do."""
    try:
        await _do_all(context, action, [planned])
    except DatabaseAway:
        raise
    except Exception as error:
        log.exception("a job of a bulk action failed", job_id=str(planned.job_id))
        return Came(planned.job_id, BulkOutcome.FAILED, f"It could not be done ({type(error).__name__}).")
    return None


_LOOK_UP = """
SELECT asked.job_id, jobs.id IS NULL AS deleted, later.id AS new_job_id, outcomes.status,
       later.id = bulk_results.new_job_id AS is_ours,
       NOT EXISTS (SELECT FROM inputs WHERE inputs.job_id = asked.job_id) AS removed,
       coalesce(outcomes.cancel_requested_at, live_jobs.cancel_requested_at) AS cancel_requested_at
FROM unnest($1::uuid[]) AS asked (job_id)
LEFT JOIN bulk_results ON bulk_results.bulk_id = $2 AND bulk_results.job_id = asked.job_id
LEFT JOIN jobs ON jobs.id = asked.job_id
LEFT JOIN live_jobs ON live_jobs.job_id = asked.job_id
LEFT JOIN outcomes ON outcomes.job_id = asked.job_id
LEFT JOIN jobs AS later ON later.retry_of = asked.job_id
"""


async def _look_up(context: Context, action: Action, batch: Sequence[Planned]) -> list[Came]:
    rows = await context.db.fetch(_LOOK_UP, [each.job_id for each in batch], action.id)
    came = _retried if action.verb is BulkVerb.RETRY else _cancelled
    return [came(row, action) for row in rows]


ABORTED = "The action was aborted before it came to this job."
DELETED = "The job was deleted."


def _retried(row: Row, action: Action) -> Came:
    job_id, new_job_id = row["job_id"], row["new_job_id"]
    if row["is_ours"]:
        return Came(job_id, BulkOutcome.DONE, None, new_job_id)
    if row["deleted"]:
        words = DELETED
    elif new_job_id is not None:
        words = "It was repeated before."
    elif action.state is not BulkState.RUNNING:
        words = ABORTED
    elif row["status"] not in {Status.FAILED, Status.CANCELLED}:
        words = f"It is {row['status'] or 'not ended'}."
    elif row["removed"]:
        words = "Its input was removed, as its tenant wanted."
    else:
        words = "Its repetition was deleted."
    return Came(job_id, BulkOutcome.SKIPPED, words, new_job_id)


def _cancelled(row: Row, action: Action) -> Came:
    job_id, asked_at = row["job_id"], row["cancel_requested_at"]
    if asked_at is not None and asked_at >= action.created_at:
        return Came(job_id, BulkOutcome.DONE)
    if row["deleted"]:
        words = DELETED
    elif asked_at is not None:
        words = "Its end was asked for before."
    elif action.state is not BulkState.RUNNING and row["status"] is None:
        words = ABORTED
    else:
        words = f"It is {row['status'] or LIVE[0]}."
    return Came(job_id, BulkOutcome.SKIPPED, words)
