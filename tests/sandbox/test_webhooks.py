"""Webhooks carry fal's body and signature, are retried, and go wrong exactly as the knobs say."""

from typing import Any

import pytest

from tests.sandbox.receiver import Hook, Post
from tests.sandbox.running import Sandbox, running_sandbox


def jwks(sandbox: Sandbox) -> list[dict[str, str]]:
    return list(sandbox.http.get("/.well-known/jwks.json").json()["keys"])


def holds(sandbox: Sandbox, post: Post) -> bool:
    """Whether a receiver that keeps to fal's rules would believe this webhook."""
    return abs(post.age) <= 300 and any(post.signed_by(key) for key in jwks(sandbox))


def accept(sandbox: Sandbox, hook: Hook, **knobs: Any) -> dict[str, Any]:
    return sandbox.accept("sandbox/echo", hook.url, sandbox=knobs)


def nothing_more(sandbox: Sandbox, hook: Hook) -> bool:
    """Whether the next webhook of this address is that of a new request."""
    accepted = accept(sandbox, hook)
    return bool(hook.next().json["request_id"] == accepted["request_id"])


def test_a_webhook_carries_the_output_and_a_signature_that_holds(sandbox: Sandbox, hook: Hook) -> None:
    accepted = sandbox.accept("sandbox/echo", hook.url, colour="red")
    post = hook.next()
    assert post.json == {
        "request_id": accepted["request_id"],
        "gateway_request_id": accepted["gateway_request_id"],
        "status": "OK",
        "payload": sandbox.result(accepted).json(),
    }
    assert post.headers["x-fal-webhook-request-id"] == accepted["request_id"]
    assert post.headers["x-fal-webhook-user-id"] == "sandbox"
    assert holds(sandbox, post)


def test_a_failed_request_sends_the_models_error(sandbox: Sandbox, hook: Hook) -> None:
    sandbox.accept("fal-ai/llava-next", hook.url, prompt="what")
    body = hook.next().json
    assert (body["status"], body["error"]) == ("ERROR", "Invalid status code: 422")
    assert body["payload"]["detail"][0]["loc"] == ["body", "image_url"]


def test_a_cancelled_request_sends_an_error(sandbox: Sandbox, hook: Hook) -> None:
    accepted = accept(sandbox, hook, work_seconds=600)
    sandbox.cancel(accepted)
    assert hook.next().json["error"] == "Invalid status code: 499"


def test_a_refused_webhook_is_sent_again_with_the_same_body(sandbox: Sandbox, hook: Hook) -> None:
    hook.answers += [500, 404]
    accept(sandbox, hook)
    posts = [hook.next() for _ in range(3)]
    assert len({post.body for post in posts}) == 1
    assert all(holds(sandbox, post) for post in posts)
    assert nothing_more(sandbox, hook)


def test_the_tries_of_a_webhook_are_counted(sandbox: Sandbox, hook: Hook) -> None:
    hook.answers += [500, 500, 500]
    accepted = accept(sandbox, hook)
    for _ in range(3):
        hook.next()
    assert nothing_more(sandbox, hook)
    assert [delivery["status"] for delivery in sandbox.told(accepted)["deliveries"]] == [500, 500, 500]


def test_a_redirect_ends_the_tries(sandbox: Sandbox, hook: Hook) -> None:
    hook.answers += [302]
    accept(sandbox, hook)
    hook.next()
    assert nothing_more(sandbox, hook)


def test_none_sends_nothing(sandbox: Sandbox, hook: Hook) -> None:
    sandbox.wait(accept(sandbox, hook, webhook="none"))
    assert nothing_more(sandbox, hook)


def test_duplicate_sends_the_same_webhook_many_times(sandbox: Sandbox, hook: Hook) -> None:
    accept(sandbox, hook, webhook="duplicate", webhook_times=3)
    posts = [hook.next() for _ in range(3)]
    assert len({post.body for post in posts}) == 1
    assert nothing_more(sandbox, hook)


def test_early_is_sent_before_the_submit_is_answered(sandbox: Sandbox, hook: Hook) -> None:
    accepted = accept(sandbox, hook, webhook="early")
    assert hook.posts.get_nowait().json["request_id"] == accepted["request_id"]


def test_late_is_sent_after_a_while(sandbox: Sandbox, hook: Hook) -> None:
    accepted = accept(sandbox, hook, webhook="late", webhook_delay_seconds=0.05)
    assert hook.next().json["request_id"] == accepted["request_id"]


