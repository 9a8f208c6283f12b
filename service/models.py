"""Every table on one page.

A job's request never changes (`jobs`). Until it ends, it has one narrow row in `live_jobs`, which says
what is owed to it and when; when it ends, that row is deleted and one row of `outcomes` is inserted, in
one statement. So the changing table stays as small as the work in hand, every job has exactly one end
because `outcomes` has its ID as primary key, and nothing in ten million rows is updated.
"""

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from service.callbacks.lifecycle import CallbackFormat, CallbackState
from service.jobs.lifecycle import ENDED, LIVE, AttemptState, Duty, OnDoubt, Source, Verdict

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Moment = DateTime(timezone=True)


def one_of(column: str, words: Iterable[str]) -> CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def job_column(*, primary_key: bool = False) -> Column[UUID]:
    return Column("job_id", Uuid, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, primary_key=primary_key)


tenants = Table(
    "tenants",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("on_doubt", Text, nullable=False, server_default=text(f"'{OnDoubt.RESUBMIT}'")),
    # For so many seconds the fal front door takes a submission without a key that was sent before as that one.
    Column("join_seconds", Double),
    # The secret of its callbacks is derived from this number; the one before it holds for a day after a rotation.
    Column("callback_format", Text, nullable=False, server_default=text(f"'{CallbackFormat.FAL}'")),
    Column("callback_secret", Integer, nullable=False, server_default=text("1")),
    Column("callback_secret_rotated_at", Moment),
    one_of("on_doubt", OnDoubt),
    one_of("callback_format", CallbackFormat),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), nullable=False),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("revoked_at", Moment),
)

# Secrets that every process of one installation shares, made by the first that needs them.
server_secrets = Table(
    "server_secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
)

# Providers to which nothing is submitted for now: they take nothing from this account, or an operator said so.
# `probe_at` is when one job is to try again; null: only the operator ends it.
provider_pauses = Table(
    "provider_pauses",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("http_status", SmallInteger),
    Column("paused_at", Moment, nullable=False, server_default=func.now()),
    Column("probe_at", Moment),
)

# What the client asked for, word for word: `input` is the JSON text that is sent on, except that a file that came in
# it as a data URI is named there (see artifacts/inputs.py). `hints` are headers of fal's that go on to the provider;
# `callback_format` is set where the callback has to look otherwise than the tenant wants its own.
jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), nullable=False),
    Column("model", Text, nullable=False),
    Column("input", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("priority", Text, nullable=False),
    Column("webhook_url", Text),
    Column("callback_format", Text),
    Column("hints", JSONB(none_as_null=True), nullable=False, server_default=text("'{}'")),
    Column("deadline_at", Moment),
    Column("metadata", JSONB(none_as_null=True), nullable=False),
    Column("tags", ARRAY(Text), nullable=False),
    Column("retry_of", Uuid, ForeignKey("jobs.id", ondelete="SET NULL")),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    one_of("callback_format", CallbackFormat),
    Index("ix_jobs_tenant_id_id", "tenant_id", "id"),
    Index("ix_jobs_tenant_id_model_id", "tenant_id", "model", "id"),
    Index("ix_jobs_tags", "tags", postgresql_using="gin", postgresql_where=text("tags <> '{}'")),
    Index(
        "ix_jobs_metadata",
        "metadata",
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
        postgresql_where=text("metadata <> '{}'"),
    ),
    Index("uq_jobs_retry_of", "retry_of", unique=True, postgresql_where=text("retry_of IS NOT NULL")),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    job_column(),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Index("ix_idempotency_keys_created_at", "created_at"),
    Index("ix_idempotency_keys_job_id", "job_id"),
)

