"""Prices, billable units, and the figures that are kept of all jobs.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)

# What the provider charged for stands in a header of the answer that ended the job.
UNITS = r"""
UPDATE outcomes SET billable_units = (reports.headers ->> 'x-fal-billable-units')::numeric
FROM reports
WHERE reports.job_id = outcomes.job_id AND reports.attempt = outcomes.attempt AND reports.verdict = 'applied'
  AND reports.headers ->> 'x-fal-billable-units' ~ '^[0-9]{1,15}([.][0-9]{1,15})?$'
"""

FINAL = (
    "job_id, tenant_id, model, provider, created_at, status, attempt, source, http_status, error_type, error, seed, usage, "
    "model_timings, started_at, cancel_requested_at, received_at, completed_at, queued_seconds, submit_seconds, "
    "provider_queue_seconds, run_seconds, provider_seconds, webhook_seconds, total_seconds"
)


def keep_final(columns: str) -> None:
    op.execute(
        f"CREATE OR REPLACE TRIGGER outcomes_are_final BEFORE UPDATE OF {columns} ON outcomes"
        " FOR EACH ROW EXECUTE FUNCTION refuse_update()"
    )


def upgrade() -> None:
    op.add_column("outcomes", sa.Column("billable_units", sa.Numeric()))
    op.execute(UNITS)
    keep_final(f"{FINAL}, billable_units")
    op.create_table(
        "prices",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("since", MOMENT, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("amount", sa.Numeric()),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("model", "unit", "since", name=op.f("pk_prices")),
    )
    op.create_table(
        "series",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("measure", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
    )
    op.create_index(
        "uq_series_tenant_id",
        "series",
        ["tenant_id", "measure", "model", "provider", "status"],
        unique=True,
    )
    op.create_table(
        "tallies",
        sa.Column("series_id", sa.Integer(), nullable=False),
        sa.Column("grain", sa.SmallInteger(), nullable=False),
        sa.Column("start", MOMENT, nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.Numeric(), nullable=False),
        sa.Column("buckets", postgresql.ARRAY(sa.SmallInteger()), nullable=False),
        sa.Column("counts", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.PrimaryKeyConstraint("series_id", "grain", "start", name=op.f("pk_tallies")),
        postgresql_with={"fillfactor": 70},
    )


def downgrade() -> None:
    op.drop_table("tallies")
    op.drop_table("series")
    op.drop_table("prices")
    keep_final(FINAL)
    op.drop_column("outcomes", "billable_units")
