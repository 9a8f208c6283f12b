"""Every answer of the door bears x-fal-request-id: without it, `fal-client` takes an error for one of a proxy's."""

from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.front.addresses import PREFIX

NAME = b"x-fal-request-id"


class RequestNames:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                if not any(name == NAME for name, _ in headers):
                    headers.append((NAME, str(uuid4()).encode()))
            await send(message)

        ours = scope["type"] == "http" and scope["path"].startswith(f"{PREFIX}/")
        await self._app(scope, receive, send_named if ours else send)
