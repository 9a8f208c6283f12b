"""Runs an ASGI program on a free port of 127.0.0.1, in a thread, for as long as a `with` block lasts."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from service.sandbox.app import SandboxConfig, create_app

KEY = {"authorization": "Key tester:secret"}


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextmanager
def serving(make_app: Callable[[str], ASGIApp]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(make_app(url), log_level="critical", lifespan="on", timeout_graceful_shutdown=1)
        server = Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        assert server.ready.wait(10), "the server did not start"
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join(10)


class Sandbox:
    """A client of one running sandbox."""

    def __init__(self, url: str, http: httpx.Client) -> None:
        self.url = url
        self.http = http

    def submit(
        self, model: str = "sandbox/echo", webhook: str | None = None, /, headers: Any = None, **input: Any
    ) -> httpx.Response:
        params = {"fal_webhook": webhook} if webhook else {}
        return self.http.post(f"/{model}", json=input, params=params, headers=headers)

    def accept(self, model: str = "sandbox/echo", webhook: str | None = None, /, **input: Any) -> dict[str, Any]:
        return dict(self.submit(model, webhook, **input).raise_for_status().json())

    def wait(self, accepted: dict[str, Any]) -> str:
        """The text of the status stream, which lasts until the request has ended."""
        return self.http.get(f"{accepted['status_url']}/stream", params={"logs": "1"}).raise_for_status().text

    def result(self, accepted: dict[str, Any]) -> httpx.Response:
        self.wait(accepted)
        return self.http.get(accepted["response_url"])

    def run(self, model: str, **input: Any) -> dict[str, Any]:
        return dict(self.result(self.accept(model, **input)).raise_for_status().json())

    def problem(self, model: str, **input: Any) -> dict[str, Any]:
        """The only problem of a request that the model refuses."""
        response = self.result(self.accept(model, **input))
        assert response.status_code == 422
        [problem] = response.json()["detail"]
        return dict(problem)

    def held(self, **knobs: Any) -> dict[str, Any]:
        """A request that stays at work until it is cancelled."""
        return self.accept(sandbox={"work_seconds": 600, **knobs})

    def cancel(self, accepted: dict[str, Any]) -> httpx.Response:
        return self.http.put(accepted["cancel_url"])

    def told(self, accepted: dict[str, Any]) -> dict[str, Any]:
        """What the sandbox tells an operator about this request."""
        latest = self.http.get("/sandbox/requests").json()["latest"]
        return next(dict(entry) for entry in latest if entry["request_id"] == accepted["request_id"])


@contextmanager
def running_sandbox(**settings: Any) -> Iterator[Sandbox]:
    quick = {"webhook_backoff_seconds": 0.01, "webhook_tries": 3, **settings}
    with (
        serving(lambda url: create_app(SandboxConfig(public_url=url, **quick))) as url,
        httpx.Client(base_url=url, headers=KEY, timeout=30, trust_env=False) as http,
    ):
        yield Sandbox(url, http)
