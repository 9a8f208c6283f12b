"""Is this webhook fal's? Ed25519 over four lines, checked against fal's published keys.

https://fal.ai/docs/documentation/model-apis/inference/webhooks: the message is the request ID, the user ID,
the timestamp and the hex SHA-256 of the raw body, joined by newlines; any published key may have signed.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic, time

import httpx
import structlog
from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from service.errors import SignatureRejected, Unavailable
from service.jsontext import NotJSON, parse

log = structlog.get_logger()

TOLERANCE_SECONDS = 300
MOST_KEYS = 10
LARGEST_KEY_SET = 64 * 1024

# fal asks to fetch the keys again after a day at most; an hour keeps a rotation short.
FRESH_SECONDS = 3_600
LONGEST_SECONDS = 86_400

# A forged webhook makes us look for new keys. This many looks at once, one more every two seconds:
# enough for a rotation under attack, too few to be used against the key server.
LOOKS = 30
SECONDS_A_LOOK = 2.0
SECONDS_AFTER_FAILURE = 1.0
FETCH_SECONDS = 5.0

HEX_SIGNATURE = re.compile(r"[0-9a-f]{128}")
DECIMAL_SECONDS = re.compile(r"[0-9]{1,11}")
PRINTABLE = re.compile(r"[\x21-\x7e]{1,200}")


class KeysUnavailable(Unavailable):
    message = "The keys that sign webhooks cannot be had; try again shortly."


@dataclass(frozen=True, slots=True)
class Signed:
    """A webhook's four signature headers, each well formed."""

    request_id: str
    user_id: str
    timestamp: str
    signature: str

    def message(self, body: bytes) -> bytes:
        return self.message_of(hashlib.sha256(body).hexdigest())

    def message_of(self, digest: str) -> bytes:
        """`digest` is the body's SHA-256 in hex."""
        return f"{self.request_id}\n{self.user_id}\n{self.timestamp}\n{digest}".encode()


def read_headers(headers: Sequence[tuple[bytes, bytes]]) -> Signed:
    """Each header exactly once and in its exact form. Raises SignatureRejected."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name.startswith(b"x-fal-webhook-"):
            word = name.decode("latin-1")
            if word in found:
                raise SignatureRejected.because("headers")
            found[word] = value.decode("latin-1")
    request_id = found.get("x-fal-webhook-request-id", "")
    user_id = found.get("x-fal-webhook-user-id", "")
    timestamp = found.get("x-fal-webhook-timestamp", "")
    signature = found.get("x-fal-webhook-signature", "")
    well_formed = (
        PRINTABLE.fullmatch(request_id)
        and PRINTABLE.fullmatch(user_id)
        and DECIMAL_SECONDS.fullmatch(timestamp)
        and HEX_SIGNATURE.fullmatch(signature)
    )
    if not well_formed:
        raise SignatureRejected.because("headers")
    if abs(time() - int(timestamp)) > TOLERANCE_SECONDS:
        raise SignatureRejected.because("stale")
    return Signed(request_id, user_id, timestamp, signature)


def read_key_set(document: bytes) -> tuple[bytes, ...]:
    """The 32-byte Ed25519 keys of a JWKS, `x` padded or not. Raises KeysUnavailable when there is none."""
    try:
        content = parse(document)
    except NotJSON:
        raise KeysUnavailable from None
    listed = content.get("keys") if isinstance(content, dict) else None
    keys = [_public_key(entry) for entry in listed] if isinstance(listed, list) else []
    good = tuple(dict.fromkeys(key for key in keys if key is not None))[:MOST_KEYS]
    if not good:
        raise KeysUnavailable
    return good


def _public_key(entry: object) -> bytes | None:
    if not isinstance(entry, dict) or entry.get("kty") != "OKP" or entry.get("crv") != "Ed25519":
        return None
    x = entry.get("x")
    if not isinstance(x, str) or not re.fullmatch(r"[A-Za-z0-9_-]{43}=?", x):
        return None
    return base64.urlsafe_b64decode(x.rstrip("=") + "=")


class KeySet:
    """fal's published keys, kept, and fetched anew once when none of them fits."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url
        self._keys: tuple[bytes, ...] = ()
        self._fetched_at = float("-inf")
        self._failed_at = float("-inf")
        self._looks = float(LOOKS)
        self._looked_at = monotonic()
        self._fetching = asyncio.Lock()
        self._renewing: asyncio.Task[None] | None = None

    async def verify(self, signed: Signed, body: bytes) -> None:
        """Raises SignatureRejected, or KeysUnavailable when there is nothing to check against.

        Keys that fit are used at once, and renewed beside it: good webhooks never wait for the key server.
        """
        signature, message = bytes.fromhex(signed.signature), signed.message(body)
        tried = self._fetched_at
        if self._age() <= LONGEST_SECONDS and _fits(self._keys, signature, message):
            if self._age() > FRESH_SECONDS and self._renewing is None:
                self._renewing = asyncio.create_task(self._renew())
            return
        await self._fetch_since(tried)
        if self._fetched_at > tried and _fits(self._keys, signature, message):
            return
        raise SignatureRejected.because("signature")

    async def _renew(self) -> None:
        try:
            await self._fetch_since(self._fetched_at)
        except KeysUnavailable:
            return  # It is logged where it happens, and the next webhook that needs new keys says so.
        finally:
            self._renewing = None

    def _age(self) -> float:
        return monotonic() - self._fetched_at

    async def _fetch_since(self, tried: float) -> None:
        """Fetch the keys, unless somebody did after `tried`: a hundred webhooks that miss cost one look.

        Raises KeysUnavailable when the keys at hand are too old to be used and no newer ones can be had.
        """
        async with self._fetching:
            if self._fetched_at > tried:
                return
            if monotonic() - self._failed_at > SECONDS_AFTER_FAILURE and self._may_look():
                await self._fetch()
            if self._age() > LONGEST_SECONDS:
                raise KeysUnavailable

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                self._keys = read_key_set(await self._download())
            self._fetched_at = monotonic()
        except (httpx.HTTPError, TimeoutError, KeysUnavailable) as error:
            self._failed_at = monotonic()
            log.warning("webhook keys could not be fetched", url=self._url, error=repr(error))

    async def _download(self) -> bytes:
        document = bytearray()
        async with self._http.stream("GET", self._url) as response:
            async for chunk in response.aiter_bytes():
                document += chunk
                if response.status_code != 200 or len(document) > LARGEST_KEY_SET:
                    raise KeysUnavailable
        return bytes(document)

    def _may_look(self) -> bool:
        now = monotonic()
        self._looks = min(LOOKS, self._looks + (now - self._looked_at) / SECONDS_A_LOOK)
        self._looked_at = now
        if self._looks < 1:
            return False
        self._looks -= 1
        return True


def _fits(keys: tuple[bytes, ...], signature: bytes, message: bytes) -> bool:
    return any(verifies(key, signature, message) for key in keys)


def verifies(key: bytes, signature: bytes, message: bytes) -> bool:
    """libsodium itself refuses keys and signatures of small order."""
    try:
        crypto_sign_open(signature + message, key)
    except BadSignatureError:
        return False
    return True
