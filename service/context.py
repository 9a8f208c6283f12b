"""Everything a process needs, opened the same way by the API's lifespan and by a Celery worker."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import structlog

from service.artifacts.storage import Storage
from service.callbacks.keys import SigningKeys
from service.catalog import Catalog
from service.condition.progress import Progress
from service.db import Database, DatabaseAway, open_database
from service.gpu.keys import WorkerKeys
from service.gpu.pool import GpuPool
from service.gpu.queues import open_publisher
from service.jobs.routing import Routes
from service.network import AddressGuard, authority, open_http
from service.providers.address import Sealer
from service.providers.base import Provider
from service.providers.fal import FalQueue
from service.providers.signatures import KeySet
from service.queue import Nudger, open_nudger
from service.secrets import CALLBACK_SECRETS, FILE_LINKS, SharedSecret
from service.settings import Settings

log = structlog.get_logger()

# Shorter than the five seconds after which common servers close an idle connection: what is written into a closing
# connection is lost without an answer.
KEEPALIVE_SECONDS = 4.0


@dataclass(frozen=True)
class Context:
    settings: Settings
    db: Database
    catalog: Catalog
    nudger: Nudger
    storage: Storage
    fal: FalQueue
    fal_keys: KeySet
    gpu: GpuPool
    gpu_keys: WorkerKeys
    routes: Routes
    downloads: httpx.AsyncClient
    callbacks: httpx.AsyncClient
    webhook_secret: SharedSecret
    callback_secret: SharedSecret
    callback_keys: SigningKeys
    file_secret: SharedSecret
    progress: Progress = field(default_factory=Progress)

    @property
    def providers(self) -> tuple[Provider, ...]:
        return self.fal, self.gpu

    def provider(self, name: str) -> Provider:
        """fal, for what was written by nobody that is known."""
        return next((each for each in self.providers if each.name == name), self.fal)

    async def sealer(self) -> Sealer:
        return Sealer(await self.webhook_secret.get(self.db))


@asynccontextmanager
async def open_context(settings: Settings, *, connections: int = 12) -> AsyncGenerator[Context]:
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(open_database(settings.require_database_url(), max_size=connections))
        http = await stack.enter_async_context(open_http(guard=None, keepalive_seconds=KEEPALIVE_SECONDS))
        downloads = await stack.enter_async_context(open_http(guard=download_guard(settings)))
        # Nobody is trusted here: what the operator runs on this machine is not for clients to call.
        callbacks = open_http(guard=AddressGuard(settings.allow_private_networks), keepalive_seconds=KEEPALIVE_SECONDS)
        await stack.enter_async_context(callbacks)
        nudger = open_nudger(settings)
        stack.callback(nudger.close)
        key = settings.fal_key.get_secret_value() if settings.fal_key else ""
        if not key:
            log.warning("FAL_KEY is not set; a provider that asks for one will refuse every job")
        await warn_if_not_durable(db)
        webhook_secret = SharedSecret("webhook-seal")

        async def sealer() -> Sealer:
            return Sealer(await webhook_secret.get(db))

        yield Context(
            settings=settings,
            db=db,
            catalog=Catalog(settings.models),
            nudger=nudger,
            storage=Storage.open(settings.artifacts_location),
            fal=FalQueue(http, settings.fal_queue_url, key, settings.submit_timeout_seconds),
            fal_keys=KeySet(http, settings.fal_jwks_url),
            gpu=GpuPool(db, open_publisher(settings), sealer),
            gpu_keys=WorkerKeys(db),
            routes=Routes(),
            downloads=downloads,
            callbacks=callbacks,
            webhook_secret=webhook_secret,
            callback_secret=SharedSecret(CALLBACK_SECRETS),
            callback_keys=SigningKeys(),
            file_secret=SharedSecret(FILE_LINKS),
        )


async def warn_if_not_durable(db: Database) -> None:
    """What was answered with 202 may be lost in a crash of a server that is set so."""
    try:
        rows = await db.fetch(
            "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'"
        )
    except DatabaseAway:
        return  # It is looked at again at the next start.
    for row in rows:
        log.warning("PostgreSQL is not set to survive a crash", setting=row["name"], value="off")


def download_guard(settings: Settings) -> AddressGuard:
    """Outputs name addresses; only public ones are fetched, and what the operator named himself.

    A provider's files may be on another port of its host, ours are where we are.
    """
    hosts = {host for url in (settings.fal_queue_url, settings.fal_jwks_url) if (host := urlsplit(url).hostname)}
    trusted = frozenset({*hosts, authority(settings.public_url)})
    return AddressGuard(allow_private=settings.allow_private_networks, trusted_hosts=trusted)
