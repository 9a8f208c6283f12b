"""Tallies of all statuses together, of the time that jobs took, and of all tenants together, of time and cost.

Revision ID: 0014
Revises: 0013
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# Of the counters: none of them counts meanwhile.
TURN = 0x636F756E
ALL_TENANTS = "00000000-0000-0000-0000-000000000000"

STATUSES = """
INSERT INTO series (tenant_id, measure, model, provider, status)
SELECT DISTINCT tenant_id, measure, model, provider, '' FROM series WHERE measure = 'total_seconds'
"""
TENANTS = f"""
INSERT INTO series (tenant_id, measure, model, provider, status)
SELECT DISTINCT '{ALL_TENANTS}'::uuid, measure, model, provider, status FROM series
WHERE measure IN ('total_seconds', 'cost')
"""

# One series after the other: all at once would be sorted on disk.
TALLIES = """
INSERT INTO tallies (series_id, grain, start, n, sum, buckets, counts)
SELECT together.id, made.* FROM series AS together CROSS JOIN LATERAL (
    WITH part AS MATERIALIZED (
        SELECT tallies.* FROM series JOIN tallies ON tallies.series_id = series.id
        WHERE series.measure = together.measure AND series.model = together.model
          AND series.provider = together.provider AND {alike}
    ), spread AS (
        SELECT grain, start, array_agg(bucket ORDER BY bucket) AS buckets, array_agg(count ORDER BY bucket) AS counts
        FROM (
            SELECT grain, start, bucket, least(sum(count), 2147483647)::int4 AS count
            FROM part CROSS JOIN LATERAL unnest(buckets, counts) AS met (bucket, count) GROUP BY grain, start, bucket
        ) AS each GROUP BY grain, start
    )
    SELECT grain, start, whole.n, whole.sum, spread.buckets, spread.counts
    FROM (SELECT grain, start, sum(n) AS n, sum(sum) AS sum FROM part GROUP BY grain, start) AS whole
    JOIN spread USING (grain, start)
) AS made
WHERE {those}
"""
OF_A_TENANT = "series.tenant_id = together.tenant_id AND series.status <> ''"
OF_A_STATUS = f"series.tenant_id <> '{ALL_TENANTS}' AND series.status = together.status"


# PostgreSQL has names for these since 18.
RENAME_CONSTRAINT = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'tallies'::regclass AND conname = 'tallies_{old}_not_null') THEN
        ALTER TABLE tallies RENAME CONSTRAINT tallies_{old}_not_null TO tallies_{new}_not_null;
    END IF;
END $$
"""


def rename(old: str, new: str) -> None:
    op.alter_column("tallies", old, new_column_name=new)
    op.execute(RENAME_CONSTRAINT.format(old=old, new=new))


def upgrade() -> None:
    # A counter may have its turn for minutes.
    op.execute(f"SELECT set_config('lock_timeout', '0', true), pg_advisory_xact_lock({TURN})")
    op.execute("SET LOCAL lock_timeout = '10s'")
    # Under its new name no worker of the version before finds it: what that counted would be missing in these series.
    # First, as it is what may have to wait.
    rename("total", "sum")
    op.execute(STATUSES)
    op.execute(TALLIES.format(alike=OF_A_TENANT, those="together.status = ''"))
    op.execute(TENANTS)
    op.execute(TALLIES.format(alike=OF_A_STATUS, those=f"together.tenant_id = '{ALL_TENANTS}'"))


def downgrade() -> None:
    rename("sum", "total")
    together = f"series.status = '' OR series.tenant_id = '{ALL_TENANTS}'"
    op.execute(f"DELETE FROM tallies USING series WHERE series.id = series_id AND ({together})")
    op.execute(f"DELETE FROM series WHERE {together}")
