"""How long what is kept, holds on jobs, what was removed of a job, and which stored files anybody refers to.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
NOW = sa.text("now()")

# A file that came in an input, as the input names it.
KEPT = r"""'"\\u0000([0-9a-f]{64}) '"""


def job_id(table: str) -> tuple[sa.Column[object], sa.ForeignKeyConstraint]:
    return (
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f(f"fk_{table}_job_id"), ondelete="CASCADE"),
    )


def upgrade() -> None:
    op.create_table(
        "retention_rules",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("after_seconds", sa.Double(), nullable=False),
        sa.Column("keep", sa.Text(), nullable=False),
        sa.Column("done_through", sa.Uuid()),
        sa.Column("version", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint(
            "part IN ('input', 'result', 'files', 'evidence', 'job')", name=op.f("ck_retention_rules_part_known")
        ),
        sa.CheckConstraint("keep IN ('all', 'hash', 'nothing')", name=op.f("ck_retention_rules_keep_known")),
        sa.CheckConstraint("part <> 'job' OR keep <> 'hash'", name=op.f("ck_retention_rules_job_has_no_hash")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_retention_rules_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "model", "part", name=op.f("pk_retention_rules")),
    )
    op.create_table(
        "holds",
        *job_id("holds"),
        sa.Column("since", MOMENT, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_holds")),
    )
    op.create_table(
        "removals",
        *job_id("removals"),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("at", MOMENT, server_default=NOW, nullable=False),
        sa.Column("sha256", sa.Text()),
        sa.Column("size", sa.BigInteger()),
        sa.CheckConstraint("part IN ('input', 'result', 'files', 'evidence')", name=op.f("ck_removals_part_known")),
        sa.PrimaryKeyConstraint("job_id", "part", name=op.f("pk_removals")),
    )
    op.create_table(
        "input_files",
        *job_id("input_files"),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name=op.f("fk_input_files_sha256")),
        sa.PrimaryKeyConstraint("job_id", "sha256", name=op.f("pk_input_files")),
    )
    op.create_index("ix_input_files_sha256", "input_files", ["sha256"])
    op.create_table(
        "unreferenced_blobs",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("since", MOMENT, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["sha256"], ["blobs.sha256"], name=op.f("fk_unreferenced_blobs_sha256"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_unreferenced_blobs")),
    )
    op.create_index("ix_unreferenced_blobs_since", "unreferenced_blobs", ["since"])
    op.create_index("ix_uploads_sha256", "uploads", ["sha256"], postgresql_where=sa.text("sha256 IS NOT NULL"))
    for name in ("uploaded", "deleting"):
        op.add_column("blobs", sa.Column(name, sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.execute(
        "INSERT INTO input_files (job_id, sha256) SELECT DISTINCT jobs.id, found[1]"
        f" FROM jobs, regexp_matches(jobs.input, {KEPT}, 'g') AS found"
        " WHERE strpos(jobs.input, '\\u0000') > 0 AND EXISTS (SELECT FROM blobs WHERE sha256 = found[1])"
    )
    op.execute(
        "UPDATE blobs SET uploaded = true WHERE NOT EXISTS (SELECT FROM artifacts WHERE artifacts.sha256 = blobs.sha256)"
        " AND NOT EXISTS (SELECT FROM input_files WHERE input_files.sha256 = blobs.sha256)"
    )
    op.execute("INSERT INTO holds (job_id) SELECT id FROM jobs WHERE 'hold' = ANY (tags)")
    op.add_column("artifacts", sa.Column("removed_at", MOMENT))
    op.add_column("artifacts", sa.Column("removed_sha256", sa.Text()))
    op.add_column("reports", sa.Column("removed_sha256", sa.Text()))
    op.add_column("reports", sa.Column("removed_size", sa.BigInteger()))


def downgrade() -> None:
    op.drop_column("reports", "removed_size")
    op.drop_column("reports", "removed_sha256")
    op.drop_column("artifacts", "removed_sha256")
    op.drop_column("artifacts", "removed_at")
    op.drop_column("blobs", "deleting")
    op.drop_column("blobs", "uploaded")
    op.drop_index("ix_uploads_sha256", table_name="uploads")
    op.drop_table("unreferenced_blobs")
    op.drop_table("input_files")
    op.drop_table("removals")
    op.drop_table("holds")
    op.drop_table("retention_rules")
