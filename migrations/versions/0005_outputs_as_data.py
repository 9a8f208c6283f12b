"""Outcomes as narrow rows to ask and count by, results beside them, and indexes that are walked newest first.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
FROM_JOBS = (("model", sa.Text()), ("provider", sa.Text()), ("created_at", MOMENT))
PHASES = ("queued", "submit", "provider_queue", "run", "provider", "webhook", "total", "copy", "callback")
FINAL = (
    "job_id, tenant_id, model, provider, created_at, status, attempt, source, http_status, error_type, error, seed, usage, "
    "model_timings, started_at, cancel_requested_at, received_at, completed_at, queued_seconds, submit_seconds, "
    "provider_queue_seconds, run_seconds, provider_seconds, webhook_seconds, total_seconds"
)


def between(start: str, end: str) -> str:
    return (
        f"CASE WHEN {end} >= {start} THEN extract(epoch FROM {end} - {start})::float8 WHEN {end} < {start} THEN 0 END"
    )


# What the statements of the end write from now on, for the jobs that ended before.
FILL = f"""
UPDATE outcomes
SET model = jobs.model, provider = coalesce(attempts.provider, jobs.provider), created_at = jobs.created_at,
    queued_seconds = {between("jobs.created_at", "attempts.claimed_at")},
    submit_seconds = {between("attempts.claimed_at", "least(attempts.answered_at, received_at)")},
    provider_queue_seconds = CASE WHEN attempts.answered_at IS NOT NULL THEN
        {between("least(attempts.answered_at, received_at)", "started_at")} END,
    run_seconds = {between("started_at", "received_at")},
    provider_seconds = CASE WHEN attempts.answered_at IS NOT NULL THEN
        {between("least(attempts.answered_at, received_at)", "received_at")} END,
    webhook_seconds = {between("received_at", "completed_at")},
    total_seconds = coalesce({between("jobs.created_at", "completed_at")}, 0),
    copy_seconds = (SELECT {between("completed_at", "max(stored_at)")} FROM artifacts
                    WHERE artifacts.job_id = outcomes.job_id AND outcomes.status = 'completed'),
    callback_seconds = (SELECT {between("completed_at", "callbacks.ended_at")} FROM callbacks
                        WHERE callbacks.job_id = outcomes.job_id AND callbacks.state = 'delivered')
FROM jobs LEFT JOIN attempts ON attempts.job_id = jobs.id
WHERE jobs.id = outcomes.job_id
  AND (attempts.number = outcomes.attempt OR outcomes.attempt = 0
       OR NOT EXISTS (SELECT FROM attempts tried WHERE tried.job_id = jobs.id AND tried.number = outcomes.attempt))
