"""Webhooks as fal posts them, over HTTP, and as a forger would like to."""

import json
import time
from typing import Any

import httpx

from service.providers.address import Sealer
from tests.provider import Provider
from tests.stand_in.signing import Key


def envelope(request_id: str, payload: bytes = b"null", **fields: Any) -> bytes:
    """`payload` goes in byte for byte."""
    head = json.dumps({"request_id": request_id, "gateway_request_id": request_id, "status": "OK", **fields})
    return head[:-1].encode() + b', "payload": ' + payload + b"}"


class Poster:
    """Knows the provider's key and account."""

    def __init__(self, http: httpx.AsyncClient, provider: Provider, sealer: Sealer) -> None:
        self.http = http
        self.key: Key = provider.key
        self.user_id = provider.user_id
        self.sealer = sealer

    def signed(self, request_id: str, body: bytes, *, shift: float = 0) -> dict[str, str]:
        return self.key.headers(request_id, self.user_id, body, shift=shift)

    async def send(self, url: str, body: bytes, headers: Any) -> httpx.Response:
        return await self.http.post(url, content=body, headers=headers)

    async def post(self, url: str, request_id: str, payload: bytes, **fields: Any) -> dict[str, Any]:
        """A good webhook; returns what was answered to it."""
        body = envelope(request_id, payload, **fields)
        response = await self.send(url, body, self.signed(request_id, body))
        assert response.status_code == 200, response.text
        return dict(response.json())


def now(shift: int = 0) -> str:
    return str(int(time.time()) + shift)
