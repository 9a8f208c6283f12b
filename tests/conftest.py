"""Real parts for every test: PostgreSQL, a broker, the API on a socket, a provider that is told what to say.

What a test writes is committed, as in production, and deleted when it ends.
"""

import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from service.app import create_app
from service.context import Context, open_context
from service.db import Database
from service.keys import SCOPES, digest
from service.migrate import upgrade
from service.network import open_http
from service.providers.signatures import KeySet
from service.queue import Nudger, TaskName
from service.settings import Settings
from tests.making import make_tenant
from tests.provider import Provider, running_provider
from tests.servers import Addresses, delete_all_rows, running_servers
from tests.serving import address_of, listening_socket, serving
from tests.webhooks.posting import Poster

hypothesis_settings.register_profile(
    "roundtrip", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
hypothesis_settings.load_profile("roundtrip")

MakeClient = Callable[..., Awaitable[httpx.AsyncClient]]


@pytest.fixture(scope="session")
def addresses() -> Iterator[Addresses]:
    with running_servers() as addresses:
        upgrade(addresses.database)
        yield addresses


@pytest.fixture(scope="session")
def api_socket() -> Iterator[socket.socket]:
    with listening_socket() as listener:
        yield listener


@pytest.fixture(scope="session")
async def running() -> AsyncIterator[Provider]:
    async with running_provider() as provider:
        yield provider


@pytest.fixture
def provider(running: Provider) -> Provider:
    running.reset()
    return running


@pytest.fixture(scope="session")
def settings(
    addresses: Addresses, api_socket: socket.socket, running: Provider, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    return Settings(
        database_url=addresses.database,
        broker_url=addresses.broker,
        public_url=address_of(api_socket),
        fal_queue_url=running.url,
        fal_jwks_url=f"{running.url}/.well-known/jwks.json",
        fal_key="our-id:our-secret",
        artifacts_url=tmp_path_factory.mktemp("artifacts").as_uri(),
        submit_timeout_seconds=10,
    )


@pytest.fixture(scope="session")
async def opened(settings: Settings) -> AsyncIterator[Context]:
    async with open_context(settings) as context:
        yield context


@pytest.fixture
async def db(opened: Context) -> AsyncIterator[Database]:
    yield opened.db
    await delete_all_rows(opened.db.pool)


@pytest.fixture
def nudges() -> list[TaskName]:
    """What was published; `context.nudger.close()` waits until all of it is in."""
    return []


@pytest.fixture(scope="session")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client as the service opens it for its provider."""
    async with open_http(guard=None) as http:
        yield http


@pytest.fixture
def context(
    opened: Context, db: Database, provider: Provider, http: httpx.AsyncClient, nudges: list[TaskName]
) -> Iterator[Context]:
    """As a worker has it; the keys of webhooks are not fetched yet."""
    nudger = Nudger(publish=nudges.append)
    yield replace(opened, nudger=nudger, fal_keys=KeySet(http, opened.settings.fal_jwks_url))
    nudger.close()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of made-up inputs cannot be had, which is tried three times."""
    monkeypatch.setattr("service.artifacts.keeping.PAUSE_SECONDS", 0.0)


@pytest.fixture
async def tenant(db: Database) -> UUID:
    return await make_tenant(db, "ours")


@pytest.fixture(scope="session")
async def api(settings: Settings, api_socket: socket.socket) -> AsyncIterator[str]:
    async with serving(create_app(settings), api_socket) as url:
        yield url


@pytest.fixture
async def make_client(api: str, db: Database, provider: Provider) -> AsyncIterator[MakeClient]:
    async with AsyncExitStack() as stack:

        async def make(tenant: str = "ours", scopes: tuple[str, ...] = SCOPES) -> httpx.AsyncClient:
            key_id, secret = f"key_{secrets.token_hex(4)}", secrets.token_hex(16)
            await db.execute(
                "INSERT INTO api_keys (id, tenant_id, secret_sha256, scopes) VALUES ($1, $2, $3, $4)",
                key_id,
                await make_tenant(db, tenant),
                digest(secret),
                list(scopes),
            )
            headers = {"authorization": f"Key {key_id}:{secret}"}
            client = httpx.AsyncClient(base_url=api, headers=headers, trust_env=False, timeout=30)
            return await stack.enter_async_context(client)

        yield make


@pytest.fixture
async def client(make_client: MakeClient) -> httpx.AsyncClient:
    return await make_client()


@pytest.fixture
async def stranger(make_client: MakeClient) -> httpx.AsyncClient:
    """Another tenant's client, who may do everything there."""
    return await make_client("theirs")


@pytest.fixture
async def nobody(api: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with httpx.AsyncClient(base_url=api, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="wire-") as name:
        yield Path(name)


@pytest.fixture
async def poster(api: str, opened: Context, provider: Provider) -> AsyncIterator[Poster]:
    """Posts webhooks to the API as the provider does."""
    async with httpx.AsyncClient(base_url=api, trust_env=False, timeout=30) as http:
        yield Poster(http, provider, await opened.sealer())
