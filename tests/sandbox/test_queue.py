"""The queue's addresses, words and status codes are fal's."""

import uuid
from collections.abc import Iterator

import httpx
import pytest

from tests.sandbox.running import KEY, Sandbox, running_sandbox


@pytest.fixture
def narrow() -> Iterator[Sandbox]:
    """A sandbox that runs one request at a time."""
    with running_sandbox(concurrency=1) as narrow:
        yield narrow


@pytest.fixture
def held(sandbox: Sandbox) -> Iterator[dict[str, str]]:
    accepted = sandbox.held()
    yield accepted
    sandbox.cancel(accepted)


def status(sandbox: Sandbox, accepted: dict[str, str], logs: str = "0") -> httpx.Response:
    return sandbox.http.get(accepted["status_url"], params={"logs": logs})


def test_submit_answers_with_addresses_of_the_app_alone(sandbox: Sandbox) -> None:
    response = sandbox.submit("fal-ai/sa2va/8b/image")
    told = response.json()
    base = f"{sandbox.url}/fal-ai/sa2va/requests/{told['request_id']}"
    assert response.status_code == 200
    assert response.headers["x-fal-request-id"] == told["request_id"]
    assert told["response_url"] == base
    assert told["status_url"] == f"{base}/status"
    assert told["cancel_url"] == f"{base}/cancel"
    assert (told["status"], told["queue_position"]) == ("IN_QUEUE", 0)
    assert uuid.UUID(told["gateway_request_id"])


@pytest.mark.parametrize("path", ["/nowhere", "/sandbox/echo/requests/unknown", "/files/unknown", "/healthz"])
def test_every_answer_names_a_request(sandbox: Sandbox, path: str) -> None:
    assert sandbox.http.get(path).headers["x-fal-request-id"]


@pytest.mark.parametrize("credential", ["", "Key", "Basic dXNlcjpwYXNz"])
def test_no_call_works_without_a_key(sandbox: Sandbox, credential: str) -> None:
    response = sandbox.submit(headers={"authorization": credential})
    assert response.status_code == 401
    assert response.json()["error_type"] == "auth_error"


def test_a_bearer_token_is_a_credential(sandbox: Sandbox) -> None:
    assert sandbox.submit(headers={"authorization": "Bearer token"}).status_code == 200


def test_an_empty_body_is_an_empty_object(sandbox: Sandbox) -> None:
    accepted = sandbox.http.post("/sandbox/echo").json()
    assert sandbox.result(accepted).json()["input"] == {}


@pytest.mark.parametrize("body", ["{", "[1]", '"text"', '{"a": NaN}', "[" * 100_000])
def test_a_body_that_no_model_can_use_is_accepted_and_fails_as_a_result(sandbox: Sandbox, body: str) -> None:
    accepted = sandbox.http.post("/sandbox/echo", content=body).raise_for_status().json()
    response = sandbox.result(accepted)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body"]


def test_a_text_that_utf_8_cannot_hold_comes_back_as_it_was_sent(sandbox: Sandbox) -> None:
    accepted = sandbox.http.post("/sandbox/echo", content=rb'{"text": "\ud800"}').json()
    assert sandbox.result(accepted).json()["input"] == {"text": "\ud800"}


def test_an_unknown_app_is_not_found(sandbox: Sandbox) -> None:
    assert sandbox.submit("fal-ai/no-such-model").status_code == 404


def test_an_unknown_path_of_an_app_fails_as_a_result(sandbox: Sandbox) -> None:
    response = sandbox.result(sandbox.accept("fal-ai/sa2va/9b"))
    assert response.status_code == 404
    assert response.json()["detail"] == "Path /9b not found"


def test_a_webhook_address_must_be_http(sandbox: Sandbox) -> None:
    assert sandbox.submit("sandbox/echo", "ftp://a.example/hook").status_code == 422


def test_status_is_202_until_the_end_and_200_from_then_on(sandbox: Sandbox, held: dict[str, str]) -> None:
    running = status(sandbox, held)
    sandbox.cancel(held)
    sandbox.wait(held)
    ended = status(sandbox, held)
    assert (running.status_code, ended.status_code) == (202, 200)
    assert ended.json()["status"] == "COMPLETED"


def test_a_completed_status_carries_the_measured_time(sandbox: Sandbox) -> None:
    accepted = sandbox.accept()
    sandbox.wait(accepted)
    body = status(sandbox, accepted).json()
    assert body["metrics"]["inference_time"] > 0
    assert "error" not in body
    assert body["response_url"] == accepted["response_url"]


def test_a_failed_status_says_completed_and_carries_the_error(sandbox: Sandbox) -> None:
    accepted = sandbox.accept("fal-ai/llava-next")
    sandbox.wait(accepted)
    body = status(sandbox, accepted).json()
    assert (body["status"], body["error"]) == ("COMPLETED", "Invalid status code: 422")
    assert body["error_type"]


@pytest.mark.parametrize("asked", ["1", "true"])
def test_logs_are_null_unless_asked_for(sandbox: Sandbox, asked: str) -> None:
    accepted = sandbox.accept()
    sandbox.wait(accepted)
    assert status(sandbox, accepted, "0").json()["logs"] is None
    entry = status(sandbox, accepted, asked).json()["logs"][0]
    assert set(entry) == {"message", "level", "source", "timestamp", "labels"}


