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

from service.bulk.lifecycle import BulkOutcome, BulkState, BulkVerb
from service.callbacks.lifecycle import CallbackFormat, CallbackState
from service.jobs.lifecycle import ENDED, LIVE, AttemptState, Duty, OnDoubt, Source, Verdict
from service.retention.parts import REMOVABLE, Keep, Part

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

# What of a label, or of a tag, stands in an index.
LABEL_EXCERPT = 200


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

# Sessions of the dashboard. Of the cookie only its hash is here; what it may do is what its key may do now.
sessions = Table(
    "sessions",
    metadata,
    Column("token_sha256", LargeBinary, primary_key=True),
    Column("key_id", Text, ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("seen_at", Moment, nullable=False, server_default=func.now()),
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

# What the client asked for, but for the input. Rows are not changed. `hints` are headers of fal's that go on to the
# provider; `callback_format` is set where the callback has to look otherwise than the tenant wants its own.
jobs = Table(
    "jobs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), nullable=False),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    # What its client asked for; null: whoever the rules choose.
    Column("asked_provider", Text),
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
    Index("uq_jobs_retry_of", "retry_of", unique=True, postgresql_where=text("retry_of IS NOT NULL")),
)

# A job's input word for word: the JSON text that is sent on, except that a file that came in it as a data URI is named
# there (see artifacts/inputs.py). No row: it was removed, which writes no job anew.
inputs = Table(
    "inputs",
    metadata,
    job_column(primary_key=True),
    Column("body", Text, nullable=False),
    # Of the text as it came, where that is another.
    Column("sha256", Text),
    Column("size", BigInteger),
)

# The tags and the metadata of jobs, so that the newest with one of them are found in order, however many have it.
# `name` is `tag` or `metadata.KEY`. Both are cut to their first characters; who has cut looks at the job, too.
job_marks = Table(
    "job_marks",
    metadata,
    Column("tenant_id", Uuid, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("job_id", Uuid, primary_key=True),
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
    # When its provider has to have it, where its client said so.
    Column("start_by", Moment),
    Column("cancel_requested_at", Moment),
    # For how long it was put off in all because nobody took it. A pause, or workers that are away, do not count.
    Column("refused_seconds", Double, nullable=False, server_default=text("0")),
    # Since when, and how often, the provider says that it does not know the request.
    Column("missing_since", Moment),
    Column("missing_times", SmallInteger, nullable=False, server_default=text("0")),
    # Who gets it next or has it, who may get it instead, after how long a wait, and why it is so.
    Column("provider", Text, nullable=False, server_default=text("'fal'")),
    Column("fallback", Text),
    Column("spill_seconds", Double),
    Column("reason", Text),
    # Of a GPU worker: the run under way.
    Column("run", Integer),
    one_of("status", LIVE),
    one_of("duty", Duty),
    Index("ix_live_jobs_tenant_id_job_id", "tenant_id", "job_id"),
    Index("ix_live_jobs_to_submit", "provider", "rank", "due_at", postgresql_where=text("duty = 'submit'")),
    # Those that wait for a GPU worker, oldest first.
    Index(
        "ix_live_jobs_in_line",
        "job_id",
        postgresql_where=text("provider = 'gpu' AND run IS NULL AND duty = 'report'"),
    ),
    Index("ix_live_jobs_due", "due_at", postgresql_where=text("duty <> 'submit'")),
    Index("ix_live_jobs_deadline", "deadline_at", postgresql_where=text("duty = 'submit' AND deadline_at IS NOT NULL")),
    Index("ix_live_jobs_start_by", "start_by", postgresql_where=text("duty = 'submit' AND start_by IS NOT NULL")),
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
    # Why this provider, where somebody chose it.
    Column("reason", Text),
    # When its message to GPU workers went out once more.
    Column("sent_at", Moment),
    # What its result cost, if that is not the job's.
    Column("cost", Numeric),
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

# What GPU workers did of an attempt: a row each time one began. `worker` is a process; its heartbeats say how far it
# is. A run without an end whose heartbeats stopped has crashed.
runs = Table(
    "runs",
    metadata,
    job_column(primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("worker", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("started_at", Moment, nullable=False, server_default=func.clock_timestamp()),
    Column("heartbeat_at", Moment, nullable=False, server_default=func.clock_timestamp()),
    Column("done", Integer),
    Column("of", Integer),
    Column("ended_at", Moment),
    Column("how", Text),
    one_of("how", ("finished", "crashed")),
    CheckConstraint("(ended_at IS NULL) = (how IS NULL)", name="how_iff_ended"),
    Index("ix_runs_model_started_at", "model", "started_at"),
)

# What GPU workers said while they worked, in order; append only.
run_logs = Table(
    "run_logs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    job_column(),
    Column("attempt", Integer, nullable=False),
    Column("run", Integer, nullable=False),
    Column("at", Moment, nullable=False, server_default=func.clock_timestamp()),
    Column("line", Text, nullable=False),
    Index("ix_run_logs_job_id_id", "job_id", "id"),
)

# Who may sign for GPU workers: Ed25519 keys, 32 bytes. The ID is made of the key itself.
gpu_keys = Table(
    "gpu_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("revoked_at", Moment),
)

# GPU workers that were heard of lately.
gpu_workers = Table(
    "gpu_workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("seen_at", Moment, nullable=False, server_default=func.now()),
    one_of("state", ("loading", "idle", "busy")),
)

# Which provider a tenant's jobs of a model, or of all (`*`), go to first. `alone`: and to no other, whatever happens.
# `spill_seconds`: the longest that they are to wait there.
routes = Table(
    "routes",
    metadata,
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), primary_key=True),
    Column("model", Text, primary_key=True),
    Column("prefer", Text, nullable=False),
    Column("alone", Boolean, nullable=False, server_default=text("false")),
    Column("spill_seconds", Double),
    one_of("prefer", ("fal", "gpu")),
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
    # Of a body that was removed, or came when those of its job were. Its hash is null, if it was not to be kept.
    Column("removed_sha256", Text),
    Column("removed_size", BigInteger),
    one_of("source", Source),
    one_of("verdict", Verdict),
    Index("ix_reports_job_id", "job_id"),
    Index("ix_reports_unknown", "received_at", postgresql_where=text(f"verdict = '{Verdict.UNKNOWN}'")),
)

# How a job ended, in a narrow row that is walked by the ten thousand: what one asks and counts by. Inserted once, by
# the statement that deletes the live row. `model`, `provider` and `created_at` are those of the job; the phases are in
# seconds, and null where nobody knows. Only what comes after the end is filled in later: the time that the copies and
# the callback took, and what the job cost.
outcomes = Table(
    "outcomes",
    metadata,
    job_column(primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("http_status", SmallInteger, nullable=False),
    Column("error_type", Text),
    Column("error", Text),
    Column("seed", Numeric),
    Column("usage", JSONB(none_as_null=True), nullable=False),
    Column("model_timings", JSONB(none_as_null=True), nullable=False),
    Column("started_at", Moment),
    Column("cancel_requested_at", Moment),
    Column("received_at", Moment, nullable=False),
    Column("completed_at", Moment, nullable=False),
    Column("queued_seconds", Double),
    Column("submit_seconds", Double),
    Column("provider_queue_seconds", Double),
    Column("run_seconds", Double),
    Column("provider_seconds", Double),
    Column("webhook_seconds", Double),
    Column("total_seconds", Double, nullable=False),
    Column("copy_seconds", Double),
    Column("callback_seconds", Double),
    Column("billable_units", Numeric),
    Column("cost", Numeric),
    one_of("status", ENDED),
    CheckConstraint("(status = 'completed') = (error IS NULL)", name="error_iff_not_completed"),
    Index("ix_outcomes_tenant_id_job_id", "tenant_id", "job_id"),
    Index("ix_outcomes_tenant_id_status_job_id", "tenant_id", "status", "job_id"),
    Index("ix_outcomes_tenant_id_model_job_id", "tenant_id", "model", "job_id"),
    Index("ix_outcomes_tenant_id_provider_job_id", "tenant_id", "provider", "job_id"),
    Index(
        "ix_outcomes_tenant_id_error_type_job_id",
        "tenant_id",
        "error_type",
        "job_id",
        postgresql_where=text("error_type IS NOT NULL"),
    ),
    # Room in each page for what is filled in later, so that no index is touched by it.
    postgresql_with={"fillfactor": 85},
)

# What the job ended with, to the byte, and the text in it that can be searched.
results = Table(
    "results",
    metadata,
    job_column(primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("text", Text),
)

# Ended jobs that the figures of /v1/stats do not hold yet: `end` all of them, `copy` and `callback` those two phases.
uncounted = Table(
    "uncounted",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("part", Text, primary_key=True),
    one_of("part", ("end", "copy", "callback")),
    postgresql_with={
        "autovacuum_vacuum_scale_factor": 0.02,
        "autovacuum_vacuum_threshold": 500,
        "autovacuum_vacuum_cost_delay": 0,
    },
)

# What a model's jobs cost from `since` on, by the unit: `job`, `second` (of the run), `billable_unit`, or `usage.NAME`
# for each of what the model itself counts. Those of provider `*` are of all that have none of their own for the model.
# Without an amount: no price from then on.
prices = Table(
    "prices",
    metadata,
    Column("model", Text, primary_key=True),
    Column("provider", Text, primary_key=True, server_default=text("'*'")),
    Column("unit", Text, primary_key=True),
    Column("since", Moment, primary_key=True, server_default=func.clock_timestamp()),
    Column("amount", Numeric),
    Column("currency", Text, nullable=False),
)

# Whose figures `tallies` holds: those of one measure (`total_seconds`, `usage.NAME` …) of a tenant's jobs that ended
# alike. Model and provider are empty for those of all together, and so is the status, in series of `total_seconds`; the
# tenant is the nil UUID in series of all tenants' jobs, of `total_seconds` and `cost`.
series = Table(
    "series",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("measure", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("status", Text, nullable=False),
    Index("uq_series_tenant_id", "tenant_id", "measure", "model", "provider", "status", unique=True),
)

# Figures of the jobs that were registered in an hour (grain 0), a day (1) or a month (2), in UTC: how many told the
# measure, its sum, and how often it was in which bucket (`service/stats/measures.py` says what a bucket is). It grows
# with the hours, not with the jobs. No foreign key: a series and its tallies are written by one statement.
tallies = Table(
    "tallies",
    metadata,
    Column("series_id", Integer, primary_key=True),
    Column("grain", SmallInteger, primary_key=True),
    Column("start", Moment, primary_key=True),
    Column("n", BigInteger, nullable=False),
    Column("sum", Numeric, nullable=False),
    Column("buckets", ARRAY(SmallInteger), nullable=False),
    Column("counts", ARRAY(Integer), nullable=False),
    # Room for the next version of a row, so that the cells of this hour do not grow the index.
    postgresql_with={"fillfactor": 70},
)

# The bytes of a stored file, named by their SHA-256 (lower-case hex). One that was `uploaded` stays, whether or not a
# job refers to it.
blobs = Table(
    "blobs",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("width", Integer),
    Column("height", Integer),
    Column("uploaded", Boolean, nullable=False, server_default=text("false")),
    # Its bytes are being deleted, and this row after them.
    Column("deleting", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
)

# Files that a job's input holds.
input_files = Table(
    "input_files",
    metadata,
    job_column(primary_key=True),
    Column("sha256", Text, ForeignKey("blobs.sha256"), primary_key=True),
    Index("ix_input_files_sha256", "sha256"),
)

# Files that a removed part referred to, and files that something is going to refer to. Those that nothing refers to are
# deleted some time later.
unreferenced_blobs = Table(
    "unreferenced_blobs",
    metadata,
    Column("sha256", Text, ForeignKey("blobs.sha256", ondelete="CASCADE"), primary_key=True),
    Column("since", Moment, nullable=False, server_default=func.now()),
    Index("ix_unreferenced_blobs_since", "since"),
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
    Index("ix_uploads_sha256", "sha256", postgresql_where=text("sha256 IS NOT NULL")),
)

# A file named in an output: a mask or an image, with the provider's claims and, once its copy is
# stored (`sha256`), what was measured in it. `bbox` is x0, y0, x1, y1 in pixels, half open.
artifacts = Table(
    "artifacts",
    metadata,
    job_column(primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("index", SmallInteger, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("label", Text),
    Column("source_url", Text, nullable=False),
    # When the provider's link is known to end.
    Column("source_expires_at", Moment),
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
    Column("removed_at", Moment),
    Column("removed_sha256", Text),
    one_of("kind", ("mask", "image")),
    Index("ix_artifacts_sha256", "sha256", postgresql_where=text("sha256 IS NOT NULL")),
    # Files that could not be copied, so far or for good.
    Index(
        "ix_artifacts_not_copied",
        "job_id",
        postgresql_where=text("sha256 IS NULL AND copy_error IS NOT NULL AND removed_at IS NULL"),
    ),
    # Labels are searched for in lower case, by their first characters.
    Index(
        "ix_artifacts_label",
        "tenant_id",
        text(f"lower(left(label, {LABEL_EXCERPT}))"),
        "job_id",
        postgresql_where=text("kind = 'mask' AND label IS NOT NULL"),
    ),
)

# Files whose copy is still owed; a row goes when the copy is stored or given up. `expires_at` is when the link ends, or
# is taken to end, but no more than a week after the copy came to be owed.
copies = Table(
    "copies",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("index", SmallInteger, primary_key=True),
    Column("due_at", Moment, nullable=False, server_default=func.now()),
    Column("tries", SmallInteger, nullable=False, server_default=text("0")),
    Column("expires_at", Moment, nullable=False, server_default=text("now() + interval '1 hour'")),
    ForeignKeyConstraint(
        ["job_id", "kind", "index"],
        ["artifacts.job_id", "artifacts.kind", "artifacts.index"],
        ondelete="CASCADE",
        name="fk_copies_artifact",
    ),
    # The order in which they are taken; what is not due is passed over without a look at its row.
    Index("ix_copies_order", text("least(tries, 5)"), "expires_at", "due_at"),
    Index(None, "due_at"),
)

# What a client is told of a job's end. Inserted by the statement that ends the job; `body`, and the format that it
# is in, are written once, before the first byte goes out. `due_at` is when it is tried next, or while it is `leased`,
# when its worker is taken for dead. `tries` and `begun_at` are those of the present series: a redelivery begins anew.
# `taken` counts how often it was leased, so that a lease that was lost is told from the one after it.
callbacks = Table(
    "callbacks",
    metadata,
    job_column(primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("receiver", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text(f"'{CallbackState.PENDING}'")),
    Column("due_at", Moment, nullable=False, server_default=func.now()),
    Column("leased", Boolean, nullable=False, server_default=text("false")),
    Column("taken", Integer, nullable=False, server_default=text("0")),
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

# For how long a tenant wants what kept, of jobs of one model or of all (`*`). Jobs up to `done_through` are done; who
# changes that, but for the walk itself, raises `version`.
retention_rules = Table(
    "retention_rules",
    metadata,
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), primary_key=True),
    Column("model", Text, primary_key=True),
    Column("part", Text, primary_key=True),
    Column("after_seconds", Double, nullable=False),
    Column("keep", Text, nullable=False),
    Column("done_through", Uuid),
    Column("version", Integer, nullable=False, server_default=text("0")),
    one_of("part", Part),
    one_of("keep", Keep),
    CheckConstraint("part <> 'job' OR keep <> 'hash'", name="job_has_no_hash"),
)

# Jobs that a rule could not be carried out of, which it has passed and comes back to. No foreign key to jobs: somebody
# may hold the job's row for long, which is why.
postponed_removals = Table(
    "postponed_removals",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("part", Text, primary_key=True),
    Column("since", Moment, nullable=False, server_default=func.now()),
    Column("tried_at", Moment, nullable=False, server_default=func.now()),
    # Null: nothing failed, something still needs what is to be removed.
    Column("error", Text),
    ForeignKeyConstraint(
        ["tenant_id", "model", "part"],
        ["retention_rules.tenant_id", "retention_rules.model", "retention_rules.part"],
        ondelete="CASCADE",
    ),
    Index(None, "tenant_id", "model", "part", "tried_at"),
)

# Jobs of which nothing is removed.
holds = Table(
    "holds",
    metadata,
    job_column(primary_key=True),
    Column("since", Moment, nullable=False, server_default=func.now()),
)

# What was removed of a job, with its SHA-256 and its size in bytes where those were to stay.
removals = Table(
    "removals",
    metadata,
    job_column(primary_key=True),
    Column("part", Text, primary_key=True),
    Column("at", Moment, nullable=False, server_default=func.now()),
    Column("sha256", Text),
    Column("size", BigInteger),
    one_of("part", REMOVABLE),
)

# Jobs that somebody waits for right now; an end notifies only these. Unlogged: a crash ends the waiting.
waiters = Table(
    "waiters",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("until", Moment, nullable=False),
    prefixes=["UNLOGGED"],
)

# One thing that is to be done to many jobs: all that a filter means of those that were registered before. The walk goes
# from the newest to the oldest, tenant by tenant where all are meant; `walked_tenant` and `walked_to` say how far it
# came. Who works at it has it until `leased_until`.
bulk_actions = Table(
    "bulk_actions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, ForeignKey("tenants.id"), nullable=False),
    Column("key_id", Text, nullable=False),
    Column("idempotency_key", String(255), nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("action", Text, nullable=False),
    # Whose jobs; null: those of all tenants.
    Column("of_tenant", Uuid, ForeignKey("tenants.id")),
    Column("conditions", JSONB(none_as_null=True), nullable=False),
    Column("state", Text, nullable=False, server_default=text("'running'")),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("expected", Integer, nullable=False),
    Column("expected_is_exact", Boolean, nullable=False),
    Column("expected_cost", Numeric),
    Column("walked_tenant", Uuid),
    Column("walked_to", Uuid),
    Column("walk_ended", Boolean, nullable=False, server_default=text("false")),
    Column("done", Integer, nullable=False, server_default=text("0")),
    Column("skipped", Integer, nullable=False, server_default=text("0")),
    Column("failed", Integer, nullable=False, server_default=text("0")),
    Column("leased_until", Moment, nullable=False, server_default=func.now()),
    Column("ended_at", Moment),
    Column("error", Text),
    one_of("action", BulkVerb),
    one_of("state", BulkState),
    Index("uq_bulk_actions_tenant_id", "tenant_id", "idempotency_key", unique=True),
    Index("ix_bulk_actions_tenant_id_id", "tenant_id", "id"),
    Index("ix_bulk_actions_under_way", "leased_until", postgresql_where=text("state IN ('running', 'aborting')")),
)

# What came of each job. The row is there before anything is done, `planned`, with the ID that a retry is to have: so
# whoever goes on for a worker that died knows what that one had done already.
bulk_results = Table(
    "bulk_results",
    metadata,
    Column("bulk_id", Uuid, ForeignKey("bulk_actions.id", ondelete="CASCADE"), primary_key=True),
    Column("job_id", Uuid, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("outcome", Text, nullable=False, server_default=text("'planned'")),
    Column("reason", Text),
    Column("new_job_id", Uuid),
    one_of("outcome", BulkOutcome),
    Index("ix_bulk_results_outcome", "bulk_id", "outcome", "job_id"),
)

# Webhooks that were refused, counted by the minute: how many there are is a stranger's choice, how many rows is not.
refused_webhooks = Table(
    "refused_webhooks",
    metadata,
    Column("minute", Moment, primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("times", BigInteger, nullable=False),
)

# Processes, as each says of itself now and then: `counts` is what it has done since its start, and `progressed_at` when
# that last grew. What a process does not do is not in its counts.
processes = Table(
    "processes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("seen_at", Moment, nullable=False, server_default=func.now()),
    Column("ended_at", Moment),
    Column("counts", JSONB(none_as_null=True), nullable=False, server_default=text("'{}'")),
    Column("progressed_at", Moment),
    one_of("kind", ("api", "worker", "beat")),
)
