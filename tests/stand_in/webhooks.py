"""Webhooks, good and bad. Each is a function from a run to the bytes and headers that are posted."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.stand_in.script import Outcome, Webhook
from tests.stand_in.signing import Key

if TYPE_CHECKING:
    from tests.stand_in.server import Run, StandIn

STRANGER = Key()
ZERO_SIGNATURE = "00" * 64


@dataclass(frozen=True)
class Post:
    url: str
    body: bytes
    headers: tuple[tuple[str, str], ...]


def envelope(run: "Run", outcome: Outcome) -> bytes:
    """The body of a webhook, with the model's bytes spliced in untouched."""
    said: dict[str, Any] = {"request_id": run.request_id, "gateway_request_id": run.gateway_request_id}
    if outcome.ok:
        said["status"] = "OK"
    else:
        said |= {"status": "ERROR", "error": f"Invalid status code: {outcome.status}"}
    return json.dumps(said).encode()[:-1] + b', "payload": ' + outcome.body + b"}"


def signed(fal: "StandIn", run: "Run", body: bytes, *, key: Key | None = None, shift: float = 0) -> Post:
    headers = (key or fal.key).headers(run.request_id, fal.user_id, body, shift=shift)
    return post(run, body, headers)


def post(run: "Run", body: bytes, headers: dict[str, str]) -> Post:
    assert run.webhook_url is not None, "the submit named no webhook address"
    return Post(run.webhook_url, body, (("content-type", "application/json"), *headers.items()))


# Good ones


def good(fal: "StandIn", run: "Run") -> Post:
    return signed(fal, run, envelope(run, run.outcome))


def good_by(key: Key) -> Webhook:
    return lambda fal, run: signed(fal, run, envelope(run, run.outcome), key=key)


def with_outcome(outcome: Outcome) -> Webhook:
    """Well signed, but saying something else than the result that can be fetched."""
    return lambda fal, run: signed(fal, run, envelope(run, outcome))


def null_payload(fal: "StandIn", run: "Run") -> Post:
    """The model's answer could not be put into the webhook: it must be fetched."""
    said = {
        "request_id": run.request_id,
        "gateway_request_id": run.gateway_request_id,
        "status": "OK",
        "payload": None,
        "payload_error": "Response payload is not JSON serializable. Either return a JSON serializable object"
        " or use the queue endpoint to retrieve the response.",
    }
    return signed(fal, run, json.dumps(said).encode())


def null_error_payload(fal: "StandIn", run: "Run") -> Post:
    """ERROR with nothing in it, though the result can be had: seen of fal in the wild."""
    said = {
        "request_id": run.request_id,
        "gateway_request_id": run.gateway_request_id,
        "status": "ERROR",
        "error": "Invalid status code: 404",
        "payload": None,
        "payload_error": "Response payload is not JSON serializable.",
    }
    return signed(fal, run, json.dumps(said).encode())


def body(raw: bytes) -> Webhook:
    """Well signed bytes that need not be a webhook at all."""
    return lambda fal, run: signed(fal, run, raw)


def other_gateway(fal: "StandIn", run: "Run") -> Post:
    """fal itself tried again, so that the last gateway attempt is another."""
    raw = envelope(run, run.outcome).replace(run.gateway_request_id.encode(), b"gateway-" + run.request_id.encode())
    return signed(fal, run, raw)


# Bad ones


def by_a_stranger(fal: "StandIn", run: "Run") -> Post:
    return signed(fal, run, envelope(run, run.outcome), key=STRANGER)


def shifted(seconds: float) -> Webhook:
    return lambda fal, run: signed(fal, run, envelope(run, run.outcome), shift=seconds)


def with_header(name: str, value: str) -> Webhook:
    def forge(fal: "StandIn", run: "Run") -> Post:
        sent = good(fal, run)
        return Post(sent.url, sent.body, (*(pair for pair in sent.headers if pair[0] != name), (name, value)))

    return forge


def without_header(name: str) -> Webhook:
    def forge(fal: "StandIn", run: "Run") -> Post:
        sent = good(fal, run)
        return Post(sent.url, sent.body, tuple(pair for pair in sent.headers if pair[0] != name))

    return forge


def with_header_twice(name: str, second: str) -> Webhook:
    def forge(fal: "StandIn", run: "Run") -> Post:
        sent = good(fal, run)
        return Post(sent.url, sent.body, (*sent.headers, (name, second)))

    return forge


def with_short_signature(fal: "StandIn", run: "Run") -> Post:
    sent = good(fal, run)
    signature = dict(sent.headers)["x-fal-webhook-signature"]
    return with_header("x-fal-webhook-signature", signature[:-2])(fal, run)


def with_flipped_bit(fal: "StandIn", run: "Run") -> Post:
    sent = good(fal, run)
    middle = len(sent.body) // 2
    flipped = sent.body[:middle] + bytes([sent.body[middle] ^ 1]) + sent.body[middle + 1 :]
    return Post(sent.url, flipped, sent.headers)


def emptied(fal: "StandIn", run: "Run") -> Post:
    sent = good(fal, run)
    return Post(sent.url, b"", sent.headers)


def for_another_account(fal: "StandIn", run: "Run") -> Post:
    raw = envelope(run, run.outcome)
    return post(run, raw, fal.key.headers(run.request_id, "another-account", raw))


def crossed(other: "Run") -> Webhook:
    """Another request's webhook, validly signed, posted to this run's address."""

    def forge(fal: "StandIn", run: "Run") -> Post:
        raw = envelope(other, other.outcome)
        return post(run, raw, fal.key.headers(other.request_id, fal.user_id, raw))

    return forge


def crossed_headers(other: "Run") -> Webhook:
    """This run's body under another request's ID: the two do not agree."""

    def forge(fal: "StandIn", run: "Run") -> Post:
        raw = envelope(run, run.outcome)
        return post(run, raw, fal.key.headers(other.request_id, fal.user_id, raw))

    return forge


def to_a_wrong_secret(fal: "StandIn", run: "Run") -> Post:
    """The right webhook at an address whose last character was changed."""
    sent = good(fal, run)
    return Post(sent.url[:-1] + ("0" if sent.url[-1] != "0" else "1"), sent.body, sent.headers)
