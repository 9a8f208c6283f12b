"""What may be wrong with jobs: nobody looks after them, they are in doubt, their webhooks do not come."""

from collections.abc import Sequence

from service.condition.findings import LOOKED_THROUGH, MOST_COUNTED, Finding, Severity, Surroundings, agrees, number
from service.jobs.lifecycle import Duty, Source, Status
from service.jobs.pauses import pauses
from service.jobs.routing import GPU, PROVIDERS
from service.jobs.turns import GONE_SECONDS

# A sweep comes every few seconds; who is late by so much has not been looked after by many.
LATE_SECONDS = 60.0
# Work that waits so long while other work goes on is more than a full queue.
LONG_WAIT_SECONDS = 600.0
# A worker that did something since is at work.
PROGRESS_SECONDS = 95.0

# Late ones come first in each of these indexes, of which that of submissions begins with provider and rank. Of one
# tenant they are picked out of the first of all.
_LATE = f"""
WITH late AS (
    (SELECT tenant_id, duty, due_at FROM live_jobs
     WHERE duty <> '{Duty.SUBMIT}' AND due_at < now() - make_interval(secs => {LATE_SECONDS})
     ORDER BY due_at LIMIT $2)
    UNION ALL
    SELECT first.* FROM unnest($3::text[]) AS open (provider) CROSS JOIN (VALUES (0::int2), (1::int2)) AS ranks (rank)
    CROSS JOIN LATERAL (
        SELECT tenant_id, duty, due_at FROM live_jobs
        WHERE duty = '{Duty.SUBMIT}' AND provider = open.provider AND rank = ranks.rank
          AND due_at < now() - make_interval(secs => {LATE_SECONDS})
        ORDER BY due_at LIMIT $2
    ) AS first
)
SELECT duty, count(*) AS jobs, min(due_at) AS since, extract(epoch FROM now() - min(due_at))::float8 AS late
FROM late WHERE $1::uuid IS NULL OR tenant_id = $1 GROUP BY duty
"""
_PROGRESS = """
SELECT max(progressed_at) > now() - make_interval(secs => $1) AS any FROM processes
WHERE kind = 'worker' AND ended_at IS NULL
"""

_OWED = {
    Duty.ANSWER: "the submission of {jobs} was begun by a worker that is gone, and nobody looks after {them}",
    Duty.REPORT: "nobody asks the provider about {jobs} whose webhook did not come",
    Duty.SETTLE: "{jobs} whose submission stayed in doubt {are} not decided",
    Duty.CLOSE: "{jobs} that {are} to be ended {are} not",
}
_START_A_WORKER = "See under System whether a worker and beat are at work; start them, or look into their logs."


async def stuck_jobs(around: Surroundings) -> Sequence[Finding]:
    """By how much what is owed to jobs is overdue, for each duty."""
    most = MOST_COUNTED + 1 if around.tenant_id is None else LOOKED_THROUGH
    # What waits for the end of a pause is told with that.
    paused = {row["provider"] for row in await pauses(around.db)}
    rows = await around.db.fetch(_LATE, around.tenant_id, most, [each for each in PROVIDERS if each not in paused])
    findings = []
    for row in rows:
        count = int(row["jobs"])
        if row["duty"] == Duty.SUBMIT:
            progress = await around.db.fetchrow(_PROGRESS, PROGRESS_SECONDS)
            goes_on = progress is not None and bool(progress["any"])
            waits = number(min(count, MOST_COUNTED + 1), "job")
            if goes_on:
                severity = Severity.WARNING if row["late"] > LONG_WAIT_SECONDS else Severity.NOTICE
                words = f"{waits} {agrees(count, 'waits', 'wait')} for the submission while others are submitted."
                advice = "More comes than is submitted: start another worker, or wait."
            else:
                severity = Severity.CRITICAL
                words, advice = f"{waits} {agrees(count, 'is', 'are')} not being submitted.", _START_A_WORKER
            found = {"status": "queued"}
        else:
            severity, found, advice = Severity.CRITICAL, {}, _START_A_WORKER
            shown = number(min(count, MOST_COUNTED + 1), "job")
            said = _OWED[Duty(row["duty"])]
            words = said.format(jobs=shown, them=agrees(count, "it", "them"), are=agrees(count, "is", "are")) + "."
        findings.append(
            Finding(
                f"stuck_{row['duty']}",
                severity,
                words,
                advice,
                row["since"],
                min(count, MOST_COUNTED),
                count <= MOST_COUNTED,
                found,
            )
        )
    return findings


# So many are told apart.
MOST_MODELS = 5

# Backing off comes to this after half a dozen refusals, which is more than a provider's short trouble.
REFUSED_SECONDS = 30.0

