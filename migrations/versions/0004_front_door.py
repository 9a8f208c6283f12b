"""The fal front door: what it adds to jobs and tenants, and files that are promised before they come.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("join_seconds", sa.Double(), nullable=True))
    op.add_column("jobs", sa.Column("callback_format", sa.Text(), nullable=True))
    op.add_column(
        "jobs",
        sa.Column(
            "hints",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
    )
    op.create_check_constraint(op.f("ck_jobs_callback_format_known"), "jobs", "callback_format IN ('fal', 'standard')")
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("ticket", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_uploads_tenant_id")),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name=op.f("fk_uploads_sha256")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
        sa.UniqueConstraint("ticket", name=op.f("uq_uploads_ticket")),
    )
    op.create_index(
        op.f("ix_uploads_created_at"),
        "uploads",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("sha256 IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("uploads")
    op.drop_constraint(op.f("ck_jobs_callback_format_known"), "jobs")
    op.drop_column("jobs", "hints")
    op.drop_column("jobs", "callback_format")
    op.drop_column("tenants", "join_seconds")
