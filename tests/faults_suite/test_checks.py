"""Each check is quiet about a history in which all went well, and says so when one thing in it did not."""

from collections.abc import MutableSequence
from typing import Any

import pytest

from faults import checks
from faults.checks import files, jobs, news, requests
from faults.evidence import Evidence, Stored
from faults.orders import LLAVA, Order
from tests.faults_suite.making import (
    SHA,
    accepted,
    assert_red,
    attempt,
    finished,
    forged,
    good,
    job_id,
    read,
    request_id,
    tried,
)

Json = dict[str, Any]


@pytest.fixture
def evidence() -> Evidence:
    return good()


def rows(evidence: Evidence, table: str) -> MutableSequence[Json]:
    listed = evidence.rows[table]
    assert isinstance(listed, MutableSequence)
    return listed


def seen(evidence: Evidence, what: str) -> MutableSequence[Json]:
    listed = evidence.history[what]
    assert isinstance(listed, MutableSequence)
    return listed


def journal(evidence: Evidence) -> MutableSequence[Json]:
    assert isinstance(evidence.journal, MutableSequence)
    return evidence.journal


def test_a_good_history_breaks_no_promise(evidence: Evidence) -> None:
    assert [found.promise for found in checks.check(evidence) if found.red] == []


def test_an_accepted_job_that_is_not_stored_is_lost(evidence: Evidence) -> None:
    rows(evidence, "jobs").pop()
    assert_red(jobs.accepted_jobs_lost, evidence)


def test_an_order_that_nobody_accepted_is_told(evidence: Evidence) -> None:
    seen(evidence, "register")[-1] |= {"status": 422, "job": None, "words": "no"}
    assert_red(jobs.refused_for_ever, evidence)


def test_two_ids_told_for_one_key_are_two_jobs(evidence: Evidence) -> None:
    seen(evidence, "register").append({"number": 0, "status": 202, "job": job_id(99), "words": None})
    assert_red(jobs.several_jobs_for_a_key, evidence)


def test_a_second_job_of_a_key_that_nobody_was_told_of_counts_as_well(evidence: Evidence) -> None:
    rows(evidence, "jobs").append({"id": job_id(99), "tags": ["n0"], "created_at": 1.0})
    assert_red(jobs.several_jobs_for_a_key, evidence)


def test_a_job_that_never_ends_or_ends_too_late_is_without_an_end(evidence: Evidence) -> None:
    rows(evidence, "outcomes").pop()
    rows(evidence, "outcomes")[0]["completed_at"] = evidence.healed + evidence.bound + 1
    rows(evidence, "outcomes")[1]["completed_at"] = evidence.healed + evidence.bound - 1
    assert_red(jobs.without_an_end, evidence, times=2)


def test_a_live_row_beside_an_outcome_is_a_second_end(evidence: Evidence) -> None:
    rows(evidence, "live_jobs").append({"job_id": job_id(0), "status": "queued", "duty": "submit", "attempt": 1})
    assert_red(jobs.several_ends, evidence)


def test_a_second_event_of_an_end_is_a_second_end(evidence: Evidence) -> None:
    rows(evidence, "events").append({"job_id": job_id(0), "event": "failed", "status": "failed", "attempt": 1})
    assert_red(jobs.several_ends, evidence)
    assert_red(jobs.events_that_disagree, evidence)


def test_a_read_that_began_after_a_later_status_was_seen_went_back(evidence: Evidence) -> None:
    seen(evidence, "read").append(read(0, "submitted", 4.0))
    assert_red(jobs.reads_that_went_back, evidence)


def test_reads_at_the_same_time_may_come_in_any_order(evidence: Evidence) -> None:
    seen(evidence, "read").append({**read(0, "queued", 2.2), "began": 1.9})
    assert not jobs.reads_that_went_back(evidence).red


@pytest.mark.parametrize(("status", "result"), [("completed", "another"), ("failed", "r")])
def test_another_result_or_status_after_the_end_is_a_change(evidence: Evidence, status: str, result: str) -> None:
    seen(evidence, "read").append(read(0, status, 4.0, result))
    assert_red(jobs.results_that_changed, evidence)


