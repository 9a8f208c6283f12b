"""Files that are not what they are called, or more than they seem: kept, harmless, and remarked on."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.artifacts.copying import copy_due
from service.catalog.base import Lifted, LiftedFile
from service.context import Context
from service.jobs import endings
from tests import making
from tests.artifacts.test_pictures import bomb
from tests.provider import Provider, Reply, says
from tests.stand_in.pictures import TRUCK, photograph

HTML = b"<!doctype html><script>alert(document.cookie)</script>"
MP4 = b"\0\0\0\x18ftypmp42" + b"\0" * 40


async def copied(
    context: Context, tenant: UUID, provider: Provider, content: bytes, *, kind: str = "mask", **claims: Any
) -> UUID:
    """A job whose only file is this one."""
    provider.result = says(Reply(200, content, {"content-type": str(claims.get("content_type"))}))
    claim = await making.submitted(context.db, tenant)
    file = LiftedFile(kind, 0, f"{provider.url}/files/a.png", **claims)  # type: ignore[arg-type]
    ending = making.completed()
    await endings.settle(context.db, claim.job_id, 1, ending, making.heard(), "webhook", Lifted(files=(file,)))
    await copy_due(context)
    return claim.job_id


async def shown(client: httpx.AsyncClient, job_id: UUID, kind: str = "masks") -> dict[str, Any]:
    [file] = (await client.get(f"/v1/jobs/{job_id}/{kind}")).json()[kind]
    return dict(file)


@pytest.mark.parametrize(
    ("content", "claims", "remark"),
    [
        (TRUCK.png(), {"content_type": "image/png"}, None),
        (TRUCK.png(), {"content_type": "image/PNG; charset=binary"}, None),
        (TRUCK.png(), {}, None),
        (TRUCK.png(), {"content_type": "application/octet-stream"}, None),
        (TRUCK.png(), {"content_type": "image/jpeg"}, "it is called image/jpeg and is image/png"),
        (TRUCK.png(), {"content_type": "text/html"}, "it is called text/html and is image/png"),
        (TRUCK.png(), {"file_name": "a.webp"}, "it is called image/webp and is image/png"),
        (HTML, {"content_type": "image/png"}, "it is called image/png and is no picture"),
        (HTML, {"file_name": "mask.png"}, "it is called image/png and is no picture"),
        (HTML, {"content_type": "image/" + "x" * 5_000}, None),
        (HTML, {}, "it is no picture"),
        (MP4, {"content_type": "image/png"}, "it is called image/png and is video/mp4"),
        (MP4, {"content_type": "video/mp4"}, None),
    ],
)
async def test_a_file_is_remarked_on_if_it_is_not_what_it_is_called(
    client: httpx.AsyncClient,
    context: Context,
    tenant: UUID,
    provider: Provider,
    content: bytes,
    claims: dict[str, Any],
    remark: str | None,
) -> None:
    mask = await shown(client, await copied(context, tenant, provider, content, **claims))
    assert (mask["remark"], mask["copy_error"]) == (remark, None)
    assert mask["file_size"] == len(content)


async def test_a_page_that_is_called_a_picture_is_kept_and_never_shown(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient, context: Context, tenant: UUID, provider: Provider
) -> None:
    claims = {"content_type": "image/png", "file_name": "mask.png", "width": 7, "height": 5}
    mask = await shown(client, await copied(context, tenant, provider, HTML, **claims))
    assert (mask["width"], mask["height"], mask["area_fraction"], mask["bbox"]) == (None, None, None, None)
    for response in (await nobody.get(mask["url"]), await client.get(mask["links"]["png"])):
        assert (response.status_code, response.content) == (200, HTML)
        assert response.headers["content-type"] == "application/octet-stream"
        assert response.headers["content-disposition"].startswith("attachment")
        assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("kind", ["mask", "image"])
async def test_a_small_file_that_unpacks_to_300_megabytes_harms_nothing(
    client: httpx.AsyncClient,
    context: Context,
    tenant: UUID,
    provider: Provider,
    extra_memory: Callable[[], int],
    kind: str,
) -> None:
    content = bomb(10_000, 8_800)  # Pillow holds four bytes of each pixel.
    assert len(content) < 257_000 < 300 * 2**20 < 10_000 * 8_800 * 4
    job_id = await copied(context, tenant, provider, content, kind=kind, content_type="image/png")
    file = await shown(client, job_id, f"{kind}s")
    assert (file["sha256"] is not None, file["file_size"]) == (True, len(content))
    measured = (file["width"], file["height"]) == (10_000, 8_800)
    assert measured or "not decoded" in file["remark"]
    assert extra_memory() < 50 * 2**20
    assert (await client.get(f"/v1/jobs/{job_id}")).json()["status"] == "completed"


async def test_what_is_too_much_to_decode_is_kept_and_says_so(
    client: httpx.AsyncClient, context: Context, tenant: UUID, provider: Provider, extra_memory: Callable[[], int]
) -> None:
    content = bomb(15_000, 14_000)
    claims = {"content_type": "image/png", "width": 15_000, "height": 14_000}
    mask = await shown(client, await copied(context, tenant, provider, content, **claims))
    assert (mask["sha256"] is not None, mask["width"], mask["area_fraction"]) == (True, None, None)
    assert mask["remark"].startswith("it was not decoded and not measured: ")
    assert extra_memory() < 50 * 2**20
    served = await client.get(mask["url"])
    assert (served.content, served.headers["content-type"]) == (content, "application/octet-stream")
    assert (await client.get(mask["links"]["cutout"])).status_code == 422


async def test_a_file_that_came_in_the_output_names_no_source(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    claim = await making.submitted(context.db, tenant)
    files = (
        LiftedFile("image", 0, "data:image/png;base64,iVBORw0KGgo="),
        LiftedFile("image", 1, "https://files.example/a.png"),
    )
    ending = making.completed()
    await endings.settle(context.db, claim.job_id, 1, ending, making.heard(), "webhook", Lifted(files=files))
    await context.db.execute("UPDATE artifacts SET source_expires_at = '2026-11-20 12:00:00.5+02' WHERE index = 1")
    images = (await client.get(f"/v1/jobs/{claim.job_id}/images")).json()["images"]
    assert [(each["source_url"], each["source_expires_at"]) for each in images] == [
        (None, None),
        ("https://files.example/a.png", "2026-11-20T10:00:00.500000Z"),
    ]


async def test_the_picture_of_a_model_is_measured(
    client: httpx.AsyncClient, context: Context, tenant: UUID, provider: Provider
) -> None:
    content = photograph(31, 17)
    job_id = await copied(context, tenant, provider, content, kind="image", content_type="image/png", width=9, height=9)
    image = await shown(client, job_id, "images")
    assert (image["width"], image["height"], image["remark"]) == (31, 17, None)