_REFUSED = f"""
WITH looked AS MATERIALIZED (
    SELECT job_id, tenant_id, provider, refused_seconds FROM live_jobs WHERE duty = '{Duty.SUBMIT}'
    LIMIT {LOOKED_THROUGH}
), refused AS (
    SELECT provider, count(*) AS jobs, (array_agg(job_id ORDER BY refused_seconds DESC))[1] AS longest
    FROM looked
    WHERE refused_seconds >= {REFUSED_SECONDS} AND provider = ANY ($2) AND ($1::uuid IS NULL OR tenant_id = $1)
    GROUP BY provider
)
SELECT refused.*, (SELECT count(*) FROM looked) AS looked, first.claimed_at AS since, last.error
FROM refused
CROSS JOIN LATERAL (SELECT claimed_at FROM attempts WHERE job_id = longest ORDER BY number LIMIT 1) AS first
CROSS JOIN LATERAL (
    SELECT error FROM attempts WHERE job_id = longest AND error IS NOT NULL ORDER BY number DESC LIMIT 1
) AS last
"""


async def refused_submissions(around: Surroundings) -> Sequence[Finding]:
    """A provider that cannot be reached, or is too busy. In whose words is for administrators."""
    paused = {row["provider"] for row in await pauses(around.db)}
    rows = await around.db.fetch(_REFUSED, around.tenant_id, [each for each in PROVIDERS if each not in paused])
    findings = []
    for row in rows:
        count, provider = int(row["jobs"]), row["provider"]
        why = f": {row['error']}" if around.tenant_id is None else "."
        words = f"{number(count, 'job')} {agrees(count, 'is', 'are')} not taken by the provider {provider}{why}"
        advice = f"They are offered again and again. See whether workers can reach {provider}, and whether it is well."
        exact = row["looked"] < LOOKED_THROUGH
        found = {"status": "queued", "provider": provider}
        findings.append(
            Finding("refused_submissions", Severity.WARNING, words, advice, row["since"], count, exact, found)
        )
    return findings


_UNSERVED = f"""
WITH waiting AS MATERIALIZED (
    SELECT jobs.model, jobs.created_at FROM live_jobs JOIN jobs ON jobs.id = live_jobs.job_id
    WHERE live_jobs.provider = 'gpu' AND live_jobs.run IS NULL AND live_jobs.duty = '{Duty.REPORT}'
      AND ($1::uuid IS NULL OR live_jobs.tenant_id = $1)
    ORDER BY live_jobs.job_id LIMIT {LOOKED_THROUGH}
)
SELECT model, count(*) AS jobs, min(created_at) AS since, (SELECT count(*) FROM waiting) AS looked FROM waiting
WHERE NOT EXISTS (SELECT FROM gpu_workers WHERE gpu_workers.model = waiting.model
                  AND seen_at > now() - interval '{GONE_SECONDS} s')
GROUP BY model ORDER BY jobs DESC, model LIMIT {MOST_MODELS}
"""


async def unserved_models(around: Surroundings) -> Sequence[Finding]:
    """Jobs that wait for a GPU worker where there is none: they wait as long as a job may."""
    findings = []
    for row in await around.db.fetch(_UNSERVED, around.tenant_id):
        count, model = int(row["jobs"]), row["model"]
        words = f"{number(count, 'job')} {agrees(count, 'waits', 'wait')} for a GPU worker of {model}: none is at work."
        advice = f"Start one, `roundtrip gpu-worker --model {model}`, or cancel them; those that may go to fal do so."
        exact = row["looked"] < LOOKED_THROUGH
        found = {"status": "submitted", "provider": "gpu", "model": model}
        findings.append(Finding("no_gpu_worker", Severity.WARNING, words, advice, row["since"], count, exact, found))
    return findings


_DOUBT = f"""
WITH looked AS MATERIALIZED (
    SELECT job_id, tenant_id, attempt, duty FROM live_jobs WHERE duty <> '{Duty.SUBMIT}'
    ORDER BY due_at LIMIT {LOOKED_THROUGH}
)
SELECT count(*) AS jobs, min(attempts.claimed_at) AS since, (SELECT count(*) FROM looked) AS looked
FROM looked JOIN attempts ON attempts.job_id = looked.job_id AND attempts.number = looked.attempt
WHERE looked.duty = '{Duty.SETTLE}' AND ($1::uuid IS NULL OR looked.tenant_id = $1)
"""


async def jobs_in_doubt(around: Surroundings) -> Sequence[Finding]:
    row = await around.db.fetchrow(_DOUBT, around.tenant_id)
    if row is None or not row["jobs"]:
        return []
    count = int(row["jobs"])
    return [
        Finding(
            "in_doubt",
            Severity.NOTICE,
            f"The answer to the submission of {number(count, 'job')} was lost; the webhook may still come.",
            "Nothing, as a rule: after ROUNDTRIP_AMBIGUOUS_SECONDS it is done what the tenant wants, `roundtrip"
            " tenants set --on-doubt`. If there are many, the way to the provider is bad.",
            row["since"],
            count,
            row["looked"] < LOOKED_THROUGH,
        )
    ]


# Of the newest jobs that have ended, how many ended by what we had to ask for.
NEWEST = 500
FEWEST_POLLED = 3
_LEARNED = f"""
SELECT count(*) FILTER (WHERE source = '{Source.WEBHOOK}') AS told,
       count(*) FILTER (WHERE source IN ('{Source.RESULT}', '{Source.STATUS}')) AS asked,
       min(completed_at) FILTER (WHERE source IN ('{Source.RESULT}', '{Source.STATUS}')) AS since
FROM (SELECT source, completed_at FROM outcomes {{mine}} ORDER BY job_id DESC LIMIT {NEWEST}) AS newest
WHERE completed_at > now() - interval '1 hour'
"""


