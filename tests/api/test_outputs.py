"""What is made of masks: pictures and numbers, by key, each time from the store."""

import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from service.app import create_app
from service.artifacts import decoders, inputs, keeping, records, renditions
from service.artifacts.filing import file
from service.artifacts.pictures import measure_in_child
from service.artifacts.records import Measured, OwedCopy
from service.catalog.base import Lifted, LiftedFile
from service.context import Context
from service.jobs import endings
from service.retention import removing
from service.retention.parts import Keep, Part
from service.settings import Settings
from tests import making
from tests.api.asking import is_problem
from tests.artifacts.canned import answer, answering
from tests.serving import serving

SA2VA = "fal-ai/sa2va/8b/image"
SIZE = (48, 32)
BOXES = ((4, 4, 20, 20), (24, 8, 40, 30))
MADE = ("cutout", "overlay", "rle", "polygons")


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def mask(box: tuple[int, int, int, int] | None) -> bytes:
    image = Image.new("L", SIZE)
    if box:
        image.paste(255, box)
    return png(image)


PICTURE = png(Image.radial_gradient("L").resize(SIZE).convert("RGB"))
AS_DATA = "data:image/png;base64," + base64.b64encode(PICTURE).decode()


async def keep(context: Context, content: bytes) -> Measured:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    async with context.storage.spool(chunks(), 10_000_000) as spooled:
        picture, covered = await measure_in_child(spooled.path, mask=True)
        area, box = (covered.area_fraction, covered.bbox) if covered else (None, None)
        size = (picture.width, picture.height)
        measured = Measured(spooled.sha256, spooled.size, picture.content_type, *size, area, box)
        await file(context.db, context.storage, spooled, measured)
    return measured


async def segmented(context: Context, tenant: UUID, image_url: Any = AS_DATA, *masks: bytes | None) -> UUID:
    """A completed job of these masks, of which None are not stored yet."""
    asked = json.dumps({"image_url": image_url, "prompt": "All."} if image_url else {"prompt": "All."})
    kept = await inputs.keep_files(context.db, context.storage, asked)
    claim = await making.submitted(context.db, tenant, model=SA2VA, input=kept)
    files = tuple(LiftedFile("mask", index, f"https://example.com/{index}.png") for index in range(len(masks)))
    ending = making.completed()
    await endings.settle(context.db, claim.job_id, 1, ending, making.heard(), "webhook", Lifted(files=files))
    for index, content in enumerate(masks):
        if content is not None:
            owed = OwedCopy(claim.job_id, "mask", index, "", 1)
            await records.record_copy(context.db, owed, await keep(context, content))
    return claim.job_id


@pytest.fixture
async def job_id(context: Context, tenant: UUID) -> UUID:
    return await segmented(context, tenant, AS_DATA, *map(mask, BOXES))


def opened(response: httpx.Response) -> Image.Image:
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png"), response.text
    return Image.open(io.BytesIO(response.content))


async def test_a_cut_out_is_as_large_as_the_box(client: httpx.AsyncClient, job_id: UUID) -> None:
    for index, (left, top, right, bottom) in enumerate(BOXES):
        cut = opened(await client.get(f"/v1/jobs/{job_id}/masks/{index}/cutout"))
        assert (cut.mode, cut.size) == ("RGBA", (right - left, bottom - top))
        whole = np.asarray(Image.open(io.BytesIO(PICTURE)))
        assert np.array_equal(np.asarray(cut)[..., :3], whole[top:bottom, left:right])


async def test_an_overlay_is_as_large_as_the_picture(client: httpx.AsyncClient, job_id: UUID) -> None:
    drawn = [opened(await client.get(f"/v1/jobs/{job_id}/{part}")) for part in ("masks/0/overlay", "overlay")]
    changed = [
        np.argwhere((np.asarray(each) != np.asarray(Image.open(io.BytesIO(PICTURE)))).any(axis=2)) for each in drawn
    ]
    assert [each.size for each in drawn] == [SIZE, SIZE]
    assert changed[0].max(axis=0).tolist() == [19, 19]
    assert changed[1].max(axis=0).tolist() == [29, 39], "both masks"