# A job that has not ended. `due_at` is when somebody must look at it next, `duty` what they owe it.
live_jobs = Table(
    "live_jobs",
    metadata,
    job_column(primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("status", Text, nullable=False),
    Column("duty", Text, nullable=False),
    Column("due_at", Moment, nullable=False, server_default=func.now()),
    Column("rank", SmallInteger, nullable=False),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("queue_position", Integer),
    Column("started_at", Moment),
    Column("deadline_at", Moment),
    Column("cancel_requested_at", Moment),
    # For how long it was put off in all because nobody took it. A pause, or workers that are away, do not count.
    Column("refused_seconds", Double, nullable=False, server_default=text("0")),
    # Since when, and how often, the provider says that it does not know the request.
    Column("missing_since", Moment),
    Column("missing_times", SmallInteger, nullable=False, server_default=text("0")),
    one_of("status", LIVE),
    one_of("duty", Duty),
    Index("ix_live_jobs_to_submit", "rank", "due_at", postgresql_where=text("duty = 'submit'")),
    Index("ix_live_jobs_due", "due_at", postgresql_where=text("duty <> 'submit'")),
    Index("ix_live_jobs_deadline", "deadline_at", postgresql_where=text("duty = 'submit' AND deadline_at IS NOT NULL")),
    postgresql_with={
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_threshold": 500,
        "autovacuum_vacuum_cost_delay": 0,
    },
)

# One submission to one provider, written before the provider is called. `resubmitted_at` is set when its answer
# was lost and the job is submitted again: the one way to pay twice, so nothing clears it.
attempts = Table(
    "attempts",
    metadata,
    job_column(primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("provider_request_id", Text),
    Column("gateway_request_id", Text),
    Column("response_url", Text),
    Column("status_url", Text),
    Column("cancel_url", Text),
    Column("claimed_at", Moment, nullable=False, server_default=func.now()),
    Column("answered_at", Moment),
    Column("ended_at", Moment),
    Column("resubmitted_at", Moment),
    Column("stop_due_at", Moment),
    Column("stop_tries", SmallInteger, nullable=False, server_default=text("0")),
    Column("http_status", SmallInteger),
    Column("error", Text),
    one_of("state", AttemptState),
    Index(
        "ix_attempts_provider_request_id",
        "provider_request_id",
        postgresql_where=text("provider_request_id IS NOT NULL"),
    ),
    Index(
        "ix_attempts_gateway_request_id",
        "gateway_request_id",
        postgresql_where=text("gateway_request_id IS NOT NULL"),
    ),
    Index("ix_attempts_to_stop", "stop_due_at", postgresql_where=text("state = 'superseded' AND ended_at IS NULL")),
)

# Evidence: what a provider said, to the byte, how it reached us, and what was made of it. No foreign
# key to attempts: a report about an attempt that this database does not know is kept as well.
reports = Table(
    "reports",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("job_id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("received_at", Moment, nullable=False),
    Column("http_status", SmallInteger),
    Column("headers", JSONB(none_as_null=True), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("verdict", Text, nullable=False),
    # A poll that hears the same words again is counted here.
    Column("times", Integer, nullable=False, server_default=text("1")),
    Column("last_received_at", Moment),
    one_of("source", Source),
    one_of("verdict", Verdict),
    Index("ix_reports_job_id", "job_id"),
)

# How a job ended. Inserted once, by the statement that deletes its live row.
outcomes = Table(
    "outcomes",
    metadata,
    job_column(primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("http_status", SmallInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("error_type", Text),
    Column("error", Text),
    Column("text", Text),
    Column("seed", Numeric),
    Column("usage", JSONB(none_as_null=True), nullable=False),
    Column("model_timings", JSONB(none_as_null=True), nullable=False),
    Column("started_at", Moment),
    Column("cancel_requested_at", Moment),
    Column("received_at", Moment, nullable=False),
    Column("completed_at", Moment, nullable=False),
    one_of("status", ENDED),
    CheckConstraint("(status = 'completed') = (error IS NULL)", name="error_iff_not_completed"),
    Index("ix_outcomes_tenant_id_status_job_id", "tenant_id", "status", "job_id"),
)

# The bytes of a stored file, named by their SHA-256 (lower-case hex).
blobs = Table(
    "blobs",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("width", Integer),
    Column("height", Integer),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
)

# A file whose address is given out before its bytes come. Who has the `ticket` may send them, once, until it expires.
uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("ticket", Text, nullable=False, unique=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), nullable=False),
    Column("file_name", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("sha256", Text, ForeignKey("blobs.sha256")),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Index("ix_uploads_created_at", "created_at", postgresql_where=text("sha256 IS NULL")),
)

# A file named in an output: a mask or an image, with the provider's claims and, once its copy is
# stored (`sha256`), what was measured in it. `bbox` is x0, y0, x1, y1 in pixels, half open.
artifacts = Table(
    "artifacts",
    metadata,
    job_column(primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("index", SmallInteger, primary_key=True),
    Column("label", Text),
    Column("source_url", Text, nullable=False),
    Column("content_type", Text),
    Column("file_name", Text),
    Column("file_size", BigInteger),
    Column("width", Integer),
    Column("height", Integer),
    Column("sha256", Text, ForeignKey("blobs.sha256")),
    Column("stored_at", Moment),
    Column("area_fraction", Double),
    Column("bbox", ARRAY(Integer)),
    Column("copy_error", Text),
    one_of("kind", ("mask", "image")),
    Index("ix_artifacts_sha256", "sha256", postgresql_where=text("sha256 IS NOT NULL")),
)

# Files whose copy is still owed; a row goes when the copy is stored or given up.
copies = Table(
    "copies",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("index", SmallInteger, primary_key=True),
    Column("due_at", Moment, nullable=False, server_default=func.now()),
    Column("tries", SmallInteger, nullable=False, server_default=text("0")),
    ForeignKeyConstraint(
        ["job_id", "kind", "index"],
        ["artifacts.job_id", "artifacts.kind", "artifacts.index"],
        ondelete="CASCADE",
        name="fk_copies_artifact",
    ),
    Index("ix_copies_due_at", "due_at"),
)

# What a client is told of a job's end. Inserted by the statement that ends the job; `body`, and the format that it
# is in, are written once, before the first byte goes out. `due_at` is when it is tried next, or while it is `leased`,
# when its worker is taken for dead. `tries` and `begun_at` are those of the present series: a redelivery begins anew.
callbacks = Table(
    "callbacks",
    metadata,
    job_column(primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("receiver", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text(f"'{CallbackState.PENDING}'")),
    Column("due_at", Moment, nullable=False, server_default=func.now()),
    Column("leased", Boolean, nullable=False, server_default=text("false")),
    Column("files_owed", SmallInteger, nullable=False, server_default=text("0")),
    Column("tries", SmallInteger, nullable=False, server_default=text("0")),
    Column("begun_at", Moment, nullable=False, server_default=func.now()),
    Column("format", Text),
    Column("body", LargeBinary),
    Column("created_at", Moment, nullable=False, server_default=func.clock_timestamp()),
    Column("ended_at", Moment),
    one_of("state", CallbackState),
    one_of("format", CallbackFormat),
    CheckConstraint("(body IS NULL) = (format IS NULL)", name="format_iff_body"),
    Index(
        "ix_callbacks_receiver",
        "tenant_id",
        "receiver",
        "due_at",
        postgresql_where=text(f"state = '{CallbackState.PENDING}'"),
    ),
    Index("ix_callbacks_due_at", "due_at", postgresql_where=text(f"state = '{CallbackState.PENDING}'")),
    Index("ix_callbacks_leased", "tenant_id", "receiver", postgresql_where=text("leased")),
    Index("ix_callbacks_tenant_id_created_at", "tenant_id", "created_at"),
    postgresql_with={
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_threshold": 500,
        "autovacuum_vacuum_cost_delay": 0,
    },
)

# Every try of a callback, in order; append only. `at` is when it began.
callback_tries = Table(
    "callback_tries",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    job_column(),
    Column("at", Moment, nullable=False),
    Column("http_status", SmallInteger),
    Column("seconds", Double),
    Column("error", Text),
    Index("ix_callback_tries_job_id_id", "job_id", "id"),
)

# Receivers of a tenant that fail or are slow; of the others there is no row. `failures` counts those in a row, and
# while `open_until` is to come nothing is sent there.
receivers = Table(
    "receivers",
    metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("receiver", Text, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("open_until", Moment),
    Column("slow", Boolean, nullable=False),
)

# Every change of a job, in order; append only.
job_events = Table(
    "job_events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    job_column(),
    Column("at", Moment, nullable=False, server_default=func.clock_timestamp()),
    Column("event", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("note", Text),
    Index("ix_job_events_job_id_id", "job_id", "id"),
)

# Jobs that somebody waits for right now; an end notifies only these. Unlogged: a crash ends the waiting.
waiters = Table(
    "waiters",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("until", Moment, nullable=False),
    prefixes=["UNLOGGED"],
)
