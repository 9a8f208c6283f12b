"""The headers that prove a callback to be ours, made anew for each try.

fal's: Ed25519 over request ID, user ID, time and the body's SHA-256, a line each, in hex. Standard Webhooks': over
`id.time.body`, by HMAC-SHA256 with the tenant's secret (`v1`) and by Ed25519 with the tenant's key (`v1a`), in base64.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence

from nacl.signing import SigningKey


def fal_headers(key: SigningKey, request_id: str, user_id: str, at: int, body: bytes) -> dict[str, str]:
    """`at` is in Unix seconds."""
    lines = (request_id, user_id, str(at), hashlib.sha256(body).hexdigest())
    return {
        "X-Fal-Webhook-Request-Id": request_id,
        "X-Fal-Webhook-User-Id": user_id,
        "X-Fal-Webhook-Timestamp": str(at),
        "X-Fal-Webhook-Signature": key.sign("\n".join(lines).encode()).signature.hex(),
    }


def standard_headers(
    keys: Sequence[SigningKey], secrets: Sequence[bytes], message_id: str, at: int, body: bytes
) -> dict[str, str]:
    """One `v1` a secret and one `v1a` a key: after a rotation those before hold for a while."""
    signed = f"{message_id}.{at}.".encode() + body
    signatures = [f"v1,{_text(hmac.new(secret, signed, hashlib.sha256).digest())}" for secret in secrets]
    signatures += [f"v1a,{_text(key.sign(signed).signature)}" for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(signatures),
    }


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
