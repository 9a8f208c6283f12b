"""The pictures of inputs that lie elsewhere, kept by the worker that copies the first mask."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID

import httpx
import pytest

from service.artifacts import keeping
from service.artifacts.copying import copy_due
from service.catalog.base import Lifted, LiftedFile
from service.context import Context
from service.jobs import endings
from service.network import AddressGuard, open_http
from tests import making
from tests.artifacts.canned import Canned, answer, answering
from tests.stand_in.pictures import photograph

PICTURE = photograph(40, 30)


@pytest.fixture
async def on_site(context: Context, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Context]:
    """A worker that may reach private addresses, for masks and for pictures."""
    monkeypatch.setattr(keeping, "PAUSE_SECONDS", 0.0)
    async with open_http(guard=AddressGuard(allow_private=True), read_seconds=5) as http:
        yield replace(context, downloads=http, callbacks=http)


async def ended(context: Context, tenant: UUID, asked: object, elsewhere: Canned, *, kind: str = "mask") -> UUID:
    claim = await making.submitted(context.db, tenant, input=json.dumps(asked))
    files = tuple(LiftedFile(kind, index, f"{elsewhere.url}/{index}.png") for index in (0, 1))  # type: ignore[arg-type]
    ending = making.completed()
    await endings.settle(context.db, claim.job_id, 1, ending, making.heard(), "webhook", Lifted(files=files))
    return claim.job_id


async def kept(context: Context) -> list[UUID]:
    rows = await context.db.fetch("SELECT job_id FROM input_files JOIN blobs USING (sha256) WHERE width = 40")
    return [row["job_id"] for row in rows]


async def asked_for(elsewhere: Canned) -> list[str]:
    return sorted(request.split()[1] for request in elsewhere.requests)


async def test_it_is_fetched_once_when_the_masks_are_copied(on_site: Context, tenant: UUID) -> None:
    async with answering(answer(PICTURE)) as elsewhere:
        job_id = await ended(on_site, tenant, {"image_url": f"{elsewhere.url}/picture.png"}, elsewhere)
        await copy_due(on_site)
        assert await asked_for(elsewhere) == ["/0.png", "/1.png", "/picture.png"]
    assert await kept(on_site) == [job_id]


async def test_of_several_the_first_is_meant(on_site: Context, tenant: UUID) -> None:
    async with answering(answer(PICTURE)) as elsewhere:
        names = [f"{elsewhere.url}/{name}" for name in ("first", "second")]
        await ended(on_site, tenant, {"image_urls": names}, elsewhere)
        await copy_due(on_site)
        assert "/first" in await asked_for(elsewhere)
        assert "/second" not in await asked_for(elsewhere)


@pytest.mark.parametrize("kind", ["image"])
async def test_no_picture_is_fetched_for_a_job_without_masks(on_site: Context, tenant: UUID, kind: str) -> None:
    async with answering(answer(PICTURE)) as elsewhere:
        await ended(on_site, tenant, {"image_url": f"{elsewhere.url}/picture.png"}, elsewhere, kind=kind)
        await copy_due(on_site)
        assert await asked_for(elsewhere) == ["/0.png", "/1.png"]


@pytest.mark.parametrize(
    "asked", [{}, {"image_url": ""}, {"image_url": 7}, {"image_urls": []}, {"image_url": "ftp://a/"}]
)
async def test_an_input_without_a_picture_costs_nothing(on_site: Context, tenant: UUID, asked: object) -> None:
    async with answering(answer(PICTURE)) as elsewhere:
        await ended(on_site, tenant, asked, elsewhere)
        await copy_due(on_site)
    assert await kept(on_site) == []


async def test_a_host_that_hesitates_is_asked_again_and_one_that_refuses_is_not(on_site: Context, tenant: UUID) -> None:
    for status, times in (("503 Busy", keeping.TRIES), ("404 Not Found", 1)):
        async with answering(answer(PICTURE)) as masks, answering(answer(status=status)) as elsewhere:
            await ended(on_site, tenant, {"image_url": f"{elsewhere.url}/picture.png"}, masks)
            await copy_due(on_site)
            assert len(elsewhere.requests) == times
    assert await kept(on_site) == []
    rows = await on_site.db.fetch("SELECT sha256 FROM artifacts")
    assert all(row["sha256"] for row in rows), "the masks have their copies all the same"


async def test_what_is_no_picture_is_not_kept(on_site: Context, tenant: UUID) -> None:
    async with answering(answer(b"<html>not today</html>")) as elsewhere:
        await ended(on_site, tenant, {"image_url": f"{elsewhere.url}/picture.png"}, elsewhere)
        await copy_due(on_site)
    assert await making.count(on_site.db, "input_files") == 0


async def test_a_place_in_the_house_is_never_asked(
    context: Context, tenant: UUID, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks may come from the provider's own host; what a client names there is refused."""
    monkeypatch.setattr(keeping, "PAUSE_SECONDS", 0.0)
    async with answering(answer(PICTURE)) as elsewhere:
        await ended(context, tenant, {"image_url": f"{elsewhere.url}/picture.png"}, elsewhere)
        await copy_due(replace(context, downloads=http))
        assert await asked_for(elsewhere) == ["/0.png", "/1.png"]
    assert await kept(context) == []


async def test_nothing_is_kept_of_an_input_that_was_removed_meanwhile(on_site: Context, tenant: UUID) -> None:
    async with answering(answer(PICTURE)) as elsewhere:
        job_id = await ended(on_site, tenant, {"image_url": f"{elsewhere.url}/picture.png"}, elsewhere)
        text = json.dumps({"image_url": f"{elsewhere.url}/picture.png"})
        await on_site.db.execute("DELETE FROM inputs WHERE job_id = $1", job_id)
        keeper = keeping.Keeper(on_site)
        keeper.look(job_id, text)
        await keeper.pump.drain()
    assert await making.count(on_site.db, "input_files") == 0
