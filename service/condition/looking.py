"""All that is looked at, under the names by which it is told what could not be."""

from collections.abc import Mapping

from service.condition import deliveries, jobs, parts, removals
from service.condition.findings import Check, Condition, Surroundings, look

CHECKS: Mapping[str, Check] = {
    "stuck jobs": jobs.stuck_jobs,
    "refused submissions": jobs.refused_submissions,
    "GPU workers": jobs.unserved_models,
    "jobs in doubt": jobs.jobs_in_doubt,
    "overdue webhooks": jobs.overdue_webhooks,
    "failing models": jobs.failing_models,
    "long runs": jobs.long_runs,
    "paused providers": deliveries.paused_providers,
    "refused webhooks": deliveries.refused_webhooks,
    "failing receivers": deliveries.failing_receivers,
    "late callbacks": deliveries.late_callbacks,
    "files": deliveries.uncopied_files,
    "actions on many jobs": deliveries.held_up_actions,
    "rules of retention": removals.postponed_removals,
    "processes": parts.silent_processes,
    "broker": parts.broker_away,
    "database": parts.database_strain,
}


async def condition_of(around: Surroundings) -> Condition:
    """What is wrong now: of one tenant's jobs, or of everything."""
    return await look(around, CHECKS)
