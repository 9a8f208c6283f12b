"""Leases of callbacks that can be told apart, and the time by which a job has to start.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("callbacks", sa.Column("taken", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("live_jobs", sa.Column("start_by", sa.DateTime(timezone=True), nullable=True))
    op.execute(
        "UPDATE live_jobs SET start_by = jobs.created_at"
        " + make_interval(secs => (jobs.hints ->> 'x-fal-request-timeout')::float8)"
        " FROM jobs WHERE jobs.id = live_jobs.job_id AND jobs.hints ? 'x-fal-request-timeout'"
    )
    # What a file is called, but not found to be, is no longer said for all who have it.
    op.execute("UPDATE blobs SET content_type = 'application/octet-stream' WHERE content_type NOT LIKE 'image/%'")
    op.create_index(
        "ix_live_jobs_start_by",
        "live_jobs",
        ["start_by"],
        postgresql_where=sa.text("duty = 'submit' AND start_by IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_live_jobs_start_by", table_name="live_jobs")
    op.drop_column("live_jobs", "start_by")
    op.drop_column("callbacks", "taken")
