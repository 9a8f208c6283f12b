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
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from service.api import (
    bulk,
    callbacks,
    condition,
    evidence,
    exporting,
    files,
    health,
    jobs,
    models,
    openapi,
    outputs,
    providers,
    registering,
    retention,
    sharing,
    stats,
)
from service.api.rendering import Renderer
from service.artifacts.links import FileLinks
from service.condition.processes import Stamper
from service.condition.refusals import Refusals
from service.condition.telling import tell
from service.context import Context, open_context
from service.dashboard import routes as dashboard
from service.dashboard.access import NotSignedIn, on_not_signed_in
from service.dashboard.attempts import Attempts
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
from service.sessions import Sessions
from service.settings import Settings
from service.webhooks import runs
from service.webhooks.receive import receive_fal, receive_gpu


class State(TypedDict):
    """What the lifespan opens and every request can reach."""

    context: Context
    keys: KeyRing
    sessions: Sessions
    attempts: Attempts
    refusals: Refusals
    figures: health.Figures
    renderer: Renderer
    links: FileLinks
    waiting: Waiting
    upload_tokens: UploadTokens


job_routes = [
    Route("/", jobs.show_job),
    Route("/result", jobs.show_result),
    Route("/masks", outputs.show_masks),
    Route("/masks/{index:int}", outputs.show_mask),
    Route("/masks/{index:int}/cutout", outputs.show_cutout),
    Route("/masks/{index:int}/overlay", outputs.show_overlay),
    Route("/masks/{index:int}/rle", outputs.show_rle),
    Route("/masks/{index:int}/polygons", outputs.show_polygons),
    Route("/overlay", outputs.show_all_masks),
    Route("/images", outputs.show_images),
    Route("/images/{index:int}", outputs.show_image),
    Route("/timings", jobs.show_timings),
    Route("/attempts", jobs.show_attempts),
    Route("/events", jobs.show_events),
    Route("/logs", jobs.show_logs),
    Route("/evidence", evidence.list_evidence),
    Route("/evidence/{report_id:int}", evidence.show_evidence),
    Route("/callback", callbacks.show_callback),
    Route("/callback/redeliver", callbacks.redeliver_callback, methods=["POST"]),
    Route("/stream", jobs.stream_job),
    Route("/cancel", jobs.cancel_job, methods=["POST"]),
    Route("/hold", retention.hold_job, methods=["PUT"]),
    Route("/hold", retention.release_job, methods=["DELETE"]),
    Route("/retry", registering.retry_job, methods=["POST"]),
]

routes = [
    # Looked for in this order: what is asked for oftenest comes first.
    *front.status_routes,
    Route("/webhooks/fal/{job_id}/{attempt}/{seal}/{model:path}", receive_fal, methods=["POST"]),
    Mount("/fal", routes=front.routes),
    Route("/v1/jobs", registering.register_job, methods=["POST"]),
    Route("/v1/jobs", jobs.list_jobs),
    Route("/v1/jobs/batch", registering.register_batch, methods=["POST"]),
    Route("/v1/jobs/export", exporting.export_jobs),
    Route("/v1/jobs/{request_id}", jobs.show_job),
    Route("/v1/jobs/{request_id}", retention.delete_job, methods=["DELETE"]),
    Mount("/v1/jobs/{request_id}", routes=job_routes),
    Route("/v1/bulk-actions", bulk.begin_action, methods=["POST"]),
    Route("/v1/bulk-actions", bulk.list_actions),
    Route("/v1/bulk-actions/preview", bulk.preview_action, methods=["POST"]),
    Route("/v1/bulk-actions/{bulk_id}", bulk.show_action),
    Route("/v1/bulk-actions/{bulk_id}/results", bulk.list_results),
    Route("/v1/bulk-actions/{bulk_id}/abort", bulk.abort_action, methods=["POST"]),
    Route("/v1/condition", condition.show_condition),
    Route("/v1/processes", condition.list_processes),
    Route("/v1/database", condition.show_database),
    Route("/v1/callbacks/redeliver", callbacks.redeliver_callbacks, methods=["POST"]),
    Route("/v1/models", models.list_models),
    Route("/v1/models/{model:path}", models.show_model),
    Route("/v1/stats", stats.show_stats),
    Route("/v1/prices", stats.list_prices),
    Route("/v1/providers", providers.list_providers),
    Route("/v1/files", files.upload_file, methods=["POST"]),
    Route("/v1/shares", sharing.share, methods=["POST"]),
    Route("/files/{token}/{name}", files.serve_file),
    Route("/shared/{token}/{what:path}", sharing.show_shared),
    Route("/webhooks/gpu/{job_id}/{attempt}/{seal}/{model:path}", receive_gpu, methods=["POST"]),
    Route("/webhooks/gpu-runs/{job_id}/{attempt:int}/{seal}/start", runs.start_run, methods=["POST"]),
    Route("/webhooks/gpu-runs/{job_id}/{attempt:int}/{seal}/beat", runs.hear_beat, methods=["POST"]),
    Route("/webhooks/gpu-runs/{job_id}/{attempt:int}/{seal}/files/{name}", runs.keep_file, methods=["POST"]),
    Route("/webhooks/gpu-workers", runs.hear_worker, methods=["POST"]),
    Route("/.well-known/jwks.json", callbacks.show_keys),
    Route("/.well-known/jwks-rfc.json", callbacks.show_strict_keys),
    *dashboard.routes,
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
    error_type = "method_not_allowed" if error.status_code == 405 else "bad_request"
    body = {"detail": error.detail, "error_type": error_type, "message": error.detail}
    response = answer(body, error.status_code)
    response.headers.update({**(error.headers or {}), "x-fal-error-type": error_type})
    return response


async def on_disconnect(request: Request, error: Exception) -> Response:
    """The client left before it had sent its whole request, so nobody reads this."""
    return Response(status_code=499)


async def on_bug(request: Request, error: Exception) -> Response:
    """The server logs the error itself; the client learns nothing of it."""
    return answer(ServiceError().body(), 500, request_id=uuid4())


def create_app(settings: Settings) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[State]:
        async with open_context(settings) as context:
            waiting, links = Waiting(context.db), FileLinks(settings.public_url)
            refusals = Refusals()
            beside = [
                asyncio.create_task(tell(context.db, Stamper(context.db, "api", context.progress), refusals)),
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
                sessions=Sessions(context.db, settings.session_idle_seconds, settings.session_seconds),
                attempts=Attempts(),
                refusals=refusals,
                figures=health.Figures(),
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
        exception_handlers={
            NotSignedIn: on_not_signed_in,
            ServiceError: on_service_error,
            HTTPException: on_http_error,
            ClientDisconnect: on_disconnect,
            Exception: on_bug,
        },
    )


async def load_link_secret(context: Context, links: FileLinks) -> None:
    links.use(await SharedSecret(FILE_LINKS).get(context.db))
