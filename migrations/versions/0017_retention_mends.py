"""What rules of retention could not be carried out of, reports of jobs that are gone, and hashes of inputs as they came.

Revision ID: 0017
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
NOW = sa.text("now()")


def upgrade() -> None:
    # Reads all reports, while others are kept. What is left of a try that failed is no index.
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_reports_unknown")
        op.execute("CREATE INDEX CONCURRENTLY ix_reports_unknown ON reports (received_at) WHERE verdict = 'unknown'")
    rule = ("tenant_id", "model", "part")
    op.create_table(
        "postponed_removals",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("since", MOMENT, server_default=NOW, nullable=False),
        sa.Column("tried_at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("error", sa.Text()),
        sa.ForeignKeyConstraint(
            rule,
            [f"retention_rules.{name}" for name in rule],
            name=op.f("fk_postponed_removals_tenant_id_model_part"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", *rule, name=op.f("pk_postponed_removals")),
    )
    op.create_index(
        op.f("ix_postponed_removals_tenant_id_model_part_tried_at"), "postponed_removals", [*rule, "tried_at"]
    )
    # The text as it came is known of new inputs only.
    op.add_column("inputs", sa.Column("sha256", sa.Text()))
    op.add_column("inputs", sa.Column("size", sa.BigInteger()))


def downgrade() -> None:
    op.drop_column("inputs", "size")
    op.drop_column("inputs", "sha256")
    op.drop_index("ix_reports_unknown", table_name="reports")
    op.drop_table("postponed_removals")