def test_out_of_order_sends_an_older_status_first(sandbox: Sandbox, hook: Hook) -> None:
    accept(sandbox, hook, webhook="out_of_order")
    posts = [hook.next(), hook.next()]
    assert [post.json["status"] for post in posts] == ["IN_PROGRESS", "OK"]
    assert all(holds(sandbox, post) for post in posts)


@pytest.mark.parametrize("kind", ["forged", "stale"])
def test_a_webhook_that_proves_nothing_comes_before_the_good_one(sandbox: Sandbox, hook: Hook, kind: str) -> None:
    accept(sandbox, hook, webhook=kind)
    bad, good = hook.next(), hook.next()
    assert bad.body == good.body
    assert (holds(sandbox, bad), holds(sandbox, good)) == (False, True)


def test_forged_is_signed_with_an_unpublished_key_and_stale_with_an_old_time(sandbox: Sandbox, hook: Hook) -> None:
    accept(sandbox, hook, webhook="forged", only_bad=True)
    accept(sandbox, hook, webhook="stale", only_bad=True)
    forged, stale = sorted([hook.next(), hook.next()], key=lambda post: post.age)
    assert (forged.age < 300, any(forged.signed_by(key) for key in jwks(sandbox))) == (True, False)
    assert (stale.age > 300, any(stale.signed_by(key) for key in jwks(sandbox))) == (True, True)


@pytest.mark.parametrize("kind", ["forged", "stale", "html", "out_of_order"])
def test_the_good_one_never_comes_if_only_the_bad_is_wanted(sandbox: Sandbox, hook: Hook, kind: str) -> None:
    accept(sandbox, hook, webhook=kind, only_bad=True)
    hook.next()
    assert nothing_more(sandbox, hook)


def test_crossed_goes_to_another_requests_address_first(hook: Hook, other_hook: Hook) -> None:
    with running_sandbox() as sandbox:
        other = accept(sandbox, other_hook, work_seconds=600)
        accepted = accept(sandbox, hook, webhook="crossed")
        assert other_hook.next().json["request_id"] == accepted["request_id"]
        assert hook.next().json["request_id"] == accepted["request_id"]
        sandbox.cancel(other)
        assert other_hook.next().json["request_id"] == other["request_id"]


def test_conflicting_contradicts_the_good_one(sandbox: Sandbox, hook: Hook) -> None:
    accepted = accept(sandbox, hook, webhook="conflicting")
    good, other = hook.next(), hook.next()
    assert good.json["payload"] == sandbox.result(accepted).json()
    assert other.json["payload"] != good.json["payload"]
    assert other.json["request_id"] == good.json["request_id"]
    assert holds(sandbox, other)


def test_null_payload_leaves_the_result_to_be_fetched(sandbox: Sandbox, hook: Hook) -> None:
    accepted = accept(sandbox, hook, webhook="null_payload")
    body = hook.next().json
    assert (body["status"], body["payload"]) == ("OK", None)
    assert body["payload_error"]
    assert sandbox.result(accepted).json()["output"]


def test_html_is_sent_signed_before_the_good_one(sandbox: Sandbox, hook: Hook) -> None:
    accept(sandbox, hook, webhook="html")
    bad, good = hook.next(), hook.next()
    assert bad.headers["content-type"] == "text/html"
    assert bad.body.startswith(b"<html>")
    assert holds(sandbox, bad)
    assert good.json["status"] == "OK"


def test_a_rotated_key_is_published_before_it_signs(sandbox: Sandbox, hook: Hook) -> None:
    before = jwks(sandbox)
    accept(sandbox, hook, rotate_key=True)
    post = hook.next()
    assert not any(post.signed_by(key) for key in before)
    assert post.signed_by(jwks(sandbox)[0])


def test_the_published_keys_stay_few_and_have_padded_values(sandbox: Sandbox) -> None:
    for _ in range(5):
        sandbox.http.post("/sandbox/rotate-keys")
    keys = jwks(sandbox)
    assert len(keys) == len({key["kid"] for key in keys}) == 3
    assert all(len(key["x"]) == 44 for key in keys)


def test_an_address_that_cannot_be_reached_is_given_up(sandbox: Sandbox) -> None:
    accepted = sandbox.accept("sandbox/echo", "http://127.0.0.1:1/hook", sandbox={"webhook": "early"})
    assert "ConnectError" in sandbox.told(accepted)["deliveries"][0]["error"]
