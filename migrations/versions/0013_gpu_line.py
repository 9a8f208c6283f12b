"""Those that wait for a GPU worker, found without walking all live jobs.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_live_jobs_in_line",
        "live_jobs",
        ["job_id"],
        postgresql_where=sa.text("provider = 'gpu' AND run IS NULL AND duty = 'report'"),
    )


def downgrade() -> None:
    op.drop_index("ix_live_jobs_in_line", "live_jobs")
