"""Sessions of the dashboard, actions on many jobs, refused webhooks by the minute, and processes.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
NOW = sa.text("now()")
JSON = postgresql.JSONB()


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("seen_at", MOMENT, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_sessions_key_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_sessions")),
    )
    op.create_table(
        "bulk_actions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("of_tenant", sa.Uuid()),
        sa.Column("conditions", JSON, nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'running'"), nullable=False),
        sa.Column("created_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("expected", sa.Integer(), nullable=False),
        sa.Column("expected_is_exact", sa.Boolean(), nullable=False),
        sa.Column("expected_cost", sa.Numeric()),
        sa.Column("walked_tenant", sa.Uuid()),
        sa.Column("walked_to", sa.Uuid()),
        sa.Column("walk_ended", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("done", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("skipped", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("leased_until", MOMENT, server_default=NOW, nullable=False),
        sa.Column("ended_at", MOMENT),
        sa.Column("error", sa.Text()),
        sa.CheckConstraint("action IN ('retry', 'cancel')", name=op.f("ck_bulk_actions_action_known")),
        sa.CheckConstraint(
            "state IN ('running', 'aborting', 'done', 'aborted')", name=op.f("ck_bulk_actions_state_known")
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_bulk_actions_tenant_id")),
        sa.ForeignKeyConstraint(["of_tenant"], ["tenants.id"], name=op.f("fk_bulk_actions_of_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bulk_actions")),
    )
    op.create_index("uq_bulk_actions_tenant_id", "bulk_actions", ["tenant_id", "idempotency_key"], unique=True)
    op.create_index("ix_bulk_actions_tenant_id_id", "bulk_actions", ["tenant_id", "id"])
    op.create_index(
        "ix_bulk_actions_under_way",
        "bulk_actions",
        ["leased_until"],
        postgresql_where=sa.text("state IN ('running', 'aborting')"),
    )
    op.create_table(
        "bulk_results",
        sa.Column("bulk_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("outcome", sa.Text(), server_default=sa.text("'planned'"), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("new_job_id", sa.Uuid()),
        sa.CheckConstraint(
            "outcome IN ('planned', 'done', 'skipped', 'failed')", name=op.f("ck_bulk_results_outcome_known")
        ),
        sa.ForeignKeyConstraint(
            ["bulk_id"], ["bulk_actions.id"], name=op.f("fk_bulk_results_bulk_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("bulk_id", "job_id", name=op.f("pk_bulk_results")),
    )
    op.create_index("ix_bulk_results_outcome", "bulk_results", ["bulk_id", "outcome", "job_id"])
    op.create_table(
        "refused_webhooks",
        sa.Column("minute", MOMENT, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("times", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("minute", "reason", name=op.f("pk_refused_webhooks")),
    )
    op.create_table(
        "processes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("seen_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("ended_at", MOMENT),
        sa.Column("counts", JSON, server_default=sa.text("'{}'"), nullable=False),
        sa.Column("progressed_at", MOMENT),
        sa.CheckConstraint("kind IN ('api', 'worker', 'beat')", name=op.f("ck_processes_kind_known")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_processes")),
    )
    op.create_index(
        "ix_artifacts_not_copied",
        "artifacts",
        ["job_id"],
        postgresql_where=sa.text("sha256 IS NULL AND copy_error IS NOT NULL AND removed_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_artifacts_not_copied", table_name="artifacts")
    for table in ("processes", "refused_webhooks", "bulk_results", "bulk_actions", "sessions"):
        op.drop_table(table)
    # Keys may not bear a scope that the version before does not know.
    op.execute("UPDATE api_keys SET scopes = array_remove(scopes, 'metrics') WHERE 'metrics' = ANY (scopes)")
