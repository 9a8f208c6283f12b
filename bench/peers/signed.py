"""Is a webhook the queue's? fal's check, which every peer makes: Ed25519 over three headers and the body's hash."""

import base64
import hashlib
import json
import time
import urllib.request
from collections.abc import Mapping
from functools import cache

from nacl.signing import VerifyKey

from bench.peers.surroundings import QUEUE_URL

TOLERANCE_SECONDS = 300


@cache
def published_key() -> VerifyKey:
    with urllib.request.urlopen(f"{QUEUE_URL}/.well-known/jwks.json") as answer:
        text = json.load(answer)["keys"][0]["x"]
    return VerifyKey(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def check(headers: Mapping[str, str], body: bytes) -> None:
    """Raises BadSignatureError or ValueError."""
    request_id, user_id, timestamp, signature = (
        headers[f"x-fal-webhook-{part}"] for part in ("request-id", "user-id", "timestamp", "signature")
    )
    if abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        raise ValueError("the webhook is too old")
    lines = (request_id, user_id, timestamp, hashlib.sha256(body).hexdigest())
    published_key().verify("\n".join(lines).encode(), bytes.fromhex(signature))
