"""Ed25519 keys in the form that fal publishes them in, and its webhook signature. By PyNaCl."""

import base64
import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

from nacl.signing import SigningKey


@dataclass(frozen=True)
class Key:
    padded: bool = False
    secret: SigningKey = field(default_factory=SigningKey.generate)

    def jwk(self, kid: str) -> dict[str, Any]:
        return public_jwk(bytes(self.secret.verify_key), kid, padded=self.padded)

    def sign(self, request_id: str, user_id: str, timestamp: str, body: bytes) -> str:
        lines = (request_id, user_id, timestamp, hashlib.sha256(body).hexdigest())
        return self.secret.sign("\n".join(lines).encode()).signature.hex()

    def headers(self, request_id: str, user_id: str, body: bytes, *, shift: float = 0) -> dict[str, str]:
        """The four headers of a webhook; `shift` moves its clock by that many seconds."""
        timestamp = str(int(time.time() + shift))
        return {
            "x-fal-webhook-request-id": request_id,
            "x-fal-webhook-user-id": user_id,
            "x-fal-webhook-timestamp": timestamp,
            "x-fal-webhook-signature": self.sign(request_id, user_id, timestamp, body),
        }


def public_jwk(public: bytes, kid: str, *, padded: bool = False) -> dict[str, Any]:
    x = base64.urlsafe_b64encode(public).decode()
    return {"kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "x": x if padded else x.rstrip("=")}


# A key set may hold more than we can use: another kind of key, and a point of small order, under which
# libraries that do not look accept a signature of zeros.
STRANGERS: tuple[dict[str, Any], ...] = (
    {"kty": "RSA", "kid": "rsa", "use": "sig", "n": "u1SU1LfVLPHCozMxH2Mo4lgOEePzNm0tRgeLezV6ffAt0g", "e": "AQAB"},
    public_jwk(bytes(32), "zeros"),
)
