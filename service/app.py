"""The whole application on one page: the URL map, the errors and what is opened at the start."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from typing import TypedDict
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from service.api import callbacks, evidence, files, health, jobs, models, openapi, providers, registering
from service.api.rendering import Renderer
from service.artifacts.links import FileLinks
from service.context import Context, open_context
from service.dashboard import views
from service.db import DatabaseAway, patiently
from service.errors import NotFound, ServiceError
from service.front import routes as front
from service.front.browsers import cross_origin
from service.front.naming import RequestNames
from service.front.tokens import UploadTokens
from service.jobs.waiting import Waiting
from service.keys import KeyRing
from service.requests import answer
from service.secrets import FILE_LINKS, SharedSecret
from service.settings import Settings
from service.webhooks.receive import receive_fal


class State(TypedDict):
    """What the lifespan opens and every request can reach."""

    context: Context
    keys: KeyRing
    renderer: Renderer
    links: FileLinks
    waiting: Waiting
    upload_tokens: UploadTokens


job_routes = [
    Route("/", jobs.show_job),
    Route("/result", jobs.show_result),
    Route("/masks", jobs.show_masks),
    Route("/masks/{index:int}", jobs.show_mask),
    Route("/images", jobs.show_images),
    Route("/images/{index:int}", jobs.show_image),
    Route("/timings", jobs.show_timings),
    Route("/attempts", jobs.show_attempts),
    Route("/events", jobs.show_events),
    Route("/evidence", evidence.list_evidence),
    Route("/evidence/{report_id:int}", evidence.show_evidence),
    Route("/callback", callbacks.show_callback),
    Route("/callback/redeliver", callbacks.redeliver_callback, methods=["POST"]),
    Route("/stream", jobs.stream_job),
    Route("/cancel", jobs.cancel_job, methods=["POST"]),
    Route("/retry", registering.retry_job, methods=["POST"]),
]

routes = [
    Route("/v1/jobs", registering.register_job, methods=["POST"]),
    Route("/v1/jobs", jobs.list_jobs),
    Route("/v1/jobs/batch", registering.register_batch, methods=["POST"]),
    Route("/v1/jobs/{request_id}", jobs.show_job),
    Mount("/v1/jobs/{request_id}", routes=job_routes),
    Route("/v1/callbacks/redeliver", callbacks.redeliver_callbacks, methods=["POST"]),
    Route("/v1/models", models.list_models),
    Route("/v1/models/{model:path}", models.show_model),
    Route("/v1/providers", providers.list_providers),
    Route("/v1/files", files.upload_file, methods=["POST"]),
    Mount("/fal", routes=front.routes),
    Route("/files/{token}/{name}", files.serve_file),
    Route("/webhooks/fal/{job_id}/{attempt}/{seal}/{model:path}", receive_fal, methods=["POST"]),
    Route("/.well-known/jwks.json", callbacks.show_keys),
    Route("/.well-known/jwks-rfc.json", callbacks.show_strict_keys),
    Route("/dashboard", views.show_overview),
    Route("/dashboard/overview.css", views.show_style),
    Route("/openapi.json", openapi.show_document),
    Route("/healthz", health.show_health),
    Route("/readyz", health.show_readiness),
    Route("/metrics", health.show_metrics),
]


async def on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    asked = str(request.path_params.get("request_id", ""))
    # What stands in a path may be anything; a header holds visible ASCII.
    known = error.request_id or (asked if re.fullmatch(r"[!-~]{1,100}", asked) else None)
    response = answer(error.body(), error.status, request_id=known)
    response.headers.update(error.headers)
    response.headers["x-fal-error-type"] = error.error_type
    if error.status in {429, 503}:
        response.headers.setdefault("retry-after", "1")
    return response


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path, no such method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return await on_service_error(request, NotFound())
    body = {"detail": error.detail, "error_type": "bad_request", "message": error.detail}
    response = answer(body, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def on_bug(request: Request, error: Exception) -> Response:
    """The server logs the error itself; the client learns nothing of it."""
    return answer(ServiceError().body(), 500, request_id=uuid4())


def create_app(settings: Settings) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[State]:
        async with open_context(settings) as context:
            waiting, links = Waiting(context.db), FileLinks(settings.public_url)
            beside = [
                asyncio.create_task(waiting.listen(settings.require_database_url())),
                asyncio.create_task(waiting.look()),
            ]
            try:
                await load_link_secret(context, links)
            except DatabaseAway:
                # The service starts all the same, and answers 503 where it needs the database.
                beside.append(asyncio.create_task(patiently(partial(load_link_secret, context, links), inf)))
            yield State(
                context=context,
                keys=KeyRing(context.db),
                renderer=Renderer(settings.public_url, links),
                links=links,
                waiting=waiting,
                upload_tokens=UploadTokens(context.db),
            )
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[*cross_origin(settings.cors_origins), Middleware(RequestNames)],
        exception_handlers={ServiceError: on_service_error, HTTPException: on_http_error, Exception: on_bug},
    )


async def load_link_secret(context: Context, links: FileLinks) -> None:
    links.use(await SharedSecret(FILE_LINKS).get(context.db))