"""

MARKS = """
INSERT INTO job_marks (tenant_id, name, value, job_id)
SELECT jobs.tenant_id, left(mark.name, 200), left(mark.value, 200), jobs.id
FROM jobs CROSS JOIN LATERAL (
    SELECT 'tag' AS name, tag AS value FROM unnest(jobs.tags) AS tag
    UNION
    SELECT 'metadata.' || key, CASE jsonb_typeof(value) WHEN 'number' THEN trim_scale((value)::numeric)::text
                                                        WHEN 'null' THEN 'null' ELSE value #>> '{}' END
    FROM jsonb_each(jobs.metadata) WHERE jsonb_typeof(value) NOT IN ('object', 'array')
) AS mark
ON CONFLICT DO NOTHING
"""


def upgrade() -> None:
    op.execute("DROP TRIGGER outcomes_are_final ON outcomes")
    op.create_table(
        "results",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("text", sa.Text()),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_results_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_results")),
    )
    op.execute("INSERT INTO results (job_id, body, text) SELECT job_id, body, text FROM outcomes")
    op.drop_column("outcomes", "body")
    op.drop_column("outcomes", "text")
    for name, kind in FROM_JOBS:
        op.add_column("outcomes", sa.Column(name, kind))
    for phase in PHASES:
        op.add_column("outcomes", sa.Column(f"{phase}_seconds", sa.Double()))
    op.add_column("outcomes", sa.Column("cost", sa.Numeric()))
    op.execute("ALTER TABLE outcomes SET (fillfactor = 85)")
    op.execute(FILL)
    for name, _ in FROM_JOBS:
        op.alter_column("outcomes", name, nullable=False)
    op.alter_column("outcomes", "total_seconds", nullable=False)
    for column in (None, "model", "provider"):
        columns = ["tenant_id", *([column] if column else []), "job_id"]
        op.create_index(f"ix_outcomes_{'_'.join(columns)}", "outcomes", columns)
    op.create_index(
        "ix_outcomes_tenant_id_error_type_job_id",
        "outcomes",
        ["tenant_id", "error_type", "job_id"],
        postgresql_where=sa.text("error_type IS NOT NULL"),
    )
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_update() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN RAISE EXCEPTION '% of job % is final', TG_TABLE_NAME, OLD.job_id; END $$"
    )
    op.execute(
        f"CREATE TRIGGER outcomes_are_final BEFORE UPDATE OF {FINAL} ON outcomes"
        " FOR EACH ROW EXECUTE FUNCTION refuse_update()"
    )
    op.execute(
        "CREATE TRIGGER results_are_final BEFORE UPDATE ON results FOR EACH ROW EXECUTE FUNCTION refuse_update()"
    )
    op.create_table(
        "uncounted",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.CheckConstraint("part IN ('end', 'copy', 'callback')", name=op.f("ck_uncounted_part_known")),
        sa.PrimaryKeyConstraint("job_id", "part", name=op.f("pk_uncounted")),
        postgresql_with={
            "autovacuum_vacuum_scale_factor": 0.02,
            "autovacuum_vacuum_threshold": 500,
            "autovacuum_vacuum_cost_delay": 0,
        },
    )
    op.execute(
        "INSERT INTO uncounted (job_id, part) SELECT job_id, 'end' FROM outcomes"
        " UNION ALL SELECT job_id, 'copy' FROM outcomes WHERE copy_seconds IS NOT NULL"
        " UNION ALL SELECT job_id, 'callback' FROM outcomes WHERE callback_seconds IS NOT NULL"
    )
    op.create_table(
        "job_marks",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "name", "value", "job_id", name=op.f("pk_job_marks")),
    )
    op.execute(MARKS)
    op.create_index("ix_live_jobs_tenant_id_job_id", "live_jobs", ["tenant_id", "job_id"])
    for index in ("tags", "metadata", "tenant_id_id", "tenant_id_model_id"):
        op.drop_index(f"ix_jobs_{index}", table_name="jobs")
    op.add_column("artifacts", sa.Column("tenant_id", sa.Uuid()))
    op.add_column("artifacts", sa.Column("source_expires_at", MOMENT))
    op.execute("UPDATE artifacts SET tenant_id = jobs.tenant_id FROM jobs WHERE jobs.id = artifacts.job_id")
    op.alter_column("artifacts", "tenant_id", nullable=False)
    op.create_index(
        "ix_artifacts_label",
        "artifacts",
        ["tenant_id", sa.text("lower(left(label, 200))"), "job_id"],
        postgresql_where=sa.text("kind = 'mask' AND label IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_artifacts_label", table_name="artifacts")
    op.drop_column("artifacts", "source_expires_at")
    op.drop_column("artifacts", "tenant_id")
    op.drop_index("ix_live_jobs_tenant_id_job_id", table_name="live_jobs")
    op.create_index("ix_jobs_tenant_id_model_id", "jobs", ["tenant_id", "model", "id"])
    op.create_index("ix_jobs_tenant_id_id", "jobs", ["tenant_id", "id"])
    op.create_index(
        "ix_jobs_metadata",
        "jobs",
        ["metadata"],
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
        postgresql_where=sa.text("metadata <> '{}'"),
    )
    op.create_index("ix_jobs_tags", "jobs", ["tags"], postgresql_using="gin", postgresql_where=sa.text("tags <> '{}'"))
    op.drop_table("job_marks")
    op.drop_table("uncounted")
    op.execute("DROP TRIGGER outcomes_are_final ON outcomes")
    op.add_column("outcomes", sa.Column("body", sa.LargeBinary()))
    op.add_column("outcomes", sa.Column("text", sa.Text()))
    op.execute(
        "UPDATE outcomes SET body = results.body, text = results.text FROM results WHERE results.job_id = outcomes.job_id"
    )
    # Of a result that was removed.
    op.execute("UPDATE outcomes SET body = '' WHERE body IS NULL")
    op.alter_column("outcomes", "body", nullable=False)
    op.drop_table("results")
    for column in ("error_type_", "provider_", "model_", ""):
        op.drop_index(f"ix_outcomes_tenant_id_{column}job_id", table_name="outcomes")
    op.execute("ALTER TABLE outcomes RESET (fillfactor)")
    op.drop_column("outcomes", "cost")
    for phase in reversed(PHASES):
        op.drop_column("outcomes", f"{phase}_seconds")
    for name, _ in reversed(FROM_JOBS):
        op.drop_column("outcomes", name)
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_update() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN RAISE EXCEPTION 'outcome of job % is final', OLD.job_id; END $$"
    )
    op.execute(
        "CREATE TRIGGER outcomes_are_final BEFORE UPDATE ON outcomes FOR EACH ROW EXECUTE FUNCTION refuse_update()"
    )
