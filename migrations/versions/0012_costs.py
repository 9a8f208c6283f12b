"""Prices of one provider, and what attempts cost that did not complete their job.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("cost", sa.Numeric(), nullable=True))
    op.add_column("prices", sa.Column("provider", sa.Text(), server_default=sa.text("'*'"), nullable=False))
    op.drop_constraint("pk_prices", "prices")
    op.create_primary_key("pk_prices", "prices", ["model", "provider", "unit", "since"])


def downgrade() -> None:
    # Nothing tells the schema before that these are not of all providers.
    op.execute("DELETE FROM prices WHERE provider <> '*'")
    op.drop_constraint("pk_prices", "prices")
    op.create_primary_key("pk_prices", "prices", ["model", "unit", "since"])
    op.drop_column("prices", "provider")
    op.drop_column("attempts", "cost")
