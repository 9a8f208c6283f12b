"""The key of the GPU workers of one machine: made when it is first needed, and never anywhere else."""

import base64
import binascii
import hashlib
import os
import tempfile
from pathlib import Path
from time import time

from nacl.encoding import RawEncoder
from nacl.signing import SigningKey

from service.callbacks.signatures import fal_headers


class WorkerKey:
    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self.public = key.verify_key.encode(RawEncoder)
        self.id = key_id(self.public)

    @classmethod
    def kept_in(cls, place: Path) -> "WorkerKey":
        """Readable for this account only; of two processes that make it at once one wins."""
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = place / "key"
        if not target.exists():
            handle, draft = tempfile.mkstemp(prefix=".key-", dir=place)
            with os.fdopen(handle, "w") as file:
                file.write(os.urandom(32).hex())
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, target)
            except FileExistsError:
                pass
            finally:
                os.unlink(draft)
        return cls(SigningKey(bytes.fromhex(target.read_text().strip())))

    def headers(self, request_id: str, body: bytes) -> dict[str, str]:
        """The signature in the form that fal's webhooks have."""
        return fal_headers(self._key, request_id, self.id, int(time()), body)


def key_id(public_key: bytes) -> str:
    """The name that both sides know it by."""
    return f"gpu_{hashlib.sha256(public_key).hexdigest()[:20]}"


def read_public_key(text: str) -> bytes:
    """Raises ValueError."""
    try:
        raw = base64.b64decode(text.strip() + "=" * (-len(text.strip()) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(f"is not base64: {error}") from None
    if len(raw) != 32:
        raise ValueError("has not 32 bytes")
    return raw


def public_key_text(public_key: bytes) -> str:
    return base64.urlsafe_b64encode(public_key).decode().rstrip("=")
