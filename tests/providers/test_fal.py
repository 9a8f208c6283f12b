"""What fal's words mean: its webhooks, its submit answers, its results."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.jobs.facts import Ending
from service.jobs.lifecycle import Event
from service.providers.base import Accepted, Blocked, Ended, Missing, Refused, Rejected, Silent, Unknown
from service.providers.fal import (
    Incomplete,
    Unreadable,
    app_of,
    ending_of,
    failure,
    read_envelope,
    read_result,
    read_submit_answer,
    retry_after,
)

MISSING = {"detail": [{"loc": ["body", "prompt"], "msg": "field required", "type": "value_error.missing"}]}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def heard(**fields: Any) -> Ending:
    body = json.dumps({"request_id": "r", "gateway_request_id": "g", **fields})
    return ending_of(read_envelope(body.encode()))


def answer(status: int, content: Any = None, **headers: str) -> httpx.Response:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return httpx.Response(status, content=body, headers={name.replace("_", "-"): v for name, v in headers.items()})


# Webhooks


@pytest.mark.parametrize("payload", [{"output": "A cat."}, {}, [], "text", 0, False, ""])
def test_ok_with_a_payload_is_a_completion(payload: Any) -> None:
    ended = heard(status="OK", payload=payload)
    assert (ended.event, ended.http_status, json.loads(ended.body)) == (Event.COMPLETED, 200, payload)


@pytest.mark.parametrize("fields", [{"error": None}, {"error": None, "payload_error": None}, {"logs": []}, {"x": 1}])
def test_fields_that_say_nothing_change_nothing(fields: dict[str, Any]) -> None:
    assert heard(status="OK", payload={}, **fields).event is Event.COMPLETED


def test_a_payload_is_kept_to_the_byte() -> None:
    payload = b'{ "a":1.50,"b" : "\\u00e9",\n"a":2 ,"big":123456789012345678901234567890}'
    body = b'{"request_id": "r", "status": "OK", "payload": ' + payload + b', "gateway_request_id": "g"}'
    assert ending_of(read_envelope(body)).body == payload


def test_the_models_own_error_ends_the_job_in_its_words() -> None:
    ended = heard(status="ERROR", error="Invalid status code: 422", payload=MISSING)
    assert (ended.event, ended.http_status, ended.error) == (Event.FAILED, 422, "body.prompt: field required")
    assert (ended.error_type, json.loads(ended.body)) == ("value_error.missing", MISSING)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ({"msg": "too large", "loc": ["body", "seed"]}, "body.seed: too large"),
        ({"msg": "too large", "loc": ["body", "images", 0]}, "body.images.0: too large"),
        ({"msg": "too large", "loc": []}, "too large"),
        ({"msg": "too large", "loc": "body"}, "too large"),
        ({"msg": "too large", "loc": None}, "too large"),
        ({"msg": "too large"}, "too large"),
        ({"loc": ["body", "seed"]}, "body.seed: The model refused the input."),
        ({"msg": "", "loc": [None, {}]}, "None.{}: The model refused the input."),
    ],
)
def test_a_refused_input_is_named(first: dict[str, Any], words: str) -> None:
    assert failure(422, json.dumps({"detail": [first]}).encode()).error == words


def test_an_error_without_a_payload_has_the_errors_words() -> None:
    ended = heard(status="ERROR", error="The runner died", payload=None)
    assert (ended.http_status, ended.error) == (500, "The runner died")
    assert json.loads(ended.body) == {"detail": "The runner died"}


@pytest.mark.parametrize("fields", [{}, {"error": None}, {"error": {"a": 1}}, {"error": ""}])
def test_an_error_that_says_nothing_is_a_failure_all_the_same(fields: dict[str, Any]) -> None:
    ended = heard(status="ERROR", payload=None, **fields)
    assert (ended.event, ended.http_status) == (Event.FAILED, 500)
    assert ended.error


@pytest.mark.parametrize("status", ["OK", "ERROR"])
def test_a_payload_that_could_not_be_sent_has_to_be_fetched(status: str) -> None:
    with pytest.raises(Incomplete):
        heard(status=status, payload=None, error="Invalid status code: 404", payload_error="Not JSON serializable")


@pytest.mark.parametrize("fields", [{"payload": None}, {}])
def test_ok_without_a_payload_has_to_be_fetched(fields: dict[str, Any]) -> None:
    with pytest.raises(Incomplete):
        heard(status="OK", **fields)


@pytest.mark.parametrize("error", ["Request was cancelled: status code: 499", "Invalid status code: 499"])
def test_fals_own_499_is_a_cancel(error: str) -> None:
    assert heard(status="ERROR", error=error, payload=None).event is Event.CANCELLED


def test_a_cancelled_payload_is_a_cancel() -> None:
    assert heard(status="ERROR", payload={"detail": "x", "error_type": "client_cancelled"}).event is Event.CANCELLED


@pytest.mark.parametrize("word", ["100", "200", "204", "304", "302", "000", "600", "999"])
def test_a_failure_has_the_status_of_a_failure(word: str) -> None:
    assert 400 <= heard(status="ERROR", error=f"Invalid status code: {word}", payload=None).http_status <= 599


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"<html>",
        b"\xff\xfe{",
        b'{"request_id": "\xff\xfe", "status": "OK", "payload": {}}',
        b'{"request_id": "r", "status": "OK\xc3", "payload": {}}',
        b'{"request_id": "r", "status": "OK", "gateway_request_id": "\xed\xa0\x80", "payload": {}}',
        b'{"request_id": "r", "status": "ERROR", "error": "\xc0\x80", "payload": {}}',
        b"\xef\xbb\xbf{}",
        b'{"request_id": 1, "status": "OK", "payload": {}}',
        b'{"request_id": "r", "status": null}',
        b'{"request_id": "r", "status": "OK", "payload": NaN}',
        b'{"request_id": "r", "status": "OK", "payload": {',
        b'{"request_id": "r", "status": "OK", "payload": {}} x',
        b'{"request_id": "r", "status": "COMPLETED", "payload": {}}',
        b'{"request_id": "r", "status": "ok", "payload": {}}',
        b'{"request_id": "\\ud800", "status": "OK", "payload": {}}',
        b'{"request_id": "r", "status": "OK", "payload": ' + b"[" * 200_000,
        b'{"request_id": "r", "status": "OK", "error": ' + b"[" * 200_000,
    ],
    ids=lambda body: repr(body[:60]),
)
def test_what_is_no_envelope_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        ending_of(read_envelope(body))


def is_an_ending(body: bytes) -> None:
    try:
        ended = ending_of(read_envelope(body))
    except (Unreadable, Incomplete):
        return
    assert 200 <= ended.http_status <= 599
    assert (ended.event is Event.COMPLETED) == (ended.error is None)


@given(st.binary())
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    is_an_ending(body)


@given(
    st.fixed_dictionaries(
        {"request_id": st.just("r") | json_values, "status": st.sampled_from(["OK", "ERROR"]) | json_values},
        optional=dict.fromkeys(("payload", "error", "payload_error", "gateway_request_id"), json_values),
    )
)
def test_no_json_raises_anything_else(content: dict[str, Any]) -> None:
    is_an_ending(json.dumps(content).encode())


@given(st.integers(400, 599), json_values | st.binary())
def test_any_error_body_has_words(status: int, content: Any) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    ended = failure(status, body)
    assert isinstance(ended.error, str)
    assert isinstance(ended.error_type, str)
    json.loads(ended.body)


# Names


@pytest.mark.parametrize(
    ("model", "app"),
    [
        ("fal-ai/sa2va/8b/image", "fal-ai/sa2va"),
        ("fal-ai/llava-next", "fal-ai/llava-next"),
        ("workflows/owner/name", "workflows/owner/name"),
        ("workflows/owner/name/step", "workflows/owner/name"),
        ("comfy/owner/name/x/y", "comfy/owner/name"),
        ("alone", "alone"),
    ],
)
def test_a_request_is_asked_about_under_its_app(model: str, app: str) -> None:
    assert app_of(model) == app


# Answers to a submission


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (answer(200, {"request_id": "r"}), Accepted),
        (answer(201, {"request_id": "r", "status": "IN_QUEUE"}), Accepted),
        (answer(200, {}), Unknown),
        (answer(200, {"request_id": ""}), Unknown),
        (answer(200, {"request_id": "a b"}), Unknown),
        (answer(200, {"request_id": None}), Unknown),
        (answer(200, b"<html>"), Unknown),
        (answer(200, b""), Unknown),
        (answer(202, b"<html>"), Unknown),
        (answer(204, b""), Unknown),
        (answer(299, {"detail": "No"}), Unknown),
        (answer(200, b"", retry_after="5"), Unknown),
        (answer(301, b"", location="/x"), Refused),
        (answer(302, b"", location="/x"), Refused),
        (answer(401, {"detail": "Who?"}), Blocked),
        (answer(401, b"<html>"), Blocked),
        (answer(402, {"detail": "Pay"}), Blocked),
        (answer(403, {"detail": "User is locked. Reason: Exhausted balance."}), Blocked),
        (answer(403, {"detail": "This app is not yours."}), Refused),
        (answer(408, {"detail": "Slow"}), Refused),
        (answer(429, {"detail": "Later"}), Refused),
        (answer(503, {"detail": "Later"}), Refused),
        (answer(400, b"<html>"), Refused),
        (answer(404, b"<html>"), Refused),
        (answer(404, b""), Refused),
        (answer(413, b"too much"), Refused),
        (answer(503, b"<html>"), Refused),
        (answer(503, {"detail": "Later"}, x_fal_request_id="r"), Refused),
        (answer(500, b"<html>"), Unknown),
        (answer(502, b"nginx"), Unknown),
        (answer(505, b""), Unknown),
        (answer(599, {"detail": "x"}), Unknown),
        (answer(404, {"detail": "No such app"}), Rejected),
        (answer(422, MISSING), Rejected),
        (answer(413, b"too much", x_fal_request_id="r"), Rejected),
        (answer(500, {"detail": "Oops"}), Unknown),
        (answer(502, {"detail": "Oops"}), Unknown),
        (answer(504, {"detail": "Oops"}), Unknown),
        (answer(504, b"<html>"), Unknown),
        (answer(500, b"<html>", x_fal_request_id="r"), Unknown),
    ],
    ids=lambda x: f"{x.status_code}-{x.content[:20]}" if isinstance(x, httpx.Response) else x.__name__,
)
def test_a_submit_answer_proves_no_more_than_it_says(response: httpx.Response, kind: type) -> None:
    assert isinstance(read_submit_answer(response), kind)


TURNED_AWAY = {*range(300, 400), 401, 402, 403, 408, 429, 503}


@given(st.integers(200, 599), json_values | st.binary(), st.booleans())
def test_no_submit_answer_proves_more_than_its_status_can(status: int, content: Any, named: bool) -> None:
    headers = {"x_fal_request_id": "r"} if named else {}
    said = read_submit_answer(answer(status, content, **headers))
    if status in TURNED_AWAY:
        assert isinstance(said, Blocked if status in {401, 402} else Refused | Blocked if status == 403 else Refused)
    elif 400 <= status < 500:
        assert isinstance(said, Refused | Rejected)
        assert isinstance(said, Rejected) or not named
    elif 200 <= status < 300:
        assert isinstance(said, Accepted | Unknown)
    else:
        assert isinstance(said, Unknown)


def test_a_refusal_brings_its_status_and_when_to_come_back() -> None:
    assert read_submit_answer(answer(429, {"detail": "Later"}, retry_after="7")) == Refused("HTTP 429: Later", 429, 7.0)
    page = read_submit_answer(answer(404, b"<html>", retry_after="7"))
    assert isinstance(page, Refused)
    assert (page.http_status, page.retry_after) == (404, 7.0)


def test_an_acceptance_brings_its_addresses() -> None:
    names = ("request_id", "gateway_request_id", "response_url", "status_url", "cancel_url")
    said = read_submit_answer(answer(200, {name: name for name in names} | {"queue_position": 3}))
    assert said == Accepted(*names, queue_position=3)


# Results


@pytest.mark.parametrize(
    ("response", "error", "kind"),
    [
        (answer(200, {"output": "A cat."}), None, Ended),
        (answer(200, b"no JSON"), None, Ended),
        (answer(200, b"\xff"), None, Ended),
        (answer(200, b"no JSON", content_type="text/plain"), None, Ended),
        (answer(200, b"<html>", content_type="text/html; charset=utf-8"), None, Silent),
        (answer(200, {"output": "A cat."}, content_type="text/html"), None, Ended),
        (answer(201, b"no JSON"), None, Silent),
        (answer(500, b"no JSON"), "Invalid status code: 500", Silent),
        (answer(422, b"no JSON"), "Invalid status code: 422", Silent),
        (answer(422, MISSING), "Invalid status code: 422", Ended),
        (answer(422, MISSING), None, Ended),
        (answer(500, {"detail": "x"}), None, Ended),
        (answer(400, {"detail": "Request is still in progress"}), None, Silent),
        (answer(400, {"detail": "x"}), "Invalid status code: 400", Ended),
        (answer(502, {"detail": "x"}), None, Silent),
        (answer(502, {"detail": "x"}), "Invalid status code: 502", Ended),
        (answer(404, {"detail": "x"}), None, Missing),
        (answer(410, {"detail": "x"}), None, Missing),
        (answer(401, {"detail": "x"}), "error", Silent),
        (answer(429, {"detail": "x"}), "error", Silent),
        (answer(202, {"detail": "x"}), None, Silent),
    ],
)
def test_a_result_proves_no_more_than_it_says(response: httpx.Response, error: str | None, kind: type) -> None:
    assert isinstance(read_result(response, "r", error), kind)


@given(st.integers(200, 599), json_values | st.binary(), st.none() | st.text())
def test_no_result_raises(status: int, content: Any, error: str | None) -> None:
    response = answer(status, content)
    seen = read_result(response, "r", error)
    if isinstance(seen, Ended):
        assert seen.evidence.body == response.content
        json.loads(seen.ending.body)


@pytest.mark.parametrize("body", [b"A cat.", "Ωé".encode(), b"\xff\x00", b"{"])
def test_a_result_that_is_no_json_is_a_json_string(body: bytes) -> None:
    response = answer(200, body)
    seen = read_result(response, "r", None)
    assert isinstance(seen, Ended)
    assert (seen.ending.event, seen.ending.http_status) == (Event.COMPLETED, 200)
    assert json.loads(seen.ending.body) == body.decode("utf-8", "replace")
    assert seen.evidence.body == body


# Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0.0), ("7", 7.0), ("99999999", 86_400.0), ("9" * 5_000, 86_400.0), ("", None), ("-1", None), ("soon", None)],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    assert retry_after(answer(429, {}, retry_after=value)) == seconds


@pytest.mark.parametrize(("ahead", "least", "most"), [(60, 50, 60), (-60, 0, 0), (10**7, 86_400, 86_400)])
def test_retry_after_as_a_date(ahead: int, least: float, most: float) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
    seconds = retry_after(answer(429, {}, retry_after=date))
    assert seconds is not None
    assert least <= seconds <= most


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_no_retry_after_raises(value: str) -> None:
    seconds = retry_after(answer(429, {}, retry_after=value.strip()))
    assert seconds is None or 0 <= seconds <= 86_400


@pytest.mark.parametrize("year", ["0001", "0000", "9999", "99999"])
def test_a_date_out_of_range_is_no_date(year: str) -> None:
    seconds = retry_after(answer(429, {}, retry_after=f"Mon, 01 Jan {year} 00:00:00 +1400"))
    assert seconds is None or 0 <= seconds <= 86_400
