"""GPU workers: their runs, logs and keys; which provider a job goes to, and why.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("asked_provider", sa.Text(), nullable=True))
    op.add_column("live_jobs", sa.Column("provider", sa.Text(), server_default=sa.text("'fal'"), nullable=False))
    op.add_column("live_jobs", sa.Column("fallback", sa.Text(), nullable=True))
    op.add_column("live_jobs", sa.Column("spill_seconds", sa.Double(), nullable=True))
    op.add_column("live_jobs", sa.Column("reason", sa.Text(), nullable=True))
    op.add_column("live_jobs", sa.Column("run", sa.Integer(), nullable=True))
    op.drop_index("ix_live_jobs_to_submit", table_name="live_jobs")
    op.create_index(
        "ix_live_jobs_to_submit",
        "live_jobs",
        ["provider", "rank", "due_at"],
        postgresql_where=sa.text("duty = 'submit'"),
    )
    op.add_column("attempts", sa.Column("reason", sa.Text(), nullable=True))
    op.create_table(
        "runs",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("started_at", Moment, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("heartbeat_at", Moment, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("done", sa.Integer(), nullable=True),
        sa.Column("of", sa.Integer(), nullable=True),
        sa.Column("ended_at", Moment, nullable=True),
        sa.Column("how", sa.Text(), nullable=True),
        sa.CheckConstraint("how IN ('finished', 'crashed')", name=op.f("ck_runs_how_known")),
        sa.CheckConstraint("(ended_at IS NULL) = (how IS NULL)", name=op.f("ck_runs_how_iff_ended")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_runs_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "attempt", "number", name=op.f("pk_runs")),
    )
    op.create_index("ix_runs_model_started_at", "runs", ["model", "started_at"])
    op.create_table(
        "run_logs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("at", Moment, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_run_logs_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run_logs")),
    )
    op.create_index("ix_run_logs_job_id_id", "run_logs", ["job_id", "id"])
    op.create_table(
        "gpu_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", Moment, server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", Moment, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gpu_keys")),
    )
    op.create_table(
        "gpu_workers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("seen_at", Moment, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('loading', 'idle', 'busy')", name=op.f("ck_gpu_workers_state_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gpu_workers")),
    )
    op.create_table(
        "routes",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prefer", sa.Text(), nullable=False),
        sa.Column("alone", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("spill_seconds", sa.Double(), nullable=True),
        sa.CheckConstraint("prefer IN ('fal', 'gpu')", name=op.f("ck_routes_prefer_known")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_routes_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "model", name=op.f("pk_routes")),
    )


def downgrade() -> None:
    for table in ("routes", "gpu_workers", "gpu_keys", "run_logs", "runs"):
        op.drop_table(table)
    op.drop_column("attempts", "reason")
    op.drop_index("ix_live_jobs_to_submit", table_name="live_jobs")
    op.create_index(
        "ix_live_jobs_to_submit", "live_jobs", ["rank", "due_at"], postgresql_where=sa.text("duty = 'submit'")
    )
    for column in ("run", "reason", "spill_seconds", "fallback", "provider"):
        op.drop_column("live_jobs", column)
    op.drop_column("jobs", "asked_provider")
