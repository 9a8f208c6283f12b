"""Verifiers of receivers: written from fal's documentation and from the standard's, knowing nothing of our code.

https://fal.ai/docs/documentation/model-apis/inference/webhooks: check the time, join the request ID, the user ID, the
time and the SHA-256 of the raw body by newlines, and try every key of the key set; `x` is decoded by
`base64.urlsafe_b64decode` as it stands, and a key that cannot be used is passed over.
"""

import base64
import binascii
import hashlib
import time
from collections.abc import Mapping
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey


def is_fals(key_set: Mapping[str, Any], headers: Mapping[str, str], body: bytes) -> bool:
    names = ("request-id", "user-id", "timestamp", "signature")
    request_id, user_id, timestamp, signature = (headers.get(f"x-fal-webhook-{name}", "") for name in names)
    if not all((request_id, user_id, timestamp, signature)) or abs(time.time() - int(timestamp)) > 300:
        return False
    message = "\n".join((request_id, user_id, timestamp, hashlib.sha256(body).hexdigest())).encode()
    for key in key_set["keys"]:
        try:
            VerifyKey(base64.urlsafe_b64decode(key["x"])).verify(message, bytes.fromhex(signature))
        except (BadSignatureError, binascii.Error, ValueError):
            continue
        return True
    return False


def is_v1a(public_key: str, headers: Mapping[str, str], body: bytes) -> bool:
    """The standard's asymmetric signature, by a key written as `whpk_…`."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = VerifyKey(base64.b64decode(public_key.removeprefix("whpk_")))
    for version, signature in (word.split(",", 1) for word in headers["webhook-signature"].split(" ")):
        try:
            if version == "v1a" and key.verify(signed, base64.b64decode(signature)):
                return True
        except BadSignatureError:
            continue
    return False
