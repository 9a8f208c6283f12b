"""Statements that read jobs. Every one names the tenant: another's job is nobody's."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ScalarSelect, Select, Uuid, and_, any_, bindparam, case, func, select, type_coerce
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from service.db import Compiled, Database, Row, Snapshot
from service.errors import Gone
from service.jobs.filters import PHASES
from service.jobs.lifecycle import WAITING, Duty, Verdict
from service.models import (
    artifacts,
    attempts,
    holds,
    inputs,
    jobs,
    live_jobs,
    outcomes,
    removals,
    reports,
    results,
    runs,
)

# What the column holds.
LARGEST_INDEX = 2**15 - 1
LARGEST_ID = 2**63 - 1

_latest = attempts.alias("latest")
_earlier = attempts.alias("earlier")
_later = jobs.alias("later")

# Of a file that stands in its link a list shows no more than that, and only the beginning of the link is read.
_source_url = case((func.lower(func.left(artifacts.c.source_url, 5)) == "data:", "data:"), else_=artifacts.c.source_url)
_shown = ((each.name, _source_url if each is artifacts.c.source_url else each) for each in artifacts.c)
_files_in_a_list = (
    select(func.jsonb_agg(func.jsonb_build_object(*(part for name, value in _shown for part in (str(name), value)))))
    .where(artifacts.c.job_id == jobs.c.id)
    .scalar_subquery()
)

# How far a GPU worker is with it.
_progress = (
    select(func.jsonb_build_object("done", runs.c.done, "of", runs.c.of))
    .where(
        runs.c.job_id == live_jobs.c.job_id,
        runs.c.attempt == live_jobs.c.attempt,
        runs.c.number == live_jobs.c.run,
        runs.c.done.is_not(None),
    )
    .scalar_subquery()
)

_file_rows = (
    select(func.jsonb_agg(type_coerce(func.to_jsonb(artifacts.table_valued()), JSONB)))
    .where(artifacts.c.job_id == jobs.c.id)
    .scalar_subquery()
)


# What every answer about a job is made of. A job has a live row or an outcome, never both.
def _told(files: ScalarSelect[Any]) -> Select[Any]:
    return (
        select(
            jobs.c.id,
            jobs.c.tenant_id,
            jobs.c.model,
            func.coalesce(outcomes.c.provider, live_jobs.c.provider, jobs.c.provider).label("provider"),
            jobs.c.asked_provider,
            jobs.c.priority,
            jobs.c.webhook_url,
            jobs.c.deadline_at,
            jobs.c.metadata,
            jobs.c.tags,
            jobs.c.retry_of,
            jobs.c.created_at,
            func.coalesce(outcomes.c.status, live_jobs.c.status).label("status"),
            live_jobs.c.queue_position,
            _progress.label("progress"),
            func.coalesce(outcomes.c.started_at, live_jobs.c.started_at).label("started_at"),
            func.coalesce(outcomes.c.cancel_requested_at, live_jobs.c.cancel_requested_at).label("cancel_requested_at"),
            outcomes.c.http_status,
            outcomes.c.error,
            outcomes.c.error_type,
            outcomes.c.seed,
            outcomes.c.usage,
            outcomes.c.model_timings,
            outcomes.c.billable_units,
            outcomes.c.cost,
            outcomes.c.received_at,
            outcomes.c.completed_at,
            *(outcomes.c[name] for name in PHASES),
            func.coalesce(outcomes.c.attempt, live_jobs.c.attempt).label("attempt"),
            _latest.c.provider_request_id,
            _latest.c.gateway_request_id,
            _latest.c.claimed_at,
            _latest.c.answered_at,
            _latest.c.state.label("attempt_state"),
            func.coalesce(_latest.c.reason, live_jobs.c.reason).label("reason"),
            select(func.count(_earlier.c.resubmitted_at))
            .where(_earlier.c.job_id == jobs.c.id)
            .scalar_subquery()
            .label("resubmissions"),
            select(_later.c.id).where(_later.c.retry_of == jobs.c.id).scalar_subquery().label("retried_as"),
            case((outcomes.c.status == "completed", files)).label("files"),
        )
        .select_from(jobs)
        .outerjoin(live_jobs, live_jobs.c.job_id == jobs.c.id)
        .outerjoin(outcomes, outcomes.c.job_id == jobs.c.id)
        .outerjoin(
            _latest,
            and_(
                _latest.c.job_id == jobs.c.id,
                _latest.c.number == func.coalesce(outcomes.c.attempt, live_jobs.c.attempt),
            ),
        )
    )


_summary = _told(_files_in_a_list)


async def find(db: Database, tenant_id: UUID | None, request_id: str) -> UUID | None:
    """A job by our ID, by the provider's request ID or by its gateway ID; of any tenant, if None is named."""
    if (ours := _our_id(request_id)) is not None:
        row = await db.fetchrow(
            "SELECT id FROM jobs WHERE id = $1 AND tenant_id = coalesce($2::uuid, tenant_id)", ours, tenant_id
        )
        if row is not None:
            return UUID(str(row["id"]))
    return await _find_by_provider_id(db, tenant_id, request_id)


