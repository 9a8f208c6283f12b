"""Data URIs of inputs: out of the row, into the store, and whole again for the provider."""

import base64
import hashlib
import json
from contextlib import nullcontext
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.artifacts import inputs
from service.context import Context
from service.db import Database
from service.errors import IdempotencyMismatch, Unavailable
from service.jobs import operations
from service.jobs.submitting import Submitter
from service.retention import blobs, removing
from service.retention.parts import Keep, Part
from tests import making
from tests.api.asking import asked, is_problem, picture

PNG = f"data:image/png;base64,{base64.b64encode(picture(7)).decode()}"


async def kept(context: Context, text: str) -> str:
    return await inputs.keep_files(context.db, context.storage, text)


async def there_and_back(context: Context, text: str) -> str:
    return await inputs.whole(context.storage, await kept(context, text))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"image_url": PNG, "prompt": "What?"}),
        json.dumps({"image_urls": [PNG, "https://example.com/a.png", PNG]}),
        '{ "n": 1.50,\t"image_url" : "PNG" , "x": {"y": ["PNG"]}}'.replace("PNG", PNG),
        json.dumps({"image_url": PNG.replace("image/png", "application/x-any;charset=utf-8")}),
        json.dumps({"image_url": PNG.replace("data:image/png", "DATA:")}),
        json.dumps({"prompt": 'a "quoted" \\ text with data:image/png;base64,AAAA in it', "image_url": PNG}),
    ],
)
async def test_what_comes_back_is_what_was_sent(context: Context, text: str) -> None:
    stored = await kept(context, text)
    assert len(stored) < len(text)
    assert await inputs.whole(context.storage, stored) == text


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"image_url": "https://example.com/a.png;base64,"}),
        json.dumps({"image_url": "data:image/png,plain"}),
        json.dumps({"image_url": "data:image/png;base64,AAA"}),
        json.dumps({"image_url": "data:image/png;base64,AAB="}),  # Its last bits are lost in decoding.
        json.dumps({"image_url": "data:image/png;base64,"}),
        json.dumps({"image_url": "data:image/png;base64,A\u00e9=="}),
        json.dumps({PNG: "a name is no file"}),
        json.dumps({"prompt": f'"{PNG}"'}),
    ],
)
async def test_what_would_not_come_back_stays_where_it_is(context: Context, text: str) -> None:
    assert await kept(context, text) == text


async def test_escaped_slashes_are_slashes(context: Context) -> None:
    text = json.dumps({"image_url": PNG}).replace("/", "\\/")
    assert json.loads(await there_and_back(context, text)) == {"image_url": PNG}
    assert PNG[30:] not in (await kept(context, text)).replace("\\/", "/")


async def test_the_row_names_the_file_and_the_answer_its_address(
    client: httpx.AsyncClient, db: Database, nobody: httpx.AsyncClient
) -> None:
    registered = await client.post("/v1/jobs", json=asked(input={"image_url": PNG, "prompt": "What?"}))
    job = (await client.get(f"/v1/jobs/{registered.json()['request_id']}")).json()
    row = await db.fetchrow("SELECT body FROM inputs")
    assert row is not None
    assert PNG[30:] not in row["body"]
    assert registered.json()["input"] == job["input"]
    file = await nobody.get(job["input"]["image_url"])
    assert (file.content, file.headers["content-type"]) == (picture(7), "image/png")


async def test_the_provider_gets_the_data_uri(client: httpx.AsyncClient, context: Context, provider: Any) -> None:
    text = f'{{"image_url": "{PNG}",  "prompt": "What?"}}'
    body = f'{{"model": "fal-ai/llava-next", "input": {text}}}'
    assert (await client.post("/v1/jobs", content=body)).status_code == 202
    await Submitter(context).drain()
    assert [call.body.decode() for call in provider.submissions] == [text]


async def test_a_key_knows_the_request_as_it_was_sent(context: Context, tenant: UUID) -> None:
    text = json.dumps({"image_url": PNG, "prompt": "What?"})
    jobs = [making.new_job(tenant, input=text) for _ in range(2)]
    first, second = [await operations.register(context, job, "order-1") for job in jobs]
    assert (second.job_id, second.created_at) == (first.job_id, None)


async def forgotten(context: Context) -> int:
    """How many files are deleted when all that was marked is old enough."""
    deleted = 0
    while taken := await blobs.take_unreferenced(context.db, -1.0):
        for each in taken:
            deleted += await blobs.delete_unreferenced(context.db, context.storage.delete, each)
    return deleted


