"""Statements that read jobs. Every one names the tenant: another's job is nobody's."""

from uuid import UUID

from sqlalchemy import Uuid, and_, bindparam, case, func, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB

from service.db import Compiled, Database, Row
from service.jobs.filters import JobFilter, by_place, narrow
from service.models import artifacts, attempts, jobs, live_jobs, outcomes, reports

# What the column holds.
LARGEST_INDEX = 2**15 - 1

_latest = attempts.alias("latest")
_earlier = attempts.alias("earlier")
_later = jobs.alias("later")

_file_rows = (
    select(func.jsonb_agg(type_coerce(func.to_jsonb(artifacts.table_valued()), JSONB)))
    .where(artifacts.c.job_id == jobs.c.id)
    .scalar_subquery()
)

# What every answer about a job is made of. A job has a live row or an outcome, never both.
_summary = (
    select(
        jobs.c.id,
        jobs.c.tenant_id,
        jobs.c.model,
        jobs.c.provider,
        jobs.c.priority,
        jobs.c.webhook_url,
        jobs.c.deadline_at,
        jobs.c.metadata,
        jobs.c.tags,
        jobs.c.retry_of,
        jobs.c.created_at,
        func.coalesce(outcomes.c.status, live_jobs.c.status).label("status"),
        live_jobs.c.queue_position,
        func.coalesce(outcomes.c.started_at, live_jobs.c.started_at).label("started_at"),
        func.coalesce(outcomes.c.cancel_requested_at, live_jobs.c.cancel_requested_at).label("cancel_requested_at"),
        outcomes.c.http_status,
        outcomes.c.error,
        outcomes.c.error_type,
        outcomes.c.seed,
        outcomes.c.usage,
        outcomes.c.model_timings,
        outcomes.c.received_at,
        outcomes.c.completed_at,
        func.coalesce(outcomes.c.attempt, live_jobs.c.attempt).label("attempt"),
        _latest.c.provider_request_id,
        _latest.c.gateway_request_id,
        _latest.c.claimed_at,
        _latest.c.answered_at,
        _latest.c.state.label("attempt_state"),
        select(func.count(_earlier.c.resubmitted_at))
        .where(_earlier.c.job_id == jobs.c.id)
        .scalar_subquery()
        .label("resubmissions"),
        select(_later.c.id).where(_later.c.retry_of == jobs.c.id).scalar_subquery().label("retried_as"),
        case((outcomes.c.status == "completed", _file_rows)).label("files"),
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


async def find(db: Database, tenant_id: UUID, request_id: str) -> UUID | None:
    """A job by our ID, by the provider's request ID or by its gateway ID."""
    try:
        ours = UUID(request_id)
    except ValueError:
        ours = None
    if ours is not None and str(ours) == request_id.lower():
        row = await db.fetchrow("SELECT id FROM jobs WHERE id = $1 AND tenant_id = $2", ours, tenant_id)
        if row is not None:
            return UUID(str(row["id"]))
    if not request_id.isprintable():
        return None
    row = await db.fetchrow(
        "SELECT jobs.id FROM attempts JOIN jobs ON jobs.id = attempts.job_id"
        " WHERE (attempts.provider_request_id = $1 OR attempts.gateway_request_id = $1) AND jobs.tenant_id = $2"
        " ORDER BY jobs.id DESC LIMIT 1",
        request_id,
        tenant_id,
    )
    return UUID(str(row["id"])) if row else None


_one = Compiled(
    _summary.add_columns(jobs.c.input, outcomes.c.body).where(
        jobs.c.id == bindparam("job_id", type_=Uuid), jobs.c.tenant_id == bindparam("tenant_id", type_=Uuid)
    )
)


# The names of what a job is told from.
COLUMNS = (*(column.name for column in _summary.selected_columns), "input", "body")


async def get(db: Database, tenant_id: UUID, job_id: UUID) -> Row | None:
    """One job, with its input and the body it ended with."""
    return await db.fetchrow(_one.sql, *_one.values(job_id=job_id, tenant_id=tenant_id))


async def page(db: Database, tenant_id: UUID, wanted: JobFilter) -> list[Row]:
    """Newest first, and one more than was asked for when there are more."""
    found: dict[UUID, Row] = {}
    for part in by_place(wanted):
        # A job that ends between two parts is in both; the later look is the truer one.
        found.update((row["id"], row) for row in await db.run(narrow(_summary, tenant_id, part)))
    return [found[job_id] for job_id in sorted(found, reverse=True)[: wanted.limit + 1]]


async def is_over(db: Database, job_id: UUID) -> tuple[bool, bool]:
    """Whether a job has ended, and whether all its files are copied or given up."""
    row = await db.fetchrow(
        "SELECT NOT EXISTS (SELECT FROM live_jobs WHERE job_id = $1) AS ended,"
        " NOT EXISTS (SELECT FROM copies WHERE job_id = $1) AS copied",
        job_id,
    )
    return (bool(row["ended"]), bool(row["copied"])) if row else (True, True)


async def attempts_of(db: Database, job_id: UUID) -> list[Row]:
    return await db.fetch("SELECT * FROM attempts WHERE job_id = $1 ORDER BY number", job_id)


async def events_of(db: Database, job_id: UUID) -> list[Row]:
    return await db.fetch("SELECT * FROM job_events WHERE job_id = $1 ORDER BY id", job_id)


_report = select(
    reports.c.id,
    reports.c.attempt,
    reports.c.source,
    reports.c.received_at,
    reports.c.http_status,
    reports.c.headers,
    reports.c.verdict,
    func.length(reports.c.body).label("size"),
    func.encode(func.sha256(reports.c.body), "hex").label("sha256"),
)


async def evidence_of(db: Database, job_id: UUID, after: int, limit: int) -> list[Row]:
    """What providers said of a job, in order, from the report after this one on; without the bytes."""
    wanted = _report.where(reports.c.job_id == job_id, reports.c.id > after).order_by(reports.c.id).limit(limit)
    return await db.run(wanted)


async def report_body(db: Database, job_id: UUID, report_id: int) -> bytes | None:
    row = await db.fetchrow("SELECT body FROM reports WHERE job_id = $1 AND id = $2", job_id, report_id)
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
