"""The knobs outside the webhook: submits, status reads, failures, strange texts, and knobs that do not exist."""

import uuid
from typing import Any

import httpx
import pytest

from service.sandbox.app import SandboxConfig
from service.settings import SettingsError
from tests.sandbox.receiver import Hook
from tests.sandbox.running import Sandbox, running_sandbox


def fresh(**knobs: Any) -> dict[str, Any]:
    return {"key": uuid.uuid4().hex, **knobs}


@pytest.mark.parametrize(("submit", "status"), [("429", 429), (429, 429), ("503", 503), ("html", 502)])
def test_the_first_submits_of_a_key_are_refused(sandbox: Sandbox, submit: str | int, status: int) -> None:
    knobs = fresh(submit=submit, submit_times=2)
    assert [sandbox.submit(sandbox=knobs).status_code for _ in range(3)] == [status, status, 200]


def test_submits_without_a_key_are_told_apart_by_their_bodies(sandbox: Sandbox) -> None:
    one, other = uuid.uuid4().hex, uuid.uuid4().hex
    codes = [sandbox.submit(text=text, sandbox={"submit": "503"}).status_code for text in (one, one, other)]
    assert codes == [503, 200, 503]


def test_a_429_says_when_to_come_back(sandbox: Sandbox) -> None:
    response = sandbox.submit(sandbox=fresh(submit="429", retry_after=7))
    assert response.headers["retry-after"] == "7"
    assert response.json()["error_type"] == "concurrent_requests_limit"


def test_a_submit_that_is_never_answered_is_done_all_the_same(hook: Hook) -> None:
    with running_sandbox(silence_seconds=0.2) as sandbox:
        with pytest.raises(httpx.RemoteProtocolError):
            sandbox.submit("sandbox/echo", hook.url, sandbox={"submit": "never_answered"})
        assert hook.next().json["status"] == "OK"


def test_silence_lasts_as_long_as_the_client_waits(sandbox: Sandbox, hook: Hook) -> None:
    body = {"sandbox": fresh(submit="never_answered")}
    with pytest.raises(httpx.ReadTimeout):
        sandbox.http.post("/sandbox/echo", json=body, params={"fal_webhook": hook.url}, timeout=0.3)
    assert hook.next().json["status"] == "OK"


def test_a_cut_answer_leaves_the_client_in_doubt(sandbox: Sandbox, hook: Hook) -> None:
    knobs = fresh(submit="cut")
    with pytest.raises(httpx.RemoteProtocolError):
        sandbox.submit("sandbox/echo", hook.url, sandbox=knobs)
    assert hook.next().json["status"] == "OK"
    assert sandbox.submit(sandbox=knobs).status_code == 200


@pytest.mark.parametrize(("word", "code"), [("5xx", 503), ("html", 502)])
def test_the_first_status_reads_fail(sandbox: Sandbox, word: str, code: int) -> None:
    accepted = sandbox.accept(sandbox={"status": word, "status_times": 2})
    sandbox.wait(accepted)
    assert [sandbox.http.get(accepted["status_url"]).status_code for _ in range(3)] == [code, code, 200]


@pytest.mark.parametrize("status", [404, 422, 500, 503, 504])
def test_a_request_fails_with_the_status_it_asked_for(sandbox: Sandbox, hook: Hook, status: int) -> None:
    accepted = sandbox.accept("sandbox/echo", hook.url, sandbox={"result_status": status})
    assert sandbox.result(accepted).status_code == status
    assert hook.next().json["error"] == f"Invalid status code: {status}"


def test_nul_characters_reach_the_result_and_the_webhook(sandbox: Sandbox, hook: Hook) -> None:
    accepted = sandbox.accept("sandbox/echo", hook.url, sandbox={"nul": True})
    assert "\0" in sandbox.result(accepted).json()["output"]
    assert "\0" in hook.next().json["payload"]["output"]


@pytest.mark.parametrize("size", [0, 5, 200_000])
def test_a_text_has_exactly_the_size_it_was_asked_to_have(sandbox: Sandbox, size: int) -> None:
    assert len(sandbox.run("sandbox/echo", sandbox={"text_bytes": size})["output"].encode()) == size


def test_the_model_never_sees_the_knobs(sandbox: Sandbox) -> None:
    assert sandbox.run("sandbox/echo", colour="red", sandbox={"nul": False})["input"] == {"colour": "red"}


@pytest.mark.parametrize(
    ("knobs", "loc"),
    [
        ({"typo": 1}, ["body", "sandbox", "typo"]),
        ({"webhook": "sometimes"}, ["body", "sandbox", "webhook"]),
        ("late", ["body", "sandbox"]),
    ],
)
def test_a_knob_that_does_not_exist_fails_the_request(sandbox: Sandbox, knobs: Any, loc: list[str]) -> None:
    assert sandbox.problem("sandbox/echo", sandbox=knobs)["loc"] == loc


def test_the_environment_sets_the_knobs_of_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDTRIP_SANDBOX_KNOBS", '{"result_status": 500}')
    with running_sandbox() as sandbox:
        assert sandbox.result(sandbox.accept()).status_code == 500
        assert sandbox.result(sandbox.accept(sandbox={"result_status": None})).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [("CONCURRENCY", "many"), ("PUBLIC_URL", "nowhere"), ("KNOBS", '{"typo": 1}')],
)
def test_a_wrong_setting_ends_the_program_with_a_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"ROUNDTRIP_SANDBOX_{name}", value)
    with pytest.raises(SettingsError, match=f"ROUNDTRIP_SANDBOX_{name}"):
        SandboxConfig.from_env()
