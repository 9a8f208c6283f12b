"""What a callback says, in both forms, of every kind of end."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from service.callbacks.envelopes import NOT_JSON, EndedJob, fal_envelope, standard_envelope
from service.providers.fal import ending_of, read_envelope
from tests import making

ID = UUID("01a1f984-a39d-76ba-a621-a06d9850bce1")
BEGUN = datetime(2026, 11, 20, 15, 0, 0, tzinfo=UTC)
ENDED = datetime(2026, 11, 20, 15, 0, 2, tzinfo=UTC)
INVALID = b'{"detail": [{"loc": ["body", "prompt"], "msg": "field required", "type": "missing"}]}'


def job(body: bytes = making.CAT, status: str = "completed", **changes: Any) -> EndedJob:
    values = {
        "job_id": ID,
        "model": making.MODEL,
        "status": status,
        "http_status": 200,
        "body": body,
        "error": None,
        "error_type": None,
        "metadata": '{"order": 4711.0}',
        "tags": ["shop"],
        "created_at": BEGUN,
        "completed_at": ENDED,
    }
    return EndedJob(**values | changes)


def failed(body: bytes = INVALID, http_status: int = 422) -> EndedJob:
    return job(body, "failed", http_status=http_status, error="prompt: field required", error_type="missing")


def test_a_completion_has_fals_four_fields() -> None:
    assert json.loads(fal_envelope(job())) == {
        "request_id": str(ID),
        "gateway_request_id": str(ID),
        "status": "OK",
        "payload": {"output": "A cat."},
    }


def test_a_failure_has_fals_error_and_the_models_own_words() -> None:
    assert json.loads(fal_envelope(failed())) == {
        "request_id": str(ID),
        "gateway_request_id": str(ID),
        "status": "ERROR",
        "error": "Invalid status code: 422",
        "payload": json.loads(INVALID),
    }


@pytest.mark.parametrize("body", [b"<html>", b'{"a": NaN}', b'"\\ud800"', b'{"a": 1}{', b"", b"\xff", b"[" * 5_000])
def test_what_is_not_json_is_null_and_said_to_be(body: bytes) -> None:
    told = json.loads(fal_envelope(job(body)))
    assert (told["status"], told["payload"], told["payload_error"]) == ("OK", None, NOT_JSON)
    told = json.loads(fal_envelope(failed(body)))
    assert (told["status"], told["payload"], told["payload_error"]) == ("ERROR", None, NOT_JSON)
    assert told["error"] == "Invalid status code: 422"
    data = json.loads(standard_envelope(job(body)))["data"]
    assert (data["output"], data["output_error"]) == (None, NOT_JSON)


@pytest.mark.parametrize("body", [b'{"seed":196619188014358660123456789,"x":1.10,"a":"\\u00e9"}', b"[]", b"null"])
def test_the_models_bytes_are_passed_on_untouched(body: bytes) -> None:
    assert b'"payload":' + body + b"}" in fal_envelope(job(body))
    assert b'"output":' + body + b"," in standard_envelope(job(body))


def test_what_we_send_is_what_we_would_read_of_fal() -> None:
    """One Roundtrip may stand behind another."""
    for ended in (job(), failed()):
        envelope = read_envelope(fal_envelope(ended))
        assert envelope.request_id == envelope.gateway_request_id == str(ID)
        heard = ending_of(envelope)
        assert (heard.http_status, heard.body) == (ended.http_status, ended.body)


def test_the_standards_form_names_type_time_and_data() -> None:
    told = json.loads(standard_envelope(job()))
    assert told == {
        "type": "job.completed",
        "timestamp": "2026-11-20T15:00:02Z",
        "data": {
            "request_id": str(ID),
            "model": making.MODEL,
            "status": "completed",
            "output": {"output": "A cat."},
            "error": None,
            "tags": ["shop"],
            "metadata": {"order": 4711.0},
            "created_at": "2026-11-20T15:00:00Z",
            "completed_at": "2026-11-20T15:00:02Z",
        },
    }


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_the_standards_form_says_why_there_is_no_output(status: str) -> None:
    told = json.loads(standard_envelope(job(INVALID, status, http_status=422, error="No.", error_type="missing")))
    assert told["type"] == f"job.{status}"
    assert told["data"]["output"] is None
    assert told["data"]["error"] == {"message": "No.", "type": "missing", "status": 422}