def test_a_pending_result_is_400(sandbox: Sandbox, held: dict[str, str]) -> None:
    response = sandbox.http.get(held["response_url"])
    assert response.status_code == 400
    assert "in progress" in response.json()["detail"]


def test_a_result_carries_the_models_own_status_and_body(sandbox: Sandbox) -> None:
    response = sandbox.result(sandbox.accept("fal-ai/llava-next", prompt="what"))
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "image_url"]
    assert response.json()["detail"][0]["type"] == "missing"


@pytest.mark.parametrize("form", ["{base}", "{base}/", "{base}/response", "{base}/response/"])
@pytest.mark.parametrize("app", ["fal-ai/sa2va", "fal-ai/sa2va/8b/image"])
def test_a_result_has_many_addresses(sandbox: Sandbox, form: str, app: str) -> None:
    accepted = sandbox.accept("fal-ai/sa2va/8b/image")
    sandbox.wait(accepted)
    path = form.format(base=f"/{app}/requests/{accepted['request_id']}")
    assert sandbox.http.get(path).status_code == 422


def test_a_request_is_not_found_under_another_app(sandbox: Sandbox) -> None:
    accepted = sandbox.accept()
    assert sandbox.http.get(f"/fal-ai/llava-next/requests/{accepted['request_id']}/status").status_code == 404


@pytest.mark.parametrize("ending", ["", "/status", "/status/stream"])
def test_an_unknown_request_is_not_found(sandbox: Sandbox, ending: str) -> None:
    assert sandbox.http.get(f"/sandbox/echo/requests/{uuid.uuid4()}{ending}").status_code == 404


def test_the_queue_position_counts_the_requests_ahead(narrow: Sandbox) -> None:
    accepted = [narrow.held() for _ in range(3)]
    assert [one["queue_position"] for one in accepted] == [0, 0, 1]
    narrow.cancel(accepted[0])
    narrow.wait(accepted[0])
    assert status(narrow, accepted[1]).json()["status"] == "IN_PROGRESS"
    assert status(narrow, accepted[2]).json()["queue_position"] == 0


def test_low_priority_waits_behind_normal(narrow: Sandbox) -> None:
    narrow.held()
    low = narrow.submit(headers={"x-fal-queue-priority": "low"}).json()
    narrow.accept()
    assert status(narrow, low).json()["queue_position"] == 1


def test_a_request_that_does_not_start_in_time_is_a_504(narrow: Sandbox) -> None:
    narrow.held()
    accepted = narrow.submit(headers={"x-fal-request-timeout": "0.1"}).json()
    response = narrow.result(accepted)
    assert response.status_code == 504
    assert response.headers["x-fal-request-timeout-type"] == "user"


def test_a_full_queue_refuses_who_asked_for_a_short_one(narrow: Sandbox) -> None:
    narrow.held()
    narrow.accept()
    assert narrow.http.post("/sandbox/echo", params={"fal_max_queue_length": 1}).status_code == 429
    assert narrow.http.post("/sandbox/echo", params={"fal_max_queue_length": 2}).status_code == 200


def test_a_queued_request_can_be_removed(narrow: Sandbox) -> None:
    narrow.held()
    accepted = narrow.accept()
    response = narrow.cancel(accepted)
    assert (response.status_code, response.json()) == (200, {"status": "OK"})
    assert narrow.result(accepted).status_code == 499


def test_a_running_request_can_be_asked_to_stop(sandbox: Sandbox, held: dict[str, str]) -> None:
    response = sandbox.cancel(held)
    assert (response.status_code, response.json()) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert sandbox.result(held).status_code == 499


def test_a_model_may_ignore_a_cancellation(sandbox: Sandbox) -> None:
    accepted = sandbox.accept(sandbox={"work_seconds": 0.2, "cancel": "ignored"})
    assert sandbox.cancel(accepted).status_code == 202
    assert sandbox.result(accepted).status_code == 200


def test_a_finished_request_cannot_be_cancelled(sandbox: Sandbox) -> None:
    accepted = sandbox.accept()
    sandbox.wait(accepted)
    response = sandbox.cancel(accepted)
    assert (response.status_code, response.json()) == (400, {"status": "ALREADY_COMPLETED"})


def test_an_unknown_request_cannot_be_cancelled(sandbox: Sandbox) -> None:
    response = sandbox.http.put(f"/sandbox/echo/requests/{uuid.uuid4()}/cancel")
    assert (response.status_code, response.json()) == (404, {"status": "NOT_FOUND"})


def test_the_oldest_finished_request_makes_room_for_a_new_one() -> None:
    with running_sandbox(max_requests=2) as small:
        first = small.accept()
        small.wait(first)
        small.held()
        small.held()
        assert small.http.get(first["response_url"]).status_code == 404
        assert small.submit().status_code == 503


def test_a_body_over_the_limit_is_refused() -> None:
    with running_sandbox(max_body_bytes=1000) as small:
        assert small.submit(text="x" * 1000).status_code == 413


def test_an_operator_sees_how_often_a_webhook_address_was_used(sandbox: Sandbox) -> None:
    address = f"http://127.0.0.1:9/{uuid.uuid4()}"
    for _ in range(2):
        sandbox.accept("sandbox/echo", address, sandbox={"webhook": "none"})
    counts = httpx.get(f"{sandbox.url}/sandbox/requests", headers=KEY).json()
    assert counts["accepted_by_webhook"][address] == 2
