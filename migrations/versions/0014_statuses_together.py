"""Tallies of all statuses together, of the time that jobs took.

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

SERIES = """
INSERT INTO series (tenant_id, measure, model, provider, status)
SELECT DISTINCT tenant_id, measure, model, provider, '' FROM series WHERE measure = 'total_seconds'
"""

TALLIES = """
WITH part AS MATERIALIZED (
    SELECT together.id, tallies.grain, tallies.start, tallies.n, tallies.total, tallies.buckets, tallies.counts
    FROM series together
    JOIN series USING (tenant_id, measure, model, provider)
    JOIN tallies ON tallies.series_id = series.id
    WHERE together.measure = 'total_seconds' AND together.status = '' AND series.status <> ''
), met AS (
    SELECT id, grain, start, bucket, sum(count)::int4 AS count
    FROM part CROSS JOIN LATERAL unnest(buckets, counts) AS each (bucket, count) GROUP BY id, grain, start, bucket
), spread AS (
    SELECT id, grain, start, array_agg(bucket ORDER BY bucket) AS buckets, array_agg(count ORDER BY bucket) AS counts
    FROM met GROUP BY id, grain, start
)
INSERT INTO tallies (series_id, grain, start, n, total, buckets, counts)
SELECT id, grain, start, sum(n), sum(total), spread.buckets, spread.counts
FROM part JOIN spread USING (id, grain, start) GROUP BY id, grain, start, spread.buckets, spread.counts
"""


def upgrade() -> None:
    op.execute(f"SELECT pg_advisory_xact_lock({TURN})")
    op.execute(SERIES)
    op.execute(TALLIES)


def downgrade() -> None:
    op.execute("DELETE FROM tallies USING series WHERE series.id = series_id AND status = ''")
    op.execute("DELETE FROM series WHERE status = ''")