def _our_id(request_id: str) -> UUID | None:
    try:
        ours = UUID(request_id)
    except ValueError:
        return None
    return ours if str(ours) == request_id.lower() else None


async def _find_by_provider_id(db: Database, tenant_id: UUID | None, request_id: str) -> UUID | None:
    if not request_id.isprintable():
        return None
    row = await db.fetchrow(
        "SELECT jobs.id FROM attempts JOIN jobs ON jobs.id = attempts.job_id"
        " WHERE (attempts.provider_request_id = $1 OR attempts.gateway_request_id = $1)"
        " AND jobs.tenant_id = coalesce($2::uuid, jobs.tenant_id)"
        " ORDER BY jobs.id DESC LIMIT 1",
        request_id,
        tenant_id,
    )
    return UUID(str(row["id"])) if row else None


# How many jobs ahead of one in our own queue are counted, at most.
MOST_AHEAD = 1_000

_STATUS = f"""
SELECT jobs.id, jobs.model, coalesce(outcomes.status, live_jobs.status) AS status,
       coalesce(live_jobs.queue_position, CASE WHEN live_jobs.duty = '{Duty.SUBMIT}' THEN (
           SELECT count(*) FROM (
               SELECT FROM live_jobs ahead
               WHERE ahead.duty = '{Duty.SUBMIT}' AND ahead.provider = live_jobs.provider
                 AND (ahead.rank, ahead.due_at) < (live_jobs.rank, live_jobs.due_at)
               LIMIT {MOST_AHEAD}
           ) AS counted
       ) END) AS queue_position,
       outcomes.http_status, outcomes.error, outcomes.error_type, outcomes.model_timings,
       outcomes.received_at - outcomes.started_at AS ran
FROM jobs
LEFT JOIN live_jobs ON live_jobs.job_id = jobs.id
LEFT JOIN outcomes ON outcomes.job_id = jobs.id
WHERE jobs.id = $1 AND jobs.tenant_id = $2
"""


async def status_of(db: Database, tenant_id: UUID, request_id: str) -> Row | None:
    """Where a job stands, by any of its IDs; by ours in one cheap statement, for those who ask again and again."""
    ours = _our_id(request_id)
    row = await db.fetchrow(_STATUS, ours, tenant_id) if ours else None
    if row is None and (found := await _find_by_provider_id(db, tenant_id, request_id)):
        row = await db.fetchrow(_STATUS, found, tenant_id)
    return row


async def waiting_jobs(db: Database, tenant_id: UUID, model: str, limit: int) -> int:
    """How many jobs of a model the tenant has that have not started, counted up to `limit`."""
    row = await db.fetchrow(
        "SELECT count(*) FROM (SELECT FROM live_jobs JOIN jobs ON jobs.id = live_jobs.job_id"
        " WHERE live_jobs.tenant_id = $1 AND live_jobs.status = ANY ($2) AND jobs.model = $3 LIMIT $4) AS counted",
        tenant_id,
        [status.value for status in WAITING],
        model,
        limit,
    )
    return int(row["count"]) if row else 0