def test_an_end_that_nobody_asked_for_is_told(evidence: Evidence) -> None:
    rows(evidence, "outcomes")[0]["status"] = "failed"
    assert_red(jobs.not_as_asked, evidence)


def test_cancels_deadlines_and_failures_end_as_they_were_asked_to(evidence: Evidence) -> None:
    assert isinstance(evidence.orders, dict)
    evidence.orders[0] = Order(0, LLAVA, {}, {}, cancel_after=1.0)
    evidence.orders[1] = Order(1, LLAVA, {}, {}, deadline_seconds=1.0)
    evidence.orders[2] = Order(2, LLAVA, {}, {"result_status": 500})
    for row, status in zip(rows(evidence, "outcomes"), ("cancelled", "failed", "failed"), strict=True):
        row["status"] = status
    assert not jobs.not_as_asked(evidence).red


def test_a_job_is_given_up_only_after_three_resubmissions_in_doubt(evidence: Evidence) -> None:
    rows(evidence, "outcomes")[0] |= {"status": "failed", "error_type": "submission_unknown"}
    rows(evidence, "attempts").extend(attempt(0, count, resubmitted_at=1.0) for count in (2, 3))
    assert_red(jobs.not_as_asked, evidence)
    rows(evidence, "attempts").append(attempt(0, 4, resubmitted_at=1.0))
    assert not jobs.not_as_asked(evidence).red


def test_an_outcome_that_is_not_the_report_applied_was_overwritten(evidence: Evidence) -> None:
    rows(evidence, "outcomes")[0]["body"] = b'{"output":"another"}'
    assert_red(news.outcomes_overwritten, evidence)


def test_a_webhook_that_was_spoiled_on_the_way_tells_nothing(evidence: Evidence) -> None:
    rows(evidence, "reports")[0]["body"] = b'{"payload": "\x8d"}'
    assert_red(news.outcomes_overwritten, evidence)


def test_a_result_that_was_spoiled_on_the_way_is_not_that_of_its_request(evidence: Evidence) -> None:
    rows(evidence, "outcomes")[0]["body"] = b'{"output": "\x8d"}'
    assert_red(news.results_of_another_request, evidence)


def test_two_reports_that_were_applied_are_one_too_many(evidence: Evidence) -> None:
    rows(evidence, "reports").append(dict(rows(evidence, "reports")[0]))
    assert_red(news.outcomes_overwritten, evidence)


def test_a_result_that_another_request_had_is_seen(evidence: Evidence) -> None:
    rows(evidence, "attempts")[0]["provider_request_id"] = request_id(1)
    assert_red(news.results_of_another_request, evidence)


@pytest.mark.parametrize(("answered", "red"), [(300.0, True), (700.0, False), (None, False)])
def test_a_crossed_webhook_is_forgiven_only_where_nobody_could_tell(
    evidence: Evidence, answered: float | None, red: bool
) -> None:
    journal(evidence).append(tried(1, "crossed", 200, at="1970-01-01T00:10:00.000Z"))
    for row in rows(evidence, "attempts"):
        row["answered_at"] = 650.0
    rows(evidence, "attempts")[0]["provider_request_id"] = request_id(1)
    rows(evidence, "attempts")[1]["answered_at"] = answered
    found = news.results_of_another_request(evidence)
    assert (found.red, bool(found.note)) == (red, not red)


def test_a_result_that_its_request_never_had_is_seen(evidence: Evidence) -> None:
    rows(evidence, "outcomes")[0]["body"] = b'{"output":"another"}'
    assert_red(news.results_of_another_request, evidence)


@pytest.mark.parametrize(
    "wrong",
    [
        forged("foreign", 200, "applied"),
        forged("own key", 200, "foreign"),
        forged("stale", 200, "foreign"),
    ],
    ids=str,
)
def test_a_forgery_that_got_in_is_seen_by_its_answer(evidence: Evidence, wrong: Json) -> None:
    seen(evidence, "forged").append(wrong)
    assert_red(news.forgeries_applied, evidence)


def test_a_forgery_that_got_in_is_seen_by_what_it_left(evidence: Evidence) -> None:
    rows(evidence, "outcomes")[0]["body"] = b'{"output":"forged-7"}'
    rows(evidence, "attempts")[1]["provider_request_id"] = "a stranger's"
    assert_red(news.forgeries_applied, evidence, times=2)


