"""What the service itself is made of, and how that is. Machines and tables are for administrators."""

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from service import __version__
from service.condition import database, processes
from service.context import Context
from service.dashboard.pages import Page, Part
from service.dashboard.refreshing import answered
from service.dashboard.scope import scope_of
from service.errors import Forbidden
from service.jobs.pauses import pauses
from service.migrate import head
from service.settings import Settings

BROKERS = {"redis": "Redis or Valkey", "amqp": "RabbitMQ", "pgmq": "PostgreSQL, by pgmq"}


async def show_system(request: Request) -> Response:
    scope = await scope_of(request)
    if not scope.viewer.is_admin:
        raise Forbidden("This page is for administrators.")
    context: Context = request.state.context
    parts = [
        Part("versions", "system/versions.html", partial(_versions, context)),
        Part("processes", "system/processes.html", partial(processes.shown, context.db)),
        Part("tables", "system/tables.html", partial(database.tables, context.db)),
    ]
    return await answered(request, Page("system.html", "System", "system", scope, parts))


async def _versions(context: Context) -> Mapping[str, Any]:
    settings = context.settings
    state, paused = await asyncio.gather(database.server(context.db), pauses(context.db))
    broker = settings.require_broker_url().partition(":")[0]
    return {
        "version": __version__,
        "server": state,
        "schema_wanted": head(),
        "database_is_embedded": is_embedded(settings, settings.require_database_url()),
        "broker": next((words for name, words in BROKERS.items() if broker.startswith(name)), broker),
        "broker_is_embedded": is_embedded(settings, settings.require_broker_url()),
        "broker_is_away": context.nudger.is_away,
        "provider": context.fal.name,
        "provider_url": settings.fal_queue_url,
        "is_sandbox": _is_local(settings.fal_queue_url),
        "paused": {row["provider"]: row for row in paused},
        "public_url": settings.public_url,
        "artifacts": _without_credentials(settings.artifacts_location),
    }


def is_embedded(settings: Settings, url: str) -> bool:
    """Whether a server was started by `up` in this data directory: then its socket is there."""
    place = unquote(url)
    folders = {settings.data.absolute(), Path(settings.data / "servers").resolve()}
    return any(f"{folder}/" in place for folder in folders)


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
