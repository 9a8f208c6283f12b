"""Owed copies hold the end of their link, so that they stand in the order in which they are taken.

Revision ID: 0016
Revises: 0015
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("LOCK TABLE copies IN ACCESS EXCLUSIVE MODE")
    op.execute("ALTER TABLE copies ADD COLUMN expires_at timestamptz")
    op.execute("""
        UPDATE copies
        SET expires_at = least(coalesce(source_expires_at, completed_at + interval '1 hour'),
                               completed_at + interval '7 days')
        FROM artifacts JOIN outcomes USING (job_id)
        WHERE artifacts.job_id = copies.job_id AND artifacts.kind = copies.kind AND artifacts.index = copies.index
    """)
    # Workers of the version before, which do not name it, go on.
    op.execute("""
        ALTER TABLE copies ALTER COLUMN expires_at SET DEFAULT now() + interval '1 hour',
            ALTER COLUMN expires_at SET NOT NULL
    """)
    op.execute("CREATE INDEX ix_copies_order ON copies (least(tries, 5), expires_at, due_at)")


def downgrade() -> None:
    op.drop_index("ix_copies_order", "copies")
    op.drop_column("copies", "expires_at")
