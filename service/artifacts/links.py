"""The addresses under which stored files are served: unguessable, so that they work like fal's own links."""

import hashlib
import hmac
import re
from urllib.parse import quote

PREFIX = "/files"
TOKEN = re.compile(r"([0-9a-f]{64})-([0-9a-f]{32})")


class FileLinks:
    """Makes and opens addresses that only a holder of the installation's secret can make."""

    def __init__(self, secret: bytes, public_url: str) -> None:
        self._secret = secret
        self._public_url = public_url

    def url(self, sha256: str, file_name: str) -> str:
        return f"{self._public_url}{PREFIX}/{sha256}-{self._seal(sha256)}/{quote(file_name, safe='')}"

    def open(self, token: str) -> str | None:
        """The SHA-256 that a token names; None when the token is not ours."""
        found = TOKEN.fullmatch(token)
        if found is None or not hmac.compare_digest(self._seal(found[1]), found[2]):
            return None
        return found[1]

    def _seal(self, sha256: str) -> str:
        return hmac.new(self._secret, sha256.encode(), hashlib.sha256).hexdigest()[:32]
