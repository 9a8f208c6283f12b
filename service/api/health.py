"""Is it alive, is it ready, and how much is going on."""

import asyncio
from datetime import UTC, datetime

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from service import __version__
from service.callbacks.lifecycle import CallbackState
from service.context import Context
from service.errors import Unavailable
from service.jobs import runs
from service.jobs.cursors import moment_of
from service.jobs.pauses import pauses
from service.migrate import head
from service.requests import answer


async def show_health(request: Request) -> Response:
    """The process answers; it says nothing of the parts that it needs."""
    return answer({"status": "ok", "version": __version__})


async def show_readiness(request: Request) -> Response:
    """503 while the database is away or its schema is not this version's."""
    context: Context = request.state.context
    row = await context.db.fetchrow("SELECT to_regclass('alembic_version') IS NOT NULL AS migrated")
    found = None
    if row is not None and row["migrated"]:
        version = await context.db.fetchrow("SELECT version_num FROM alembic_version")
        found = version["version_num"] if version else None
    if found != head():
        raise Unavailable(f"The schema is at {found}, this version needs {head()}: run `roundtrip migrate`.")
    return answer({"status": "ready", "schema": found})


class Figures:
    """Whoever asks while they are being read shares the answer: anybody may ask, and however many do, it costs one."""

    def __init__(self) -> None:
        self._reading: asyncio.Task[bytes] | None = None

    async def read(self, context: Context) -> bytes:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(_read(context))
        return await asyncio.shield(self._reading)


async def show_metrics(request: Request) -> Response:
    """Prometheus figures of the work in hand, read from the record."""
    figures: Figures = request.state.figures
    return Response(await figures.read(request.state.context), media_type=CONTENT_TYPE_LATEST)


async def _read(context: Context) -> bytes:
    registry = CollectorRegistry()
    live = Gauge("roundtrip_live_jobs", "Jobs that have not ended.", ["status"], registry=registry)
    oldest = Gauge("roundtrip_oldest_live_job_seconds", "Age of the oldest of them.", registry=registry)
    copies = Gauge("roundtrip_owed_copies", "Files whose copy is not stored yet.", registry=registry)
    callbacks = Gauge("roundtrip_pending_callbacks", "Callbacks that did not arrive yet.", registry=registry)
    held = Gauge("roundtrip_held_receivers", "Receivers to which nothing is sent for now.", registry=registry)
    paused = Gauge("roundtrip_provider_paused", "1 while it gets no jobs.", ["provider"], registry=registry)
    workers = Gauge("roundtrip_gpu_workers", "GPU workers that were heard of lately.", ["model"], registry=registry)
    for row in await runs.workers(context.db):
        workers.labels(row["model"]).set(row["workers"])
    for provider in context.providers:
        paused.labels(provider.name).set(0)
    for row in await pauses(context.db):
        paused.labels(row["provider"]).set(1)
    for row in await context.db.fetch("SELECT status, count(*) AS jobs FROM live_jobs GROUP BY status"):
        live.labels(row["status"]).set(row["jobs"])
    owed = await context.db.fetchrow(
        "SELECT (SELECT job_id FROM live_jobs ORDER BY job_id LIMIT 1) AS oldest,"
        " (SELECT count(*) FROM copies) AS copies,"
        f" (SELECT count(*) FROM callbacks WHERE state = '{CallbackState.PENDING}') AS callbacks,"
        " (SELECT count(*) FROM receivers WHERE open_until > now()) AS held"
    )
    assert owed is not None
    if owed["oldest"] is not None:
        oldest.set(max(0.0, (datetime.now(UTC) - moment_of(owed["oldest"])).total_seconds()))
    copies.set(owed["copies"])
    callbacks.set(owed["callbacks"])
    held.set(owed["held"])
    return generate_latest(registry)
