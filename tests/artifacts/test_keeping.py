"""The pictures of inputs that lie elsewhere, kept by the worker that copies the first mask."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from service.artifacts import keeping
from service.artifacts.copying import copy_due
from service.artifacts.links import FileLinks
from service.artifacts.storage import Storage
from service.catalog.base import Lifted, LiftedFile
from service.context import Context
from service.errors import Unavailable
from service.jobs import endings
from service.network import AddressGuard, open_http
from tests import making
from tests.artifacts.canned import Canned, answer, answering
from tests.artifacts.s3 import bucket_away
from tests.provider import Call, Provider, Reply
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


async def test_a_bucket_that_is_away_is_no_fault_of_the_picture(on_site: Context, tenant: UUID, tmp_path: Path) -> None:
    async with answering(answer(PICTURE)) as elsewhere:
        asked = {"image_url": f"{elsewhere.url}/picture.png"}
        job_id = await ended(on_site, tenant, asked, elsewhere)
        links, text = FileLinks(on_site.settings.public_url, b"secret"), json.dumps(asked)
        with pytest.raises(Unavailable, match="cannot be stored"):
            await keeping.picture_of(replace(on_site, storage=Storage(bucket_away(), tmp_path)), links, job_id, text)
        assert await kept(on_site) == []
        await keeping.picture_of(on_site, links, job_id, text)
    assert await kept(on_site) == [job_id]


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


@dataclass
class Gate:
    """A host that answers nobody before it is opened."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    inside: int = 0
    most: int = 0

    async def let_in(self, _: Call) -> Reply:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await self.opened.wait()
        self.inside -= 1
        return Reply(200, PICTURE, {"content-type": "image/png"})


async def asking(on_site: Context, job_id: UUID, url: str) -> str:
    return await keeping.picture_of(on_site, FileLinks("http://ours"), job_id, json.dumps({"image_url": url}))


async def asking_a_slow_host(
    on_site: Context, tenant: UUID, provider: Provider, number: int
) -> tuple[Gate, list[asyncio.Task[str]]]:
    """So many at once, each for the picture of a job of its own."""
    gate = Gate()
    provider.result = gate.let_in
    jobs = [(await making.ended(on_site.db, tenant)).job_id for _ in range(number)]
    return gate, [asyncio.create_task(asking(on_site, job_id, f"{provider.url}/files/a")) for job_id in jobs]


async def test_all_who_ask_for_a_picture_at_once_share_its_fetch(
    on_site: Context, tenant: UUID, provider: Provider
) -> None:
    gate = Gate()
    provider.result = gate.let_in
    claim = await making.ended(on_site.db, tenant)
    all_of_them = [asyncio.create_task(asking(on_site, claim.job_id, provider.url + "/files/a")) for _ in range(60)]

    async def one_is_inside() -> bool:
        return gate.inside == 1

    await making.until(one_is_inside)
    all_of_them[0].cancel()  # Who asked first does not wait for it any more.
    gate.opened.set()
    found = await asyncio.gather(*all_of_them, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert set(found[1:]) == {hashlib.sha256(PICTURE).hexdigest()}
    assert len(provider.calls) == 1
    assert await kept(on_site) == [claim.job_id]


async def test_pictures_are_fetched_a_few_at_a_time_and_not_too_many_wait(
    on_site: Context, tenant: UUID, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "MOST_FETCHES", 20)
    gate, all_of_them = await asking_a_slow_host(on_site, tenant, provider, 25)

    async def those_who_found_no_place_know() -> bool:
        return gate.inside >= keeping.SLOTS and sum(each.done() for each in all_of_them) == 5

    await making.until(those_who_found_no_place_know)
    gate.opened.set()
    found = await asyncio.gather(*all_of_them, return_exceptions=True)
    assert sum(isinstance(each, Unavailable) for each in found) == 5
    assert gate.most == keeping.SLOTS
    assert len(provider.calls) == len(await kept(on_site)) == 20


async def test_nobody_waits_for_long_behind_hosts_that_are_slow(
    on_site: Context, tenant: UUID, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "WAIT_SECONDS", 0.1)
    late = (await making.ended(on_site.db, tenant)).job_id
    gate, slow = await asking_a_slow_host(on_site, tenant, provider, keeping.SLOTS)

    async def all_are_inside() -> bool:
        return gate.inside == keeping.SLOTS

    await making.until(all_are_inside)
    with pytest.raises(keeping.TooManyFetches):
        await asking(on_site, late, f"{provider.url}/files/a")
    gate.opened.set()
    await asyncio.gather(*slow)
    await asking(on_site, late, f"{provider.url}/files/a")


async def test_nothing_is_kept_of_an_input_that_was_removed_meanwhile(on_site: Context, tenant: UUID) -> None:
    async with answering(answer(PICTURE)) as elsewhere:
        job_id = await ended(on_site, tenant, {"image_url": f"{elsewhere.url}/picture.png"}, elsewhere)
        text = json.dumps({"image_url": f"{elsewhere.url}/picture.png"})
        await on_site.db.execute("DELETE FROM inputs WHERE job_id = $1", job_id)
        keeper = keeping.Keeper(on_site)
        keeper.look(job_id, text)
        await keeper.pump.drain()
    assert await making.count(on_site.db, "input_files") == 0
