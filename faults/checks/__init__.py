"""The promises, one function each: evidence in, the number of times that it was broken out."""

from collections.abc import Callable

from faults.checks import files, jobs, news, requests
from faults.evidence import Evidence
from faults.findings import Finding

CHECKS: tuple[Callable[[Evidence], Finding], ...] = (
    jobs.accepted_jobs_lost,
    jobs.refused_for_ever,
    jobs.without_an_end,
    jobs.several_ends,
    jobs.results_that_changed,
    jobs.reads_that_went_back,
    jobs.events_that_disagree,
    news.outcomes_overwritten,
    news.results_of_another_request,
    jobs.not_as_asked,
    news.forgeries_applied,
    requests.requests_unexplained,
    jobs.several_jobs_for_a_key,
    jobs.counted_otherwise,
    files.artifacts_not_whole,
    files.files_unaccounted_for,
    files.parts_left,
)


def check(evidence: Evidence) -> list[Finding]:
    return [each(evidence) for each in CHECKS]
