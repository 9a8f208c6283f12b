"""Hand-made evidence: a history of jobs that all went well, of which a test then changes what it is about."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from faults.evidence import Evidence, Stored
from faults.findings import Finding
from faults.orders import LLAVA, Order
from service.sandbox.journal import digest

Json = dict[str, Any]

HEALED = 1_000.0
BODY = b'{"output":"[sandbox] A picture."}'
SHA = "ab" * 32


def job_id(number: int) -> str:
    return str(UUID(int=number))


def request_id(number: int, attempt: int = 1) -> str:
    return f"request-{number}-{attempt}"


def accepted(number: int, attempt: int = 1, **knobs: Any) -> Json:
    url = f"http://here/webhooks/fal/{job_id(number)}/{attempt}/seal/{LLAVA}"
    name = request_id(number, attempt)
    return {"what": "accepted", "request_id": name, "model": LLAVA, "key": f"n{number}", "url": url, "knobs": knobs}


def finished(number: int, attempt: int = 1) -> Json:
    made = digest({"output": "[sandbox] A picture."})
    return {"what": "finished", "request_id": request_id(number, attempt), "status": 200, "digest": made}


def tried(number: int, kind: str, status: int | None, at: str = "1970-01-01T00:10:00.000Z") -> Json:
    return {"what": "webhook", "request_id": request_id(number), "kind": kind, "url": "", "status": status, "at": at}


def attempt(number: int, count: int = 1, **changes: Any) -> Json:
    row = {"job_id": job_id(number), "number": count, "state": "completed", "error": None, "resubmitted_at": None}
    return {
        **row,
        "provider_request_id": request_id(number, count),
        "claimed_at": 900.0,
        "answered_at": 901.0,
        **changes,
    }


def read(number: int, status: str, at: float, result: str | None = None) -> Json:
    return {"what": "read", "job": job_id(number), "began": at - 0.1, "at": at, "status": status, "result": result}


def forged(kind: str, status: int | None, verdict: str | None = None, **changes: Any) -> Json:
    about = {"kind": kind, "number": 0, "job": job_id(0), "attempt": 1, "bearing": "a stranger's", "clock": 900.0}
    return {"what": "forged", **about, "status": status, "verdict": verdict, **changes}


def good(jobs: int = 3) -> Evidence:
    """All accepted, submitted once, told by webhook, copied; nobody saw anything odd."""
    numbers = range(jobs)
    webhook = b'{"request_id":"r","status":"OK","payload":' + BODY + b"}"
    ended = {"attempt": 1, "source": "webhook"}
    return Evidence(
        orders={number: Order(number, LLAVA, {}, {}) for number in numbers},
        history={
            "register": [{"number": number, "status": 202, "job": job_id(number), "words": None} for number in numbers],
            "read": [
                each
                for number in numbers
                for each in (
                    read(number, "queued", 1.0),
                    read(number, "completed", 2.0, "r"),
                    read(number, "completed", 3.0, "r"),
                )
            ],
            "forged": [forged("own key", 401), forged("foreign", 200, "foreign")],
            "fault": [],
        },
        rows={
            "jobs": [{"id": job_id(number), "tags": [f"n{number}"], "created_at": 890.0} for number in numbers],
            "live_jobs": [],
            "outcomes": [
                {"job_id": job_id(number), "status": "completed", **ended, "http_status": 200, "body": BODY}
                | {"error_type": None, "completed_at": 910.0}
                for number in numbers
            ],
            "attempts": [attempt(number) for number in numbers],
            "reports": [
                {"job_id": job_id(number), **ended, "verdict": "applied", "body": webhook} for number in numbers
            ],
            "artifacts": [
                {"job_id": job_id(0), "kind": "mask", "index": 0, "source_url": "", "sha256": SHA, "file_size": 5}
                | {"copy_error": None}
            ],
            "blobs": [{"sha256": SHA, "size": 5}],
            "copies": [],
            "figures": [
                {"status": "completed", "ended": jobs, "waiting": 1, "counted": jobs - 1, "together": jobs - 1},
            ],
            "events": [
                {"job_id": job_id(number), "event": event, "status": status, "attempt": 1}
                for number in numbers
                for event, status in (("registered", "queued"), ("accepted", "submitted"), ("completed", "completed"))
            ],
        },
        journal=[
            line for number in numbers for line in (accepted(number), finished(number), tried(number, "good", 200))
        ],
        files={SHA: Stored(5, SHA)},
        served={(job_id(0), "mask", 0): SHA},
        healed=HEALED,
    )


def assert_red(check: Callable[[Evidence], Finding], evidence: Evidence, *, times: int = 1) -> None:
    found = check(evidence)
    assert (found.count, len(found.examples)) == (times, min(times, 5)), found