_one = Compiled(
    _told(_file_rows)
    .add_columns(
        inputs.c.body.label("input"),
        jobs.c.callback_format,
        jobs.c.hints,
        results.c.body,
        select(func.trim_scale(func.sum(_earlier.c.cost)))
        .where(_earlier.c.job_id == jobs.c.id)
        .scalar_subquery()
        .label("cost_of_others"),
        select(holds.c.since).where(holds.c.job_id == jobs.c.id).scalar_subquery().label("held_since"),
        select(func.jsonb_object_agg(removals.c.part, type_coerce(func.to_jsonb(removals.table_valued()), JSONB)))
        .where(removals.c.job_id == jobs.c.id)
        .scalar_subquery()
        .label("removed"),
    )
    .outerjoin(inputs, inputs.c.job_id == jobs.c.id)
    .outerjoin(results, results.c.job_id == jobs.c.id)
    .where(jobs.c.id == bindparam("job_id", type_=Uuid), jobs.c.tenant_id == bindparam("tenant_id", type_=Uuid))
)


# The names of what a job is told from.
COLUMNS = (
    *(column.name for column in _summary.selected_columns),
    *("input", "body", "cost_of_others", "held_since", "removed"),
)


async def get(db: Database, tenant_id: UUID, job_id: UUID) -> Row | None:
    """One job, with its input and the body it ended with, where they are still there."""
    return await db.fetchrow(_one.sql, *_one.values(job_id=job_id, tenant_id=tenant_id))


_several = Compiled(
    _summary.where(
        jobs.c.id == any_(bindparam("job_ids", type_=ARRAY(Uuid))),
        jobs.c.tenant_id == any_(bindparam("tenants", type_=ARRAY(Uuid))),
    )
)


async def several(snapshot: Snapshot, tenants: Sequence[UUID], job_ids: Sequence[UUID]) -> list[Row]:
    """Jobs of these tenants without input and body, in this order."""
    rows = await snapshot.fetch(_several.sql, *_several.values(job_ids=list(job_ids), tenants=list(tenants)))
    found = {row["id"]: row for row in rows}
    return [found[job_id] for job_id in job_ids]


# So much of an input, and of an output's text, is read to show what a job is about.
EXCERPT = 2_000


async def excerpts(db: Database, job_ids: Sequence[UUID]) -> dict[UUID, Row]:
    """The beginnings of `input` and of the output's `text`; null where there is none."""
    rows = await db.fetch(
        f"SELECT jobs.id, left(inputs.body, {EXCERPT}) AS input, left(results.text, {EXCERPT}) AS text"
        " FROM jobs LEFT JOIN inputs ON inputs.job_id = jobs.id LEFT JOIN results ON results.job_id = jobs.id"
        " WHERE jobs.id = ANY ($1)",
        list(job_ids),
    )
    return {row["id"]: row for row in rows}


async def ended_by(db: Database, job_id: UUID) -> str | None:
    """How the news came that ended a job."""
    row = await db.fetchrow("SELECT source FROM outcomes WHERE job_id = $1", job_id)
    return str(row["source"]) if row else None


async def heard_late(db: Database, job_id: UUID) -> bool:
    """Whether something was heard of a job after it had ended by something else."""
    late = (Verdict.LATE.value, Verdict.CONFLICT.value)
    found = await db.fetchrow(
        "SELECT FROM reports WHERE job_id = $1 AND verdict = ANY ($2::text[]) LIMIT 1", job_id, late
    )
    return found is not None


async def copies_owed(db: Database, job_id: UUID) -> int:
    row = await db.fetchrow("SELECT count(*) FROM copies WHERE job_id = $1", job_id)
    return int(row["count"]) if row else 0