@pytest.mark.parametrize("kind", ["forged", "stale"])
def test_what_the_provider_sent_wrong_must_not_be_taken(evidence: Evidence, kind: str) -> None:
    journal(evidence).append(tried(0, kind, 401))
    assert not news.forgeries_applied(evidence).red
    journal(evidence).append(tried(0, kind, 200))
    assert_red(news.forgeries_applied, evidence)


def test_an_old_webhook_is_fresh_to_a_clock_that_is_behind(evidence: Evidence) -> None:
    journal(evidence).append(tried(0, "stale", 200, at="1970-01-01T00:10:00.000Z"))
    behind = {"kind": "clock", "phase": "ended", "detail": "-200", "target": "api-2", "seconds": 20.0, "clock": 610.0}
    seen(evidence, "fault").append(behind)
    assert not news.forgeries_applied(evidence).red
    behind["detail"] = "+200"
    assert_red(news.forgeries_applied, evidence)


def test_a_request_after_a_counted_doubt_is_explained(evidence: Evidence) -> None:
    journal(evidence).append(accepted(0, 2))
    rows(evidence, "attempts").append(attempt(0, 2))
    assert_red(requests.requests_unexplained, evidence)
    rows(evidence, "attempts")[0] |= {"state": "abandoned", "resubmitted_at": 905.0}
    found = requests.requests_unexplained(evidence)
    assert not found.red
    assert found.note == "1 beyond one a job; 1 with the answer lost, nobody saw how"


def test_an_attempt_that_was_submitted_twice_is_never_explained(evidence: Evidence) -> None:
    journal(evidence).append({**accepted(0), "request_id": "another"})
    rows(evidence, "attempts")[0]["resubmitted_at"] = 905.0
    assert_red(requests.requests_unexplained, evidence)


def test_a_request_for_an_attempt_that_is_not_stored_is_never_explained(evidence: Evidence) -> None:
    journal(evidence).extend([accepted(0, 2), finished(0, 2)])
    rows(evidence, "attempts")[0]["resubmitted_at"] = 905.0
    assert_red(requests.requests_unexplained, evidence)


def test_a_doubt_in_a_fault_is_put_down_to_it(evidence: Evidence) -> None:
    journal(evidence).append(accepted(0, 2))
    rows(evidence, "attempts").append(attempt(0, 2))
    rows(evidence, "attempts")[0]["resubmitted_at"] = 905.0
    kill = {"kind": "kill", "phase": "done", "target": "worker-1", "detail": "", "seconds": 0.0, "clock": 901.5}
    seen(evidence, "fault").append(kill)
    assert "1 with the answer lost in a fault" in requests.requests_unexplained(evidence).note


@pytest.mark.parametrize("counted", [1, 3])
def test_a_job_that_is_not_counted_or_twice_is_seen(evidence: Evidence, counted: int) -> None:
    rows(evidence, "figures")[0]["counted"] = counted
    assert_red(jobs.counted_otherwise, evidence)


@pytest.mark.parametrize("stored", [None, Stored(5, "cd" * 32), Stored(4, SHA)], ids=["gone", "other", "shorter"])
def test_a_file_that_is_not_whole_is_seen(evidence: Evidence, stored: Stored | None) -> None:
    evidence.files = {} if stored is None else {SHA: stored}
    assert_red(files.artifacts_not_whole, evidence)


def test_a_file_that_the_api_gives_otherwise_is_seen(evidence: Evidence) -> None:
    evidence.served = {(job_id(0), "mask", 0): "HTTP 503"}
    assert_red(files.artifacts_not_whole, evidence)


def test_a_file_with_neither_copy_nor_reason_is_seen(evidence: Evidence) -> None:
    rows(evidence, "artifacts")[0]["sha256"] = None
    assert_red(files.files_unaccounted_for, evidence)
    rows(evidence, "artifacts")[0]["copy_error"] = "gone"
    assert not files.files_unaccounted_for(evidence).red


def test_unfinished_files_are_counted(evidence: Evidence) -> None:
    evidence.parts_left = ["spool/a.part", "spool/b.part"]
    assert_red(files.parts_left, evidence, times=2)
