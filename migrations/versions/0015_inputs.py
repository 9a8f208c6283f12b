"""Inputs have rows of their own, so that removing one writes no job anew.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Whoever reads a list or is registering a job is waited for, and nobody comes between the copy and the new table.
    op.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
    # Keys are made afterwards: that takes a fraction of the time.
    op.execute("CREATE TABLE inputs AS SELECT id AS job_id, input AS body FROM jobs WHERE input <> ''")
    op.execute("ALTER TABLE inputs ALTER COLUMN job_id SET NOT NULL, ALTER COLUMN body SET NOT NULL")
    op.create_primary_key("pk_inputs", "inputs", ["job_id"])
    op.create_foreign_key("fk_inputs_job_id", "inputs", "jobs", ["job_id"], ["id"], ondelete="CASCADE")
    op.execute("ALTER TABLE jobs DROP COLUMN input")
    # Of a table that was written anew while it was empty, PostgreSQL believes that it stays so: sessions would look for
    # each job that a row refers to by walking all of them, until the table is analyzed.
    if op.get_bind().scalar(sa.text("SELECT EXISTS (SELECT FROM jobs)")):
        # That only hides it; what is removed by a rule of retention is to be gone from the disk.
        op.execute("CLUSTER jobs USING pk_jobs")
        op.execute("ALTER TABLE jobs SET WITHOUT CLUSTER")


def downgrade() -> None:
    op.execute("LOCK TABLE jobs, inputs IN ACCESS EXCLUSIVE MODE")
    op.execute("ALTER TABLE jobs ADD COLUMN input text NOT NULL DEFAULT ''")
    op.execute("UPDATE jobs SET input = inputs.body FROM inputs WHERE inputs.job_id = jobs.id")
    op.execute("ALTER TABLE jobs ALTER COLUMN input DROP DEFAULT")
    op.drop_table("inputs")
