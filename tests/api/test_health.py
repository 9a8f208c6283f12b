"""Alive, ready, and how much is going on; and the same questions while the database is away."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from service import __version__
from service.app import create_app
from service.context import Context
from service.db import one_connection
from service.migrate import head
from service.settings import Settings
from tests import making
from tests.api.asking import JOB, in_every_status, is_problem, register
from tests.dashboard.looking import key_of, signed_in
from tests.servers import Wire
from tests.serving import serving


async def test_a_process_that_lives_says_so(nobody: httpx.AsyncClient) -> None:
    assert (await nobody.get("/healthz")).json() == {"status": "ok", "version": __version__}


async def test_a_service_that_is_ready_names_its_schema(nobody: httpx.AsyncClient) -> None:
    assert (await nobody.get("/readyz")).json() == {"status": "ready", "schema": head()}


async def test_a_service_on_another_schema_is_not_ready(nobody: httpx.AsyncClient, context: Context) -> None:
    await context.db.execute("UPDATE alembic_version SET version_num = '0000'")
    try:
        response = await nobody.get("/readyz")
    finally:
        await context.db.execute("UPDATE alembic_version SET version_num = $1", head())
    assert is_problem(response, 503)
    assert "roundtrip migrate" in response.json()["message"]


async def test_the_figures_count_the_work_in_hand(nobody: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    await in_every_status(context, tenant)
    lines = (await nobody.get("/metrics")).text.splitlines()
    for status in ("queued", "submitted", "in_progress"):
        assert f'roundtrip_live_jobs{{status="{status}"}} 1.0' in lines
    assert "roundtrip_owed_copies 1.0" in lines


async def test_the_figures_of_an_empty_service_are_zero(nobody: httpx.AsyncClient, context: Context) -> None:
    text = (await nobody.get("/metrics")).text
    assert "roundtrip_oldest_live_job_seconds 0.0" in text


async def test_those_who_ask_for_the_figures_take_no_connection_from_others(
    nobody: httpx.AsyncClient, client: httpx.AsyncClient, settings: Settings, context: Context, tenant: UUID
) -> None:
    """Anybody may ask, without a key."""
    async with one_connection(settings.require_database_url()) as other:
        async with other.transaction():
            await other.execute("LOCK TABLE receivers IN ACCESS EXCLUSIVE MODE")
            asking = [asyncio.create_task(nobody.get("/metrics")) for _ in range(30)]
            await making.until(lambda: waits_for(context, "receivers"))
            await register(client)
            assert not any(each.done() for each in asking)
        answers = await asyncio.gather(*asking)
    assert {answer.status_code for answer in answers} == {200}


async def waits_for(context: Context, table: str) -> bool:
    waiting = f"pg_locks WHERE relation = '{table}'::regclass AND NOT granted"
    return await making.count(context.db, waiting) > 0


@dataclass
class Away:
    """A service whose database can be taken from it."""

    client: httpx.AsyncClient
    wire: Wire


@pytest.fixture
async def away(settings: Settings, client: httpx.AsyncClient, folder: Path) -> AsyncIterator[Away]:
    wire = Wire(settings.require_database_url(), folder)
    await wire.mend()
    async with serving(create_app(settings.model_copy(update={"database_url": wire.database_url}))) as url:
        async with httpx.AsyncClient(base_url=url, headers=client.headers, timeout=30) as http:
            yield Away(http, wire)
        await wire.cut()


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/none", "/readyz", "/metrics"])
async def test_while_the_database_is_away_a_question_is_told_to_come_again(away: Away, path: str) -> None:
    await away.wire.cut()
    response = await away.client.get(path)
    assert is_problem(response, 503)
    assert response.headers["retry-after"]
    await away.wire.mend()
    assert (await away.client.get(path)).status_code in {200, 404}


async def test_no_job_is_promised_while_the_database_is_away(away: Away, context: Context) -> None:
    await away.wire.cut()
    assert is_problem(await away.client.post("/v1/jobs", json=JOB), 503)
    assert await making.count(context.db, "jobs") == 0
    await away.wire.mend()
    assert (await away.client.post("/v1/jobs", json=JOB)).status_code == 202


async def test_the_process_lives_and_the_page_shows_what_it_can(away: Away) -> None:
    async with signed_in(str(away.client.base_url), key_of(away.client)) as person:
        assert (await person.get("/dashboard")).status_code == 200
        await away.wire.cut()
        assert (await away.client.get("/healthz")).status_code == 200
        page = await person.get("/dashboard")
        assert page.status_code == 200
        assert "The database is away" in page.text
        assert "Nothing is wrong" not in page.text
        await away.wire.mend()
        assert "The database is away" not in (await person.get("/dashboard")).text


async def test_a_service_starts_while_its_database_is_away(
    settings: Settings, client: httpx.AsyncClient, folder: Path
) -> None:
    wire = Wire(settings.require_database_url(), folder)
    async with serving(create_app(settings.model_copy(update={"database_url": wire.database_url}))) as url:
        async with httpx.AsyncClient(base_url=url, headers=client.headers, timeout=30) as http:
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.get("/readyz")).status_code == 503
            await wire.mend()
            assert (await http.get("/v1/jobs")).status_code == 200
        await wire.cut()
