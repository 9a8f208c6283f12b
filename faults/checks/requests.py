"""The provider is asked once for a job, and once more for each time that nobody could know what came of it."""

from collections import Counter
from collections.abc import Iterator

from faults.evidence import Evidence
from faults.findings import Finding, finding
from faults.history import Json

WITHHELD = {"never_answered", "cut"}
# A submission may take five seconds here, and its answer is written within another one.
ANSWER_SECONDS = 6.0
IN_THE_WAY = {"worker-1", "worker-2", "worker-provider", "worker-database", "postgres"}


def requests_unexplained(evidence: Evidence) -> Finding:
    """The provider accepted one request a job, and one more for each attempt that is counted as resubmitted."""
    attempts = {(row["job_id"], row["number"]): row for row in evidence.rows["attempts"]}
    accepted = Counter((line["job"], line["attempt"]) for line in evidence.requests().values())
    last: dict[str, int] = {}
    for job, number in accepted:
        last[job] = max(number, last.get(job, 0))
    earlier = [attempts.get((job, number)) for job, number in accepted if number < last[job]]

    def broken() -> Iterator[str]:
        for (job, number), times in accepted.items():
            row = attempts.get((job, number))
            for _ in range(times - 1):
                yield f"{job}: attempt {number} was submitted {times} times"
            if row is None:
                yield f"{job}: attempt {number} is not known to the service"
            elif number < last[job] and row["resubmitted_at"] is None:
                yield f"{job}: attempt {number} is {row['state']} ({row['error']}), its resubmission is not counted"

    causes = Counter(_cause(evidence, row) for row in earlier if row is not None and row["resubmitted_at"] is not None)
    told = [f"{sum(accepted.values()) - len(last)} beyond one a job"]
    told += [f"{times} {cause}" for cause, times in causes.most_common()]
    promise = "provider requests beyond one a job, not explained"
    return finding(promise, broken(), sum(accepted.values()), "; ".join(told))


def _cause(evidence: Evidence, attempt: Json) -> str:
    """Why the outcome of a submission could not be known."""
    order = evidence.order_by_job().get(attempt["job_id"])
    if order is not None and order.knobs.get("submit") in WITHHELD and attempt["number"] == 1:
        return "with the answer withheld by the provider"
    first = attempt["claimed_at"]
    last = attempt["answered_at"] or first + ANSWER_SECONDS
    for fault in evidence.history.get("fault", ()):
        # `began` and `ended` each stand for the whole time that a fault lasted.
        start = fault["clock"] - (fault["seconds"] if fault["phase"] == "ended" else 0)
        end = fault["clock"] + (fault["seconds"] if fault["phase"] == "began" else 0)
        if fault["target"] in IN_THE_WAY and fault["kind"] != "clock" and start <= last + 1 and end >= first - 1:
            return "with the answer lost in a fault"
    return "with the answer lost, nobody saw how"