async def live_of(db: Database, job_id: UUID) -> Row | None:
    """What is owed to a job and when, with the seconds until then. None: it has ended."""
    return await db.fetchrow(
        "SELECT *, extract(epoch FROM due_at - now())::float8 AS due_in FROM live_jobs WHERE job_id = $1", job_id
    )


async def is_over(db: Database, job_id: UUID) -> tuple[bool, bool]:
    """Whether a job has ended, and whether all its files are copied or given up."""
    row = await db.fetchrow(
        "SELECT NOT EXISTS (SELECT FROM live_jobs WHERE job_id = $1) AS ended,"
        " NOT EXISTS (SELECT FROM copies WHERE job_id = $1) AS copied",
        job_id,
    )
    return (bool(row["ended"]), bool(row["copied"])) if row else (True, True)


# The one that completed the job costs what the job does.
_attempts = Compiled(
    select(
        *(column for column in attempts.c if column is not attempts.c.cost),
        func.coalesce(attempts.c.cost, outcomes.c.cost).label("cost"),
    )
    .outerjoin(outcomes, and_(outcomes.c.job_id == attempts.c.job_id, outcomes.c.attempt == attempts.c.number))
    .where(attempts.c.job_id == bindparam("job_id", type_=Uuid))
    .order_by(attempts.c.number)
)


async def attempts_of(db: Database, job_id: UUID) -> list[Row]:
    return await db.fetch(_attempts.sql, *_attempts.values(job_id=job_id))


async def events_of(db: Database, job_id: UUID, after: int = 0) -> list[Row]:
    """Each with the provider of its attempt, if it is of one."""
    return await db.fetch(
        "SELECT job_events.*, attempts.provider FROM job_events LEFT JOIN attempts"
        " ON attempts.job_id = job_events.job_id AND attempts.number = job_events.attempt"
        " WHERE job_events.job_id = $1 AND job_events.id > $2 ORDER BY job_events.id",
        job_id,
        after,
    )


_report = select(
    reports.c.id,
    reports.c.attempt,
    reports.c.source,
    reports.c.received_at,
    reports.c.http_status,
    reports.c.headers,
    reports.c.verdict,
    reports.c.times,
    reports.c.last_received_at,
    func.coalesce(reports.c.removed_size, func.length(reports.c.body)).label("size"),
    case(
        (reports.c.removed_size.is_not(None), reports.c.removed_sha256),
        else_=func.encode(func.sha256(reports.c.body), "hex"),
    ).label("sha256"),
)


async def evidence_of(db: Database, job_id: UUID, after: int, limit: int) -> list[Row]:
    """What providers said of a job, in order, from the report after this one on; without the bytes."""
    wanted = _report.where(reports.c.job_id == job_id, reports.c.id > after).order_by(reports.c.id).limit(limit)
    return await db.run(wanted)


async def report_of(db: Database, job_id: UUID, report_id: int) -> Row | None:
    """One of them."""
    if report_id > LARGEST_ID:
        return None
    rows = await db.run(_report.where(reports.c.job_id == job_id, reports.c.id == report_id))
    return rows[0] if rows else None


async def report_body(db: Database, job_id: UUID, report_id: int) -> bytes | None:
    """None: there is no such report. Raises Gone."""
    row = await db.fetchrow("SELECT body, removed_size FROM reports WHERE job_id = $1 AND id = $2", job_id, report_id)
    if row is not None and row["removed_size"] is not None:
        raise Gone("The bytes of this report were removed, as its tenant wanted.", request_id=str(job_id))
    return row["body"] if row else None


async def file_of(db: Database, job_id: UUID, kind: str, index: int) -> Row | None:
    if index > LARGEST_INDEX:
        return None
    return await db.fetchrow(
        "SELECT artifacts.*, blobs.size, blobs.content_type AS stored_type FROM artifacts"
        " LEFT JOIN blobs ON blobs.sha256 = artifacts.sha256"
        " WHERE job_id = $1 AND kind = $2 AND index = $3",
        job_id,
        kind,
        index,
    )
