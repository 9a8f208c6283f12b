"""The addresses under which stored files are served: unguessable, so that they work like fal's own links."""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from service.artifacts.serving import clean_name
from service.catalog import with_stored_files
from service.db import DatabaseAway
from service.jsontext import parse_loosely

PREFIX = "/files"
SHARED = "/shared"
TOKEN = re.compile(r"([0-9a-f]{64})-([0-9a-f]{32})")
SHARE = re.compile(r"([0-9]{1,15})-([0-9a-f]{32})")


class FileLinks:
    """Makes and opens addresses that only a holder of the installation's secret can make."""

    def __init__(self, public_url: str, secret: bytes | None = None) -> None:
        self._public_url = public_url
        self._secret = secret

    def use(self, secret: bytes) -> None:
        self._secret = secret

    def url(self, sha256: str, file_name: str) -> str:
        return f"{self._public_url}{PREFIX}/{sha256}-{self._seal(sha256)}/{quote(clean_name(file_name), safe='')}"

    def is_ours(self, url: str) -> bool:
        return url.startswith(f"{self._public_url}/")

    def url_of(self, file: Mapping[str, Any]) -> str:
        """Of an artifact: the stored copy's, or the provider's own while there is none."""
        if not file["sha256"]:
            return str(file["source_url"])
        return self.url(file["sha256"], file["file_name"] or f"{file['kind']}-{file['index']}")

    def rewritten(self, body: bytes, files: Sequence[Mapping[str, Any]]) -> bytes:
        """An output with its files at their stored copies; to the byte as it came when there are none."""
        stored = {file["source_url"]: self.url_of(file) for file in files if file["sha256"]}
        if not stored:
            return body
        return json.dumps(with_stored_files(parse_loosely(body), stored), separators=(",", ":")).encode()

    def open(self, token: str) -> str | None:
        """The SHA-256 that a token names; None when the token is not ours."""
        found = TOKEN.fullmatch(token)
        if found is None or not hmac.compare_digest(self._seal(found[1]), found[2]):
            return None
        return found[1]

    def shared(self, what: str, expires: int) -> str:
        """An address of ours that needs no key until that second; `what` is the rest of its path, not quoted."""
        return f"{self._public_url}{SHARED}/{expires}-{self._seal_of_share(what, expires)}/{quote(what)}"

    def open_shared(self, token: str, what: str) -> int | None:
        """When a shared address ends or ended, in seconds since 1970; None when it is not ours."""
        found = SHARE.fullmatch(token)
        if found is None or not hmac.compare_digest(self._seal_of_share(what, int(found[1])), found[2]):
            return None
        return int(found[1])

    def _seal_of_share(self, what: str, expires: int) -> str:
        return self._seal(f"share {expires} {what}")

    def _seal(self, said: str) -> str:
        if self._secret is None:
            raise DatabaseAway  # It is read from there at the start, or as soon as it can be had.
        return hmac.new(self._secret, said.encode(), hashlib.sha256).hexdigest()[:32]
