"""Addresses that work without a key, for as long as they say and no longer."""

import time
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest

from service.context import Context
from tests import making
from tests.api.asking import is_problem, picture, places
from tests.api.test_outputs import AS_DATA, BOXES, MADE, mask, segmented

PARTS = ("result", "overlay", "masks/0", *(f"masks/0/{made}" for made in MADE))


@pytest.fixture
async def job_id(context: Context, tenant: UUID) -> UUID:
    return await segmented(context, tenant, AS_DATA, *map(mask, BOXES))


async def share(client: httpx.AsyncClient, url: str, **more: Any) -> httpx.Response:
    return await client.post("/v1/shares", json={"url": url, **more})


async def shared(client: httpx.AsyncClient, url: str, **more: Any) -> str:
    response = await share(client, url, **more)
    assert response.status_code == 201, response.text
    return str(response.json()["url"])


@pytest.mark.parametrize("part", PARTS)
async def test_who_has_the_address_reads_what_it_names(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient, job_id: UUID, part: str
) -> None:
    address = f"{client.base_url}/v1/jobs/{job_id}/{part}"
    with_key, without = await client.get(address), await nobody.get(await shared(client, address))
    assert (without.status_code, without.content) == (200, with_key.content)
    assert without.headers["content-type"] == with_key.headers["content-type"]
    assert without.headers["referrer-policy"] == "no-referrer"
    assert without.headers["x-content-type-options"] == "nosniff"
    assert is_problem(await nobody.get(address), 401)


async def test_a_stored_file_is_shared_without_its_lasting_address(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    url = (await client.post("/v1/files", content=picture(9), params={"name": "naïve 1?.png"})).json()["url"]
    address = await shared(client, url)
    response = await nobody.get(address)
    assert (response.status_code, response.content) == (200, picture(9))
    assert urlsplit(url).path.split("/")[2].split("-")[1] not in address
    assert (await nobody.get(address, headers={"range": "bytes=0-3"})).content == picture(9)[:4]


async def test_it_lasts_an_hour_unless_another_time_is_named(client: httpx.AsyncClient, job_id: UUID) -> None:
    for asked, seconds in (({}, 3_600), ({"expires_in": 60}, 60), ({"expires_in": 604_800}, 604_800)):
        said = (await share(client, f"/v1/jobs/{job_id}/result", **asked)).json()["expires_at"]
        assert 0 <= time.time() + seconds - datetime.fromisoformat(said).timestamp() < 30


async def test_a_browser_keeps_it_no_longer_than_it_lasts(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient, job_id: UUID
) -> None:
    response = await nobody.get(await shared(client, f"/v1/jobs/{job_id}/overlay", expires_in=50))
    kind, seconds = response.headers["cache-control"].split("=")
    assert (kind, 0 < int(seconds) <= 50) == ("private, max-age", True)


async def test_when_its_time_is_over_it_is_gone(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient, job_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = await shared(client, f"/v1/jobs/{job_id}/masks/0", expires_in=10)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 11)
    assert is_problem(await nobody.get(address), 410)


async def test_no_address_can_be_made_from_another(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient, context: Context, tenant: UUID, job_id: UUID
) -> None:
    other = await segmented(context, tenant, AS_DATA, mask(BOXES[1]))
    address = await shared(client, f"/v1/jobs/{job_id}/masks/0/cutout")
    seal = address.split("/shared/")[1].split("/")[0]
    expires, digest = seal.split("-")
    for forged in (
        address.replace("cutout", "overlay"),
        address.replace("masks/0", "masks/1"),
        address.replace(str(job_id), str(other)),
        address.replace(expires, str(int(expires) + 1)),
        address.replace(expires, "9" * 15),
        address.replace(expires, "9" * 16),
        address.replace(digest, digest[:-1] + ("0" if digest[-1] != "0" else "1")),
        address.replace(digest, digest.upper()) if digest.upper() != digest else address + "x",
        address + "/",
        address.replace(seal, "x"),
    ):
        assert is_problem(await nobody.get(forged), 403), forged


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://elsewhere.example/v1/jobs/{job}/result",
        "/v1/jobs/{job}",
        "/v1/jobs/{job}/events",
        "/v1/jobs/{job}/masks",
        "/v1/jobs/{job}/masks/x",
        "/v1/jobs/{job}/masks/0/delete",
        "/v1/jobs/{job}/../result",
        "/v1/providers",
        "/files/none/x.png",
    ],
)
async def test_only_what_can_be_read_is_shared(client: httpx.AsyncClient, job_id: UUID, url: str) -> None:
    assert places(await share(client, url.format(job=job_id))) == [["body", "url"]]


@pytest.mark.parametrize("seconds", [0, -1, 604_801, "60", 1.5, None])
async def test_a_time_has_its_bounds(client: httpx.AsyncClient, job_id: UUID, seconds: Any) -> None:
    assert places(await share(client, f"/v1/jobs/{job_id}/result", expires_in=seconds)) == [["body", "expires_in"]]


async def test_another_tenants_job_is_nobodys_to_share(
    stranger: httpx.AsyncClient, nobody: httpx.AsyncClient, job_id: UUID
) -> None:
    assert is_problem(await share(stranger, f"/v1/jobs/{job_id}/result"), 404)
    assert is_problem(await share(nobody, f"/v1/jobs/{job_id}/result"), 401)


async def test_a_shared_result_says_when_there_is_none_yet(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    job_id = (await making.submitted(context.db, tenant, "theirs-1")).job_id
    addresses = [await shared(client, f"/v1/jobs/{name}/result") for name in (job_id, "theirs-1")]
    assert [urlsplit(address).path.split("/")[4] for address in addresses] == [str(job_id)] * 2
    assert is_problem(await nobody.get(addresses[0]), 400)
    await context.db.execute("DELETE FROM jobs")
    assert is_problem(await nobody.get(addresses[0]), 404)


async def test_a_request_that_is_too_large_is_not_read(client: httpx.AsyncClient) -> None:
    body = b'{"url": "' + b"/" * 2**17 + b'"}'
    assert is_problem(await client.post("/v1/shares", content=body), 413)
