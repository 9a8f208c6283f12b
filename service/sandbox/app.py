"""The sandbox on one page: its URL map, what it opens at the start, and how it words a failure."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.sandbox import endpoints, upkeep
from service.sandbox.config import SandboxConfig
from service.sandbox.endpoints import State
from service.sandbox.failures import Failure
from service.sandbox.faults import SubmitCounter
from service.sandbox.files import Files
from service.sandbox.journal import Journal
from service.sandbox.keys import SigningKeys
from service.sandbox.pictures import Pictures
from service.sandbox.queue import Entry, Queue, Signal
from service.sandbox.webhooks import Courier
from service.sandbox.worker import Worker

__all__ = ["SandboxConfig", "create_app"]

SWEEPS_A_LIFETIME = 10
NO_PROXY: dict[str, None] = {"all://127.0.0.1": None, "all://localhost": None}


def create_app(config: SandboxConfig) -> Starlette:
    return Starlette(
        routes=[
            Route("/healthz", upkeep.healthz),
            Route("/.well-known/jwks.json", upkeep.jwks),
            Route("/files/{path:path}", upkeep.file),
            Route("/sandbox/requests", upkeep.requests),
            Route("/sandbox/rotate-keys", upkeep.rotate_keys, methods=["POST"]),
            *_both("/{app:path}/requests/{request_id}/status/stream", endpoints.status_stream, "GET"),
            *_both("/{app:path}/requests/{request_id}/status", endpoints.status, "GET"),
            *_both("/{app:path}/requests/{request_id}/cancel", endpoints.cancel, "PUT"),
            *_both("/{app:path}/requests/{request_id}/response", endpoints.result, "GET"),
            *_both("/{app:path}/requests/{request_id}", endpoints.result, "GET"),
            Route("/{model:path}", endpoints.submit, methods=["POST"]),
        ],
        middleware=[Middleware(RequestIdHeader)],
        exception_handlers={Failure: _failure, HTTPException: _http_exception, Exception: _broken},
        lifespan=_lifespan(config),
        max_body_size=config.max_body_bytes,
    )


def _both(path: str, endpoint: Callable[..., Any], method: str) -> list[Route]:
    """fal answers with and without a trailing slash."""
    return [Route(path, endpoint, methods=[method]), Route(f"{path}/", endpoint, methods=[method])]


def _lifespan(config: SandboxConfig) -> Callable[[Starlette], Any]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[State]:
        async with AsyncExitStack() as stack:
            threads = ThreadPoolExecutor(config.concurrency, "sandbox")
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            fetching = stack.enter_context(
                httpx.Client(follow_redirects=True, timeout=config.fetch_seconds, mounts=NO_PROXY)
            )
            sending = await stack.enter_async_context(
                httpx.AsyncClient(timeout=config.webhook_seconds, mounts=NO_PROXY)
            )
            journal = Journal(config.journal)
            stack.callback(journal.close)
            entries: dict[str, Entry] = {}
            changed = Signal()
            keys = SigningKeys()
            files = Files(config.public_url, keep_seconds=config.keep_seconds, max_bytes=config.max_file_bytes)
            pictures = Pictures(
                fetching, max_bytes=config.fetch_max_bytes, max_pixels=config.max_pixels, seconds=config.fetch_seconds
            )
            courier = Courier(config, keys, sending, entries, journal)
            stack.push_async_callback(courier.close)

            def ended(entry: Entry) -> None:
                journal.finished(entry)
                courier.deliver(entry)

            queue = Queue(
                entries,
                Worker(config, pictures, files, threads, changed).perform,
                ended,
                concurrency=config.concurrency,
                max_requests=config.max_requests,
                changed=changed,
            )
            stack.push_async_callback(queue.close)
            sweeping = asyncio.create_task(_sweep(config, queue, files), name="sandbox sweep")
            stack.callback(sweeping.cancel)
            yield State(config=config, queue=queue, files=files, keys=keys, submits=SubmitCounter(), journal=journal)

    return lifespan


async def _sweep(config: SandboxConfig, queue: Queue, files: Files) -> None:
    while True:
        await asyncio.sleep(config.keep_seconds / SWEEPS_A_LIFETIME)
        queue.forget(config.keep_seconds)
        files.forget()


def _failure(request: Request, error: Exception) -> Response:
    assert isinstance(error, Failure)
    return JSONResponse(error.body, error.status, headers=error.headers)


def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = {"detail": error.detail, "error_type": "not_found" if error.status_code == 404 else "bad_request"}
    return JSONResponse(body, error.status_code, headers=error.headers)


def _broken(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": "Internal server error", "error_type": "internal_error"}, 500)


class RequestIdHeader:
    """Names every answer, as fal's gateway does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("x-fal-request-id", str(uuid.uuid4()))
            await send(message)

        await self.app(scope, receive, send_named if scope["type"] == "http" else send)
