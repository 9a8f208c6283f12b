"""Callbacks to clients, each of their tries, and the receivers that fail.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
NOW = sa.text("now()")
PENDING = sa.text("state = 'pending'")
VACUUMED_EARLY = {
    "autovacuum_vacuum_scale_factor": 0.02,
    "autovacuum_vacuum_threshold": 500,
    "autovacuum_vacuum_cost_delay": 0,
}

# Jobs that ended before anything was sent: nobody is told now, but they can be redelivered.
UNTOLD = """
INSERT INTO callbacks (job_id, tenant_id, receiver, state, created_at, begun_at, ended_at)
SELECT jobs.id, jobs.tenant_id, coalesce(lower(substring(jobs.webhook_url FROM '^[^:/?#]+://[^/?#]+')), ''),
       'given_up', outcomes.completed_at, outcomes.completed_at, outcomes.completed_at
FROM jobs JOIN outcomes ON outcomes.job_id = jobs.id WHERE jobs.webhook_url IS NOT NULL
"""


def upgrade() -> None:
    op.add_column("tenants", sa.Column("callback_format", sa.Text(), server_default=sa.text("'fal'"), nullable=False))
    op.add_column("tenants", sa.Column("callback_secret", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.add_column("tenants", sa.Column("callback_secret_rotated_at", MOMENT))
    op.create_check_constraint(
        op.f("ck_tenants_callback_format_known"), "tenants", "callback_format IN ('fal', 'standard')"
    )
    op.create_table(
        "callbacks",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("due_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("leased", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("files_owed", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("tries", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("begun_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("format", sa.Text()),
        sa.Column("body", sa.LargeBinary()),
        sa.Column("created_at", MOMENT, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("ended_at", MOMENT),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'gone', 'given_up')", name=op.f("ck_callbacks_state_known")
        ),
        sa.CheckConstraint("format IN ('fal', 'standard')", name=op.f("ck_callbacks_format_known")),
        sa.CheckConstraint("(body IS NULL) = (format IS NULL)", name=op.f("ck_callbacks_format_iff_body")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_callbacks_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_callbacks")),
        postgresql_with=VACUUMED_EARLY,
    )
    op.create_index("ix_callbacks_receiver", "callbacks", ["tenant_id", "receiver", "due_at"], postgresql_where=PENDING)
    op.create_index("ix_callbacks_due_at", "callbacks", ["due_at"], postgresql_where=PENDING)
    op.create_index("ix_callbacks_leased", "callbacks", ["tenant_id", "receiver"], postgresql_where=sa.text("leased"))
    op.create_index("ix_callbacks_tenant_id_created_at", "callbacks", ["tenant_id", "created_at"])
    op.create_table(
        "callback_tries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("http_status", sa.SmallInteger()),
        sa.Column("seconds", sa.Double()),
        sa.Column("error", sa.Text()),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_callback_tries_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_callback_tries")),
    )
    op.create_index("ix_callback_tries_job_id_id", "callback_tries", ["job_id", "id"])
    op.create_table(
        "receivers",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("open_until", MOMENT),
        sa.Column("slow", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "receiver", name=op.f("pk_receivers")),
    )
    op.execute(UNTOLD)


def downgrade() -> None:
    op.drop_table("receivers")
    op.drop_table("callback_tries")
    op.drop_table("callbacks")
    op.drop_constraint(op.f("ck_tenants_callback_format_known"), "tenants")
    op.drop_column("tenants", "callback_secret_rotated_at")
    op.drop_column("tenants", "callback_secret")
    op.drop_column("tenants", "callback_format")