async def test_what_the_machine_had_no_time_to_draw_can_be_asked_for_again(
    client: httpx.AsyncClient, job_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as starving:
        starving.setattr(decoders, "WALL_SECONDS", 0.0)
        is_problem(await client.get(f"/v1/jobs/{job_id}/masks/0/overlay"), 503)
    opened(await client.get(f"/v1/jobs/{job_id}/masks/0/overlay"))


async def test_run_lengths_and_polygons_agree_with_the_row(client: httpx.AsyncClient, job_id: UUID) -> None:
    rows = (await client.get(f"/v1/jobs/{job_id}/masks")).json()["masks"]
    for row, box in zip(rows, BOXES, strict=True):
        rle = (await client.get(row["links"]["rle"])).json()
        polygons = (await client.get(row["links"]["polygons"])).json()
        for said in (rle, polygons):
            assert (said["bbox"], said["size"]) == (row["bbox"], [row["height"], row["width"]])
            assert said["area"] == round(row["area_fraction"] * row["width"] * row["height"])
        decoded = Image.fromarray(coco.decode(rle) * 255)
        assert decoded.getbbox() == box
        assert len(polygons["coordinates"]) == 1


async def test_what_is_known_is_not_drawn_again(
    client: httpx.AsyncClient, job_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in (*(f"masks/0/{made}" for made in MADE), "overlay"):
        first = await client.get(f"/v1/jobs/{job_id}/{part}")
        assert first.headers["cache-control"] == "private, max-age=31536000, immutable"
        etag = first.headers["etag"]
        again = await client.get(f"/v1/jobs/{job_id}/{part}", headers={"if-none-match": etag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        head = await client.head(f"/v1/jobs/{job_id}/{part}")
        assert (head.status_code, head.headers["etag"], head.headers["content-type"]) == (
            200,
            etag,
            first.headers["content-type"],
        )
        # Nobody knows how long it is before it is drawn.
        assert head.headers.get("content-length") in {None, first.headers["content-length"]}


async def test_each_has_a_name_of_its_own(client: httpx.AsyncClient, job_id: UUID) -> None:
    parts = [f"masks/{index}/{made}" for index in (0, 1) for made in MADE] + ["overlay"]
    etags = {(await client.head(f"/v1/jobs/{job_id}/{part}")).headers["etag"] for part in parts}
    assert len(etags) == len(parts)


async def test_nothing_is_left_behind_by_what_was_drawn(
    client: httpx.AsyncClient, context: Context, job_id: UUID
) -> None:
    await client.get(f"/v1/jobs/{job_id}/overlay")
    spool = context.settings.artifacts_location.removeprefix("file://") + "/spool"
    with context.storage.scratch() as path:
        assert str(path.parent) == spool
        assert list(path.parent.iterdir()) == [path]


async def test_a_file_that_was_uploaded_is_found_by_its_address(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    uploaded = (await client.post("/v1/files", content=PICTURE)).json()["url"]
    promised = await client.post(
        "/fal/rest/storage/upload/initiate", json={"file_name": "picture.png", "content_type": "image/png"}
    )
    assert (await client.put(promised.json()["upload_url"], content=PICTURE)).status_code == 200
    for url in (
        uploaded,
        promised.json()["file_url"],
        f"https://old-name.example{uploaded[len(str(client.base_url)) :]}",
    ):
        job_id = await segmented(context, tenant, url, mask(BOXES[0]))
        response = await client.get(f"/v1/jobs/{job_id}/masks/0/overlay")
        assert opened(response).size == SIZE
        assert "immutable" in response.headers["cache-control"]


async def test_a_job_that_has_not_ended_has_nothing_to_draw(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    job_id = (await making.submitted(context.db, tenant, model=SA2VA)).job_id
    for part in (*(f"masks/0/{made}" for made in MADE), "overlay"):
        assert is_problem(await client.get(f"/v1/jobs/{job_id}/{part}"), 400)


async def test_a_copy_that_is_owed_is_waited_for_and_one_that_failed_is_not(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    job_id = await segmented(context, tenant, AS_DATA, None, mask(BOXES[0]))
    assert is_problem(await client.get(f"/v1/jobs/{job_id}/masks/0/cutout"), 503)
    partly = await client.get(f"/v1/jobs/{job_id}/overlay")
    assert (partly.status_code, partly.headers["cache-control"]) == (200, "private, no-cache")
    await records.record_failure(context.db, OwedCopy(job_id, "mask", 0, "", 1), "the file is gone", None)
    refused = await client.get(f"/v1/jobs/{job_id}/masks/0/cutout")
    assert is_problem(refused, 404)
    assert "the file is gone" in refused.json()["message"]


async def test_what_is_not_there_is_not_found(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, context: Context, tenant: UUID, job_id: UUID
) -> None:
    for made in MADE:
        assert is_problem(await client.get(f"/v1/jobs/{job_id}/masks/9/{made}"), 404)
        assert is_problem(await client.get(f"/v1/jobs/{job_id}/masks/99999999/{made}"), 404)
        assert is_problem(await stranger.get(f"/v1/jobs/{job_id}/masks/0/{made}"), 404)
    assert is_problem(await stranger.get(f"/v1/jobs/{job_id}/overlay"), 404)
    without = (await making.ended(context.db, tenant, model=SA2VA)).job_id
    assert is_problem(await client.get(f"/v1/jobs/{without}/overlay"), 404)


async def test_a_job_without_a_picture_has_numbers_only(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    for asked in (None, 7, [], ""):
        job_id = await segmented(context, tenant, asked, mask(BOXES[0]))
        assert is_problem(await client.get(f"/v1/jobs/{job_id}/masks/0/overlay"), 404)
        assert (await client.get(f"/v1/jobs/{job_id}/masks/0/rle")).status_code == 200


async def test_what_cannot_be_drawn_says_so(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    job_id = await segmented(context, tenant, AS_DATA, mask(None), b"<html>no picture</html>")
    assert is_problem(await client.get(f"/v1/jobs/{job_id}/masks/0/cutout"), 422)
    assert opened(await client.get(f"/v1/jobs/{job_id}/masks/0/overlay")).size == SIZE
    for made in MADE:
        assert is_problem(await client.get(f"/v1/jobs/{job_id}/masks/1/{made}"), 422)
    text = "data:text/plain;base64," + base64.b64encode(b"no picture").decode()
    job_id = await segmented(context, tenant, text, mask(BOXES[0]))
    refused = await client.get(f"/v1/jobs/{job_id}/masks/0/overlay")
    assert is_problem(refused, 422)
    assert "/" not in refused.json()["message"], "no path of ours"


async def test_a_blob_that_the_store_lost_is_a_503(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    job_id = await segmented(context, tenant, AS_DATA, mask((1, 1, 2, 3)))
    row = (await client.get(f"/v1/jobs/{job_id}/masks")).json()["masks"][0]
    async with context.storage.at_hand(row["sha256"]) as path:
        path.unlink()
    for made in MADE:
        assert is_problem(await client.get(f"/v1/jobs/{job_id}/masks/0/{made}"), 503)


async def test_more_than_are_drawn_at_a_time_are_asked_to_come_again(
    client: httpx.AsyncClient, job_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renditions, "MOST_WAITING", 0)
    assert is_problem(await client.get(f"/v1/jobs/{job_id}/overlay"), 503)
    assert (await client.get(f"/v1/jobs/{job_id}/masks/0")).status_code == 200


async def test_a_picture_inside_the_house_is_not_fetched(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    """Not even one at a host that is trusted with outputs, as this service itself is."""
    async with answering(answer(PICTURE)) as inside:
        for url in (f"{inside.url}/picture.png", f"{client.base_url}/healthz"):
            job_id = await segmented(context, tenant, url, mask(BOXES[0]))
            assert is_problem(await client.get(f"/v1/jobs/{job_id}/masks/0/overlay"), 503)
    assert inside.connections == 0


@pytest.fixture
async def on_site(settings: Settings, client: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that may reach private addresses."""
    app = create_app(settings.model_copy(update={"allow_private_networks": True}))
    async with (
        serving(app) as url,
        httpx.AsyncClient(base_url=url, headers=client.headers, trust_env=False, timeout=30) as http,
    ):
        yield http


async def test_a_picture_elsewhere_is_fetched_once_and_kept(
    on_site: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    async with answering(answer(PICTURE), answer(status="404 Gone")) as elsewhere:
        job_id = await segmented(context, tenant, f"{elsewhere.url}/picture.png", mask(BOXES[0]))
        for part in ("masks/0/overlay", "masks/0/cutout", "overlay"):
            response = await on_site.get(f"/v1/jobs/{job_id}/{part}")
            assert opened(response).size
            assert "immutable" in response.headers["cache-control"]
    assert len(elsewhere.requests) == 1
    assert await making.count(context.db, "input_files") == 1


async def test_a_picture_elsewhere_that_cannot_be_had_is_asked_for_again(
    on_site: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    answers = answer(status="404 Gone"), answer(status="503 Busy"), answer(b"<html>"), answer(PICTURE)
    async with answering(*answers) as elsewhere:
        job_id = await segmented(context, tenant, f"{elsewhere.url}/picture.png", mask(BOXES[0]))
        for status in (404, 503, 422):
            assert is_problem(await on_site.get(f"/v1/jobs/{job_id}/masks/0/overlay"), status)
        assert opened(await on_site.get(f"/v1/jobs/{job_id}/masks/0/overlay")).size == SIZE
    assert await making.count(context.db, "input_files") == 1


async def test_a_picture_elsewhere_that_is_too_large_is_not_drawn_on(
    on_site: httpx.AsyncClient, context: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "LARGEST_PICTURE", 100)
    async with answering(answer(PICTURE)) as elsewhere:
        job_id = await segmented(context, tenant, f"{elsewhere.url}/picture.png", mask(BOXES[0]))
        assert is_problem(await on_site.get(f"/v1/jobs/{job_id}/masks/0/overlay"), 404)


async def test_of_what_was_removed_nothing_is_drawn(
    client: httpx.AsyncClient, context: Context, tenant: UUID, job_id: UUID
) -> None:
    await removing.remove(context.db, [job_id], Part.INPUT, Keep.NOTHING)
    assert is_problem(await client.get(f"/v1/jobs/{job_id}/masks/0/overlay"), 410)
    assert (await client.get(f"/v1/jobs/{job_id}/masks/0/rle")).status_code == 200
    await removing.remove(context.db, [job_id], Part.FILES, Keep.HASH)
    assert is_problem(await client.get(f"/v1/jobs/{job_id}/masks/0/rle"), 410)
    assert is_problem(await client.get(f"/v1/jobs/{job_id}/overlay"), 410)
