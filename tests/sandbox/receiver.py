"""A receiver of webhooks that checks signatures on its own, with PyNaCl, the way fal's own sample does."""

import base64
import hashlib
import json
import time
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


@dataclass(frozen=True)
class Post:
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def age(self) -> int:
        return int(time.time()) - int(self.headers["x-fal-webhook-timestamp"])

    def signed_by(self, jwk: dict[str, str]) -> bool:
        names = ("request-id", "user-id", "timestamp")
        parts = [*(self.headers[f"x-fal-webhook-{name}"] for name in names), hashlib.sha256(self.body).hexdigest()]
        signature = bytes.fromhex(self.headers["x-fal-webhook-signature"])
        try:
            VerifyKey(base64.urlsafe_b64decode(jwk["x"])).verify("\n".join(parts).encode(), signature)
        except BadSignatureError:
            return False
        return True


@dataclass
class Hook:
    """One address of the receiver; it answers as told, and 200 when nothing more was told."""

    url: str
    posts: "SimpleQueue[Post]" = field(default_factory=SimpleQueue)
    answers: list[int] = field(default_factory=list)

    def next(self) -> Post:
        return self.posts.get(timeout=20)


class Receiver:
    def __init__(self) -> None:
        self.url = ""
        self._hooks: dict[str, Hook] = {}
        self._files: dict[str, tuple[bytes, str]] = {}

    def hook(self, name: str) -> Hook:
        return self._hooks.setdefault(name, Hook(f"{self.url}/hooks/{name}"))

    def serve(self, name: str, data: bytes, content_type: str) -> str:
        self._files[name] = (data, content_type)
        return f"{self.url}/pictures/{name}"

    def app(self, url: str) -> Starlette:
        self.url = url
        return Starlette(
            routes=[
                Route("/hooks/{name}", self._post, methods=["POST"]),
                Route("/pictures/{name}", self._picture),
            ]
        )

    async def _post(self, request: Request) -> Response:
        hook = self._hooks[request.path_params["name"]]
        hook.posts.put(Post(dict(request.headers), await request.body()))
        return Response(status_code=hook.answers.pop(0) if hook.answers else 200)

    async def _picture(self, request: Request) -> Response:
        if request.path_params["name"] not in self._files:
            return Response(status_code=404)
        data, content_type = self._files[request.path_params["name"]]
        return Response(data, media_type=content_type)