async def overdue_webhooks(around: Surroundings) -> Sequence[Finding]:
    """Ends of the last hour that no webhook told, as far as they are among the newest jobs."""
    [row] = await around.rows_of(_LEARNED)
    asked, told = int(row["asked"]), int(row["told"])
    if asked < FEWEST_POLLED or asked * 20 < asked + told:
        return []
    none = told == 0
    share = "None" if none else f"{told:,} of {asked + told:,}"
    return [
        Finding(
            "overdue_webhooks",
            Severity.CRITICAL if none else Severity.WARNING,
            f"{share} of the newest jobs that ended within the hour {agrees(told, 'was', 'were')} told by a webhook;"
            f" the end of {number(asked, 'job')} was found by asking, which takes longer.",
            f"See whether the provider reaches {around.public_url} (ROUNDTRIP_PUBLIC_URL), and whether webhooks are"
            " refused.",
            row["since"],
            asked,
        )
    ]


# As many of a model, and half of those that it had, are no accident.
FEWEST_FAILED = 5
_FAILED = f"""
SELECT model, count(*) AS judged, count(*) FILTER (WHERE status = '{Status.FAILED}') AS failed,
       min(completed_at) FILTER (WHERE status = '{Status.FAILED}') AS since,
       mode() WITHIN GROUP (ORDER BY error_type) FILTER (WHERE status = '{Status.FAILED}') AS error_type
FROM (
    SELECT model, status, error_type, completed_at FROM outcomes {{mine}} ORDER BY job_id DESC LIMIT {NEWEST}
) AS newest
WHERE completed_at > now() - interval '1 hour' AND status IN ('{Status.COMPLETED}', '{Status.FAILED}')
GROUP BY model
HAVING count(*) FILTER (WHERE status = '{Status.FAILED}') >= greatest({FEWEST_FAILED}, count(*) / 2.0)
ORDER BY failed DESC, model LIMIT {MOST_MODELS}
"""


async def failing_models(around: Surroundings) -> Sequence[Finding]:
    """Models of which half of the jobs fail, of the last hour and as far as they are among the newest jobs."""
    advice = "Look at some of them: whether it is their inputs, the model, or its provider."
    findings = []
    for row in await around.rows_of(_FAILED):
        failed, model = int(row["failed"]), row["model"]
        words = f"{failed:,} of the last {int(row['judged']):,} jobs of {model} failed"
        words += f", most of them with {row['error_type']}." if row["error_type"] else "."
        found = {"status": "failed", "model": model}
        findings.append(Finding("failing_model", Severity.WARNING, words, advice, row["since"], failed, filter=found))
    return findings


# With the provider, or waiting for a GPU worker, for longer than this.
LONG_RUN_SECONDS = 600.0
_LONG = f"""
WITH oldest AS MATERIALIZED (
    SELECT job_id, attempt, provider = '{GPU}' AND status = '{Status.SUBMITTED}' AS waits FROM live_jobs {{mine}}
    ORDER BY job_id LIMIT {MOST_COUNTED}
)
SELECT oldest.waits, count(*) AS jobs, min(attempts.answered_at) AS since, (SELECT count(*) FROM oldest) AS looked
FROM oldest JOIN attempts ON attempts.job_id = oldest.job_id AND attempts.number = oldest.attempt
LEFT JOIN jobs ON oldest.waits AND jobs.id = oldest.job_id
WHERE attempts.answered_at < now() - make_interval(secs => {LONG_RUN_SECONDS})
  AND attempts.provider_request_id IS NOT NULL
  -- Where none is at work, that is told.
  AND (NOT oldest.waits OR jobs.model IN (
      SELECT model FROM gpu_workers WHERE seen_at > now() - interval '{GONE_SECONDS} s'))
GROUP BY oldest.waits ORDER BY oldest.waits
"""


async def long_runs(around: Surroundings) -> Sequence[Finding]:
    """Jobs that the provider has had for long, and those that GPU workers of one's own have not begun."""
    findings = []
    for row in await around.rows_of(_LONG):
        count, minutes = int(row["jobs"]), f"{LONG_RUN_SECONDS / 60:.0f} minutes"
        if row["waits"]:
            kind, found = "long_waits", {"status": "submitted", "provider": GPU}
            words = f"{number(count, 'job')} {agrees(count, 'has', 'have')} waited for a GPU worker for longer than"
            advice = "More comes than GPU workers of these models do: start another one, or wait."
        else:
            kind, found = "long_runs", {"status": "submitted,in_progress"}
            words = f"The provider has {number(count, 'job')} for longer than"
            advice = "Look at the oldest; it is asked about every ROUNDTRIP_POLL_SECONDS, and ends at its deadline."
        exact = row["looked"] < MOST_COUNTED
        words = f"{words} {minutes}."
        findings.append(Finding(kind, Severity.NOTICE, words, advice, row["since"], count, exact, found))
    return findings
