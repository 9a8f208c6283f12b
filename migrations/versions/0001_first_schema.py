"""first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blobs")),
    )
    op.create_table(
        "reports",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("http_status", sa.SmallInteger(), nullable=True),
        sa.Column("headers", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.CheckConstraint("source IN ('webhook', 'status', 'result')", name=op.f("ck_reports_source_known")),
        sa.CheckConstraint(
            "verdict IN ('applied', 'duplicate', 'conflict', 'late', 'foreign', 'unknown', 'unreadable', 'incomplete')",
            name=op.f("ck_reports_verdict_known"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reports")),
    )
    op.create_index("ix_reports_job_id", "reports", ["job_id"], unique=False)
    op.create_table(
        "server_secrets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_server_secrets")),
    )
    op.create_table(
        "tenants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("name", name=op.f("uq_tenants_name")),
    )
    op.create_table(
        "waiters",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_waiters")),
        prefixes=["UNLOGGED"],
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_api_keys_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("input", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("priority", sa.Text(), nullable=False),
        sa.Column("webhook_url", sa.Text(), nullable=True),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("metadata", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("retry_of", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["retry_of"], ["jobs.id"], name=op.f("fk_jobs_retry_of"), ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_jobs_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(
        "ix_jobs_metadata",
        "jobs",
        ["metadata"],
        unique=False,
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
        postgresql_where=sa.text("metadata <> '{}'"),
    )
    op.create_index(
        "ix_jobs_tags", "jobs", ["tags"], unique=False, postgresql_using="gin", postgresql_where=sa.text("tags <> '{}'")
    )
    op.create_index("ix_jobs_tenant_id_id", "jobs", ["tenant_id", "id"], unique=False)
    op.create_index("ix_jobs_tenant_id_model_id", "jobs", ["tenant_id", "model", "id"], unique=False)
    op.create_index(
        "uq_jobs_retry_of", "jobs", ["retry_of"], unique=True, postgresql_where=sa.text("retry_of IS NOT NULL")
    )
    op.create_table(
        "artifacts",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("index", sa.SmallInteger(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("source_url", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("file_name", sa.Text(), nullable=True),
        sa.Column("file_size", sa.BigInteger(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("area_fraction", sa.Double(), nullable=True),
        sa.Column("bbox", postgresql.ARRAY(sa.Integer()), nullable=True),
        sa.Column("copy_error", sa.Text(), nullable=True),
        sa.CheckConstraint("kind IN ('mask', 'image')", name=op.f("ck_artifacts_kind_known")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_artifacts_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name=op.f("fk_artifacts_sha256")),
        sa.PrimaryKeyConstraint("job_id", "kind", "index", name=op.f("pk_artifacts")),
    )
    op.create_index(
        "ix_artifacts_sha256", "artifacts", ["sha256"], unique=False, postgresql_where=sa.text("sha256 IS NOT NULL")
    )
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("provider_request_id", sa.Text(), nullable=True),
        sa.Column("gateway_request_id", sa.Text(), nullable=True),
        sa.Column("response_url", sa.Text(), nullable=True),
        sa.Column("status_url", sa.Text(), nullable=True),
        sa.Column("cancel_url", sa.Text(), nullable=True),
        sa.Column("claimed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resubmitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stop_due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stop_tries", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("http_status", sa.SmallInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('submitting', 'submitted', 'refused', 'ambiguous', 'abandoned', 'superseded', 'completed', 'failed', 'cancelled')",
            name=op.f("ck_attempts_state_known"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempts_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_attempts")),
    )
    op.create_index(
        "ix_attempts_gateway_request_id",
        "attempts",
        ["gateway_request_id"],
        unique=False,
        postgresql_where=sa.text("gateway_request_id IS NOT NULL"),
    )
    op.create_index(
        "ix_attempts_provider_request_id",
        "attempts",
        ["provider_request_id"],
        unique=False,
        postgresql_where=sa.text("provider_request_id IS NOT NULL"),
    )
    op.create_index(
        "ix_attempts_to_stop",
        "attempts",
        ["stop_due_at"],
        unique=False,
        postgresql_where=sa.text("state = 'superseded' AND ended_at IS NULL"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_idempotency_keys_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_idempotency_keys_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)
    op.create_index("ix_idempotency_keys_job_id", "idempotency_keys", ["job_id"], unique=False)
    op.create_table(
        "job_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_events_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
    )
    op.create_index("ix_job_events_job_id_id", "job_events", ["job_id", "id"], unique=False)
    op.create_table(
        "live_jobs",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("duty", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("rank", sa.SmallInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("queue_position", sa.Integer(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "duty IN ('submit', 'answer', 'report', 'settle', 'close')", name=op.f("ck_live_jobs_duty_known")
        ),
        sa.CheckConstraint("status IN ('queued', 'submitted', 'in_progress')", name=op.f("ck_live_jobs_status_known")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_live_jobs_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_live_jobs")),
        postgresql_with={
            "autovacuum_vacuum_scale_factor": 0.02,
            "autovacuum_vacuum_threshold": 500,
            "autovacuum_vacuum_cost_delay": 0,
        },
    )
    op.create_index(
        "ix_live_jobs_deadline",
        "live_jobs",
        ["deadline_at"],
        unique=False,
        postgresql_where=sa.text("duty = 'submit' AND deadline_at IS NOT NULL"),
    )
    op.create_index(
        "ix_live_jobs_due", "live_jobs", ["due_at"], unique=False, postgresql_where=sa.text("duty <> 'submit'")
    )
    op.create_index(
        "ix_live_jobs_to_submit",
        "live_jobs",
        ["rank", "due_at"],
        unique=False,
        postgresql_where=sa.text("duty = 'submit'"),
    )
    op.create_table(
        "outcomes",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("http_status", sa.SmallInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("seed", sa.Numeric(), nullable=True),
        sa.Column("usage", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("model_timings", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(status = 'completed') = (error IS NULL)", name=op.f("ck_outcomes_error_iff_not_completed")
        ),
        sa.CheckConstraint("status IN ('completed', 'failed', 'cancelled')", name=op.f("ck_outcomes_status_known")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_outcomes_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_outcomes")),
    )
    op.create_index("ix_outcomes_tenant_id_status_job_id", "outcomes", ["tenant_id", "status", "job_id"], unique=False)
    op.create_table(
        "copies",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("index", sa.SmallInteger(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("tries", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id", "kind", "index"],
            ["artifacts.job_id", "artifacts.kind", "artifacts.index"],
            name="fk_copies_artifact",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "kind", "index", name=op.f("pk_copies")),
    )
    op.create_index("ix_copies_due_at", "copies", ["due_at"], unique=False)
    # A result is final. No statement of ours updates an outcome; this stops the one that would.
    op.execute(
        "CREATE FUNCTION refuse_update() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN RAISE EXCEPTION 'outcome of job % is final', OLD.job_id; END $$"
    )
    op.execute(
        "CREATE TRIGGER outcomes_are_final BEFORE UPDATE ON outcomes FOR EACH ROW EXECUTE FUNCTION refuse_update()"
    )


def downgrade() -> None:
    op.drop_index("ix_copies_due_at", table_name="copies")
    op.drop_table("copies")
    op.drop_index("ix_outcomes_tenant_id_status_job_id", table_name="outcomes")
    op.drop_table("outcomes")
    op.execute("DROP FUNCTION refuse_update()")
    op.drop_index("ix_live_jobs_to_submit", table_name="live_jobs", postgresql_where=sa.text("duty = 'submit'"))
    op.drop_index("ix_live_jobs_due", table_name="live_jobs", postgresql_where=sa.text("duty <> 'submit'"))
    op.drop_index(
        "ix_live_jobs_deadline",
        table_name="live_jobs",
        postgresql_where=sa.text("duty = 'submit' AND deadline_at IS NOT NULL"),
    )
    op.drop_table("live_jobs")
    op.drop_index("ix_job_events_job_id_id", table_name="job_events")
    op.drop_table("job_events")
    op.drop_index("ix_idempotency_keys_job_id", table_name="idempotency_keys")
    op.drop_index("ix_idempotency_keys_created_at", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_index(
        "ix_attempts_to_stop",
        table_name="attempts",
        postgresql_where=sa.text("state = 'superseded' AND ended_at IS NULL"),
    )
    op.drop_index(
        "ix_attempts_provider_request_id",
        table_name="attempts",
        postgresql_where=sa.text("provider_request_id IS NOT NULL"),
    )
    op.drop_index(
        "ix_attempts_gateway_request_id",
        table_name="attempts",
        postgresql_where=sa.text("gateway_request_id IS NOT NULL"),
    )
    op.drop_table("attempts")
    op.drop_index("ix_artifacts_sha256", table_name="artifacts", postgresql_where=sa.text("sha256 IS NOT NULL"))
    op.drop_table("artifacts")
    op.drop_index("uq_jobs_retry_of", table_name="jobs", postgresql_where=sa.text("retry_of IS NOT NULL"))
    op.drop_index("ix_jobs_tenant_id_model_id", table_name="jobs")
    op.drop_index("ix_jobs_tenant_id_id", table_name="jobs")
    op.drop_index("ix_jobs_tags", table_name="jobs", postgresql_using="gin", postgresql_where=sa.text("tags <> '{}'"))
    op.drop_index(
        "ix_jobs_metadata",
        table_name="jobs",
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
        postgresql_where=sa.text("metadata <> '{}'"),
    )
    op.drop_table("jobs")
    op.drop_table("api_keys")
    op.drop_table("waiters")
    op.drop_table("tenants")
    op.drop_table("server_secrets")
    op.drop_index("ix_reports_job_id", table_name="reports")
    op.drop_table("reports")
    op.drop_table("blobs")
