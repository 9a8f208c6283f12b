"""The Ed25519 keys that sign webhooks, and the JWKS that publishes them."""

from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PUBLISHED = 3  # a receiver that still holds an old set must find the newest key after one more fetch


class SigningKeys:
    """Signs with the newest key; publishes it and the few before it, newest first."""

    def __init__(self) -> None:
        self._keys = [Ed25519PrivateKey.generate()]

    @property
    def current(self) -> Ed25519PrivateKey:
        return self._keys[0]

    def rotate(self) -> None:
        self._keys = [Ed25519PrivateKey.generate(), *self._keys][:PUBLISHED]

    def jwks(self) -> dict[str, Any]:
        return {"keys": [_jwk(key) for key in self._keys]}


def _jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    public = key.public_key().public_bytes_raw()
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": urlsafe_b64encode(public).decode(),  # padded: fal's own Python sample decodes it as it stands
        "kid": sha256(public).hexdigest()[:16],
        "use": "sig",
        "alg": "EdDSA",
    }


def signature_headers(
    key: Ed25519PrivateKey, *, request_id: str, user_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    message = "\n".join((request_id, user_id, str(timestamp), sha256(body).hexdigest()))
    return {
        "x-fal-webhook-request-id": request_id,
        "x-fal-webhook-user-id": user_id,
        "x-fal-webhook-timestamp": str(timestamp),
        "x-fal-webhook-signature": key.sign(message.encode()).hex(),
    }
