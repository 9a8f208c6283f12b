"""What a client is told of a job's end, as bytes: in fal's own form, or as Standard Webhooks asks for.

https://fal.ai/docs/documentation/model-apis/inference/webhooks and https://www.standardwebhooks.com.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from service.callbacks.lifecycle import CallbackFormat
from service.jobs.lifecycle import Status
from service.jsontext import Raw, encode, is_json

NOT_JSON = "The payload is not valid JSON. It can be had, as it is, from the result of the request."


@dataclass(frozen=True, slots=True)
class EndedJob:
    """A job that has ended. `body` names stored copies already; `metadata` is JSON text."""

    job_id: UUID
    model: str
    status: str
    http_status: int
    body: bytes
    error: str | None
    error_type: str | None
    metadata: str
    tags: Sequence[str]
    created_at: datetime
    completed_at: datetime


def fal_envelope(job: EndedJob) -> bytes:
    """Every end but a completion is fal's ERROR, a cancel too."""
    request_id = str(job.job_id)
    told: dict[str, Any] = {"request_id": request_id, "gateway_request_id": request_id, "status": "OK"}
    if job.status != Status.COMPLETED:
        told |= {"status": "ERROR", "error": f"Invalid status code: {job.http_status}"}
    if is_json(job.body):
        told["payload"] = Raw(job.body)
    else:
        told |= {"payload": None, "payload_error": NOT_JSON}
    return encode(told)


def standard_envelope(job: EndedJob) -> bytes:
    """`output` is the model's, and null when the job did not complete or when it is not JSON."""
    data: dict[str, Any] = {
        "request_id": str(job.job_id),
        "model": job.model,
        "status": job.status,
        "output": None,
        "error": None,
        "tags": list(job.tags),
        "metadata": Raw(job.metadata.encode()),
        "created_at": job.created_at,
        "completed_at": job.completed_at,
    }
    if job.status != Status.COMPLETED:
        data["error"] = {"message": job.error, "type": job.error_type, "status": job.http_status}
    elif is_json(job.body):
        data["output"] = Raw(job.body)
    else:
        data["output_error"] = NOT_JSON
    return encode({"type": f"job.{job.status}", "timestamp": job.completed_at, "data": data})


ENVELOPES: dict[CallbackFormat, Callable[[EndedJob], bytes]] = {
    CallbackFormat.FAL: fal_envelope,
    CallbackFormat.STANDARD: standard_envelope,
}
