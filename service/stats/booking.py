"""Books what an attempt cost that did not complete its job, and of which a result came all the same."""

from uuid import UUID

from service.catalog.base import Lifted
from service.db import Database
from service.jobs.endings import units_of
from service.jobs.facts import Evidence
from service.jobs.lifecycle import Status
from service.jsontext import encode
from service.stats.prices import cost_of

# $1 job, $2 attempt, $3 request ID, $4 usage, $5 timings, $6 headers of the answer
#
# By the prices that held when the job ended: so it does not matter when its news come, in which order and how often.
# What is known stands; news that say more than those before (billable units) make known what was not.
_BOOK = f"""
UPDATE attempts SET cost = {cost_of("answer")}
FROM (
    SELECT attempts.job_id, number, attempts.provider, model, completed_at, '{Status.COMPLETED}' AS status,
           $4::jsonb AS usage, $5::jsonb AS model_timings, NULL::float8 AS run_seconds,
           {units_of("$6::jsonb")} AS billable_units
    FROM attempts JOIN outcomes ON outcomes.job_id = attempts.job_id
    WHERE attempts.job_id = $1 AND number = $2 AND (number <> outcomes.attempt OR status <> '{Status.COMPLETED}')
      AND ($3::text IS NULL OR provider_request_id = $3 OR provider_request_id IS NULL
           AND NOT EXISTS (SELECT FROM attempts other WHERE other.provider_request_id = $3))
) AS answer
WHERE attempts.job_id = answer.job_id AND attempts.number = answer.number AND attempts.cost IS NULL
"""


async def book(db: Database, job_id: UUID, attempt: int, evidence: Evidence, lifted: Lifted) -> None:
    """Of a completed answer that came too late to end the job; once, however often it comes."""
    usage, timings = (encode(each).decode() for each in (lifted.usage, lifted.timings))
    await db.execute(_BOOK, job_id, attempt, evidence.request_id, usage, timings, evidence.headers)
