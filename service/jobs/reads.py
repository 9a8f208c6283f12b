"""Statements that read jobs. Every one names the tenant: another's job is nobody's."""

from uuid import UUID

from sqlalchemy import Uuid, and_, bindparam, case, func, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB

from service.db import Compiled, Database, Row
from service.jobs.filters import JobFilter, by_place, narrow
from service.jobs.lifecycle import WAITING, Duty
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
    if (ours := _our_id(request_id)) is not None:
        row = await db.fetchrow("SELECT id FROM jobs WHERE id = $1 AND tenant_id = $2", ours, tenant_id)
        if row is not None:
            return UUID(str(row["id"]))
    return await _find_by_provider_id(db, tenant_id, request_id)


def _our_id(request_id: str) -> UUID | None:
    try:
        ours = UUID(request_id)
    except ValueError:
        return None
    return ours if str(ours) == request_id.lower() else None


async def _find_by_provider_id(db: Database, tenant_id: UUID, request_id: str) -> UUID | None:
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


# How many jobs ahead of one in our own queue are counted, at most.
MOST_AHEAD = 1_000

_STATUS = f"""
SELECT jobs.id, jobs.model, coalesce(outcomes.status, live_jobs.status) AS status,
       coalesce(live_jobs.queue_position, CASE WHEN live_jobs.duty = '{Duty.SUBMIT}' THEN (
           SELECT count(*) FROM (
               SELECT FROM live_jobs ahead
               WHERE ahead.duty = '{Duty.SUBMIT}' AND (ahead.rank, ahead.due_at) < (live_jobs.rank, live_jobs.due_at)
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
    _summary.add_columns(jobs.c.input, jobs.c.callback_format, jobs.c.hints, outcomes.c.body).where(
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


async def events_of(db: Database, job_id: UUID, after: int = 0) -> list[Row]:
    return await db.fetch("SELECT * FROM job_events WHERE job_id = $1 AND id > $2 ORDER BY id", job_id, after)


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
