"""More kinds of evidence, providers that are paused, and what a tenant wants done in doubt.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# As of this revision: later ones may know more words.
STATES = (
    "submitting",
    "submitted",
    "refused",
    "blocked",
    "ambiguous",
    "abandoned",
    "superseded",
    "completed",
    "failed",
    "cancelled",
)
SOURCES = ("submit", "webhook", "status", "result", "cancel")
VERDICTS = (
    "applied",
    "duplicate",
    "conflict",
    "late",
    "foreign",
    "unknown",
    "unreadable",
    "incomplete",
    "noted",
    "inconclusive",
)


def upgrade() -> None:
    op.add_column("tenants", sa.Column("on_doubt", sa.Text(), server_default=sa.text("'resubmit'"), nullable=False))
    op.create_check_constraint(op.f("ck_tenants_on_doubt_known"), "tenants", one_of("on_doubt", ("resubmit", "fail")))
    op.add_column("live_jobs", sa.Column("refused_seconds", sa.Double(), server_default=sa.text("0"), nullable=False))
    op.add_column("live_jobs", sa.Column("missing_since", sa.DateTime(timezone=True)))
    op.add_column(
        "live_jobs", sa.Column("missing_times", sa.SmallInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("reports", sa.Column("times", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.add_column("reports", sa.Column("last_received_at", sa.DateTime(timezone=True)))
    op.create_table(
        "provider_pauses",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("http_status", sa.SmallInteger()),
        sa.Column("paused_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("probe_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("provider", name=op.f("pk_provider_pauses")),
    )
    replace_check("attempts", "state", STATES)
    replace_check("reports", "source", SOURCES)
    replace_check("reports", "verdict", VERDICTS)


def downgrade() -> None:
    op.execute("UPDATE attempts SET state = 'refused' WHERE state = 'blocked'")
    op.execute("DELETE FROM reports WHERE source IN ('submit', 'cancel') OR verdict IN ('noted', 'inconclusive')")
    replace_check("reports", "verdict", VERDICTS[:8])
    replace_check("reports", "source", SOURCES[1:4])
    replace_check("attempts", "state", tuple(state for state in STATES if state != "blocked"))
    op.drop_table("provider_pauses")
    op.drop_column("reports", "last_received_at")
    op.drop_column("reports", "times")
    op.drop_column("live_jobs", "missing_times")
    op.drop_column("live_jobs", "missing_since")
    op.drop_column("live_jobs", "refused_seconds")
    op.drop_constraint(op.f("ck_tenants_on_doubt_known"), "tenants")
    op.drop_column("tenants", "on_doubt")


def one_of(column: str, words: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(word) for word in words)})"


def replace_check(table: str, column: str, words: tuple[str, ...]) -> None:
    """Reads the table through under a lock: seconds for each million of rows, in which nobody else can use it."""
    name = f"ck_{table}_{column}_known"
    op.drop_constraint(op.f(name), table)
    op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({one_of(column, words)})")
