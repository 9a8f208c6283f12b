"""Only the provider's own news of a job's own request ends it, and the first that does is final."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from faults.evidence import Evidence, by_job
from faults.findings import Finding, finding
from faults.history import Json
from service.sandbox.journal import digest


def outcomes_overwritten(evidence: Evidence) -> Finding:
    """At most one report was applied, and the outcome is what it said, of the attempt that it was about."""
    applied = by_job([row for row in evidence.rows["reports"] if row["verdict"] == "applied"], "job_id")
    outcomes = evidence.by_job("outcomes")

    def broken() -> Iterator[str]:
        for job_id, reports in applied.items():
            said, stored = reports[0], outcomes.get(job_id, [None])[0]
            if len(reports) > 1:
                yield f"{job_id}: {len(reports)} reports were applied"
            elif stored is None or (stored["source"], stored["attempt"]) != (said["source"], said["attempt"]):
                yield f"{job_id}: its outcome is not of the report that was applied"
            elif said["source"] == "webhook" and not _tells(said["body"], stored["body"]):
                yield f"{job_id}: its outcome is not what the webhook said that was applied"

    return finding("outcomes that are not the report applied", broken(), len(applied))


def _tells(webhook: bytes, body: bytes) -> bool:
    said = _read(webhook)
    payload = said.get("payload") if isinstance(said, dict) else said
    return payload is None or digest(payload) == digest(_read(body))


def _read(body: bytes) -> Any:
    """JSON; what was spoiled on the way, and believed all the same, is like nothing that anybody sent."""
    try:
        return json.loads(body)
    except ValueError:
        return repr(body)


def results_of_another_request(evidence: Evidence) -> Finding:
    """Each attempt bears a request that the provider took for it, and the outcome is what came of that one."""
    requests = evidence.requests()
    finished = {line["request_id"]: line for line in evidence.journal if line["what"] == "finished"}
    attempts = {(row["job_id"], row["number"]): row for row in evidence.rows["attempts"]}
    undecidable = 0

    def broken() -> Iterator[str]:
        nonlocal undecidable
        for place, row in attempts.items():
            bears = requests.get(row["provider_request_id"] or "")
            if row["provider_request_id"] is None or (bears is not None and (bears["job"], bears["attempt"]) == place):
                continue
            if bears is not None and _nobody_could_tell(
                evidence, bears, row, attempts.get((bears["job"], bears["attempt"]))
            ):
                undecidable += 1
            else:
                yield f"{row['job_id']}: attempt {row['number']} bears the request of {bears and bears['job']}"
        for row in evidence.rows["outcomes"]:
            request_id = attempts.get((row["job_id"], row["attempt"]), {}).get("provider_request_id")
            if row["source"] == "roundtrip" or request_id not in requests:
                continue
            contradicted = requests[request_id]["knobs"].get("webhook") == "conflicting"
            if finished.get(request_id, {}).get("digest") != digest(_read(row["body"])) and not contradicted:
                yield f"{row['job_id']}: its result is not that of its request"

    found = list(broken())
    note = f"{undecidable} crossed by the provider before either submission was answered" if undecidable else ""
    return finding("results that are not those of the job's own request", found, len(evidence.rows["outcomes"]), note)


def _nobody_could_tell(evidence: Evidence, request: Json, took: Json, owner: Json | None) -> bool:
    """The provider sent it to the wrong address when the service knew of neither request whose it was."""
    crossed = [
        moment_of(line["at"])
        for line in evidence.journal
        if line["what"] == "webhook" and line["kind"] == "crossed" and line["request_id"] == request["request_id"]
    ]
    answers = [row["answered_at"] for row in (took, owner) if row is not None]
    # The journal has when the webhook was answered; it was judged up to a second before.
    return bool(crossed) and all(answer is None or answer > crossed[0] - 1 for answer in answers)


def forgeries_applied(evidence: Evidence) -> Finding:
    """By the answer, by what is stored, and of those that the provider itself was told to send."""
    sent = evidence.history.get("forged", ())
    requests = evidence.requests()
    ours = set(requests)
    strangers = {each["bearing"] for each in sent} - ours - {None}
    wrong = [line for line in evidence.journal if line["what"] == "webhook" and line["kind"] in {"forged", "stale"}]
    wrong = [line for line in wrong if line["request_id"] in ours]

    def broken() -> Iterator[str]:
        for each in sent:
            validly_signed = each["kind"] == "foreign" or (
                each["kind"] == "stale" and _clock_was_behind(evidence, each["clock"])
            )
            if each["verdict"] == "applied" or (each["status"] == 200 and not validly_signed):
                yield f"{each['kind']}, number {each['number']}, was answered {each['status']} {each['verdict']}"
        for row in evidence.rows["attempts"]:
            if row["provider_request_id"] in strangers:
                yield f"{row['job_id']}: attempt {row['number']} took a stranger's request for its own"
        for row in evidence.rows["outcomes"]:
            if b"forged-" in row["body"]:
                yield f"{row['job_id']} ended with what a forger said"
        for line in wrong:
            taken = line["status"] is not None and 200 <= line["status"] < 300
            if taken and not (line["kind"] == "stale" and _clock_was_behind(evidence, moment_of(line["at"]))):
                yield f"{line['request_id']}: a {line['kind']} webhook was answered {line['status']}"

    answers = Counter(each["status"] or "no answer" for each in sent)
    note = ", ".join(f"{times} with {status}" for status, times in answers.most_common())
    return finding("forged, stale or foreign webhooks applied", broken(), len(sent) + len(wrong), note)


def moment_of(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _clock_was_behind(evidence: Evidence, moment: float) -> bool:
    """Whether a receiver's own clock made an old webhook look fresh."""
    return any(
        fault["kind"] == "clock"
        and fault["phase"] == "ended"
        and float(fault["detail"]) < 0
        and fault["clock"] - fault["seconds"] - 3 <= moment <= fault["clock"] + 3
        for fault in evidence.history.get("fault", ())
    )
