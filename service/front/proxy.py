"""The server-side proxy of fal's clients: `x-fal-target-url` names an address of fal's, and this door answers for it.

Nothing is sent anywhere: the request is handed to the application's own routes, with the caller's own credentials.
"""

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from service.front.addresses import local_target

TARGET = b"x-fal-target-url"


class Proxy:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        target = local_target(request.headers.get(TARGET.decode(), ""))
        headers = [(name, value) for name, value in scope["headers"] if name != TARGET]
        inner = {**scope, **target, "headers": headers, "root_path": scope.get("app_root_path", ""), "path_params": {}}
        await request.app.router(inner, receive, send)