async def test_the_file_of_a_request_that_is_refused_goes(context: Context, tenant: UUID) -> None:
    """The same key, with another picture."""
    for data, refused in (("Zmlyc3Q=", False), ("c2Vjb25k", True)):
        job = making.new_job(tenant, input=json.dumps({"image_url": f"data:;base64,{data}"}))
        with pytest.raises(IdempotencyMismatch) if refused else nullcontext():
            await operations.register(context, job, "order-1")
    assert await forgotten(context) == 1
    [row] = await context.db.fetch("SELECT sha256 FROM blobs")
    assert row["sha256"] == hashlib.sha256(b"first").hexdigest()
    assert await context.storage.exists(row["sha256"])
    assert await making.count(context.db, "unreferenced_blobs") == 0


async def test_a_file_that_was_removed_goes_again_when_its_request_is_repeated(context: Context, tenant: UUID) -> None:
    text = json.dumps({"image_url": PNG, "prompt": "What?"})
    registered = await operations.register(context, making.new_job(tenant, input=text), "order-1")
    assert await operations.cancel(context, registered.job_id)
    await removing.remove(context.db, [registered.job_id], Part.INPUT, Keep.NOTHING)
    assert await forgotten(context) == 1
    again = await operations.register(context, making.new_job(tenant, input=text), "order-1")
    assert again.job_id == registered.job_id
    assert await making.count(context.db, "blobs") == 1
    assert await forgotten(context) == 1
    assert await making.count(context.db, "blobs") == 0


async def test_a_file_that_is_gone_lets_the_job_wait(context: Context, tenant: UUID, provider: Any) -> None:
    text = await kept(context, json.dumps({"image_url": PNG}))
    job_id = await making.queued(context.db, tenant, input=text)
    await context.storage.delete(text.partition("\\u0000")[2][:64])
    with pytest.raises(Unavailable):
        await inputs.whole(context.storage, text)
    await Submitter(context).drain()
    assert provider.submissions == []
    assert await making.status(context.db, job_id) == "queued"


async def test_no_client_can_name_a_file_that_is_not_his(client: httpx.AsyncClient, db: Database) -> None:
    forged = '{"model": "fal-ai/llava-next", "input": {"image_url": "https://a.example", "prompt": "%s"}}'
    for text in ("\\u0000%s data:,", "\\\\u0000%s data:,"):
        response = await client.post("/v1/jobs", content=forged % (text % ("0" * 64)))
        if response.status_code == 202:
            job = (await client.get(f"/v1/jobs/{response.json()['request_id']}")).json()
            assert job["input"]["prompt"] == json.loads(f'"{text}"') % ("0" * 64)
        else:
            assert response.status_code == 422
    assert await making.count(db, "jobs") == 1


def uris(number: int, size: int) -> list[str]:
    """So many different data URIs of so many bytes."""
    return [f"data:;base64,{base64.b64encode(each.to_bytes(size, 'big')).decode()}" for each in range(number)]


async def test_many_small_files_stay_in_the_row(context: Context, db: Database) -> None:
    small, larger = uris(2_000, 6), uris(3, inputs.SMALL + 1)
    text = json.dumps({"image_urls": [*small, *larger]})
    stored = await kept(context, text)
    assert await making.count(db, "blobs") == len(larger)
    assert all(each in stored for each in small)
    assert not any(each in stored for each in larger)
    assert await inputs.whole(context.storage, stored) == text


async def test_many_small_files_with_escaped_slashes_stay_as_they_came(context: Context) -> None:
    text = json.dumps({"image_urls": [each.replace("data:", "data:image/png") for each in uris(20, 6)]})
    text = text.replace("/", "\\/")
    assert await kept(context, text) == text


async def test_a_few_files_are_kept_however_small(context: Context, db: Database) -> None:
    text = json.dumps({"image_urls": [*uris(inputs.FEW - 1, 6), PNG]})
    assert await there_and_back(context, text) == text
    assert await making.count(db, "blobs") == inputs.FEW


async def test_an_input_of_too_many_files_is_refused(client: httpx.AsyncClient, db: Database) -> None:
    body = {"image_urls": uris(inputs.MOST_FILES + 1, inputs.SMALL + 1), "prompt": "?"}
    response = await client.post("/v1/jobs", json={"model": "fal-ai/mini-cpm", "input": body})
    assert is_problem(response, 422)
    assert await making.count(db, "jobs") == await making.count(db, "blobs") == 0


async def test_the_same_file_twice_is_one(context: Context, db: Database) -> None:
    assert await there_and_back(context, text := json.dumps({"a": PNG, "b": [PNG, PNG]})) == text
    assert await making.count(db, "blobs") == 1


async def test_a_file_of_an_input_is_served_as_its_uri_calls_it(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    await client.post("/v1/files", content=b"a film, or so", headers={"content-type": "text/plain"})
    uri = f"data:video/mp4;base64,{base64.b64encode(b'a film, or so').decode()}"
    job = (await client.post("/v1/jobs", json=asked(input={"image_url": uri, "prompt": "What?"}))).json()
    assert (await nobody.get(job["input"]["image_url"])).headers["content-type"] == "video/mp4"
