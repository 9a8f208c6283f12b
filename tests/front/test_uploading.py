"""Files by fal's storage: promised and PUT, posted with a token, and in parts."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.artifacts import uploads
from service.context import Context
from service.db import Database
from tests import making
from tests.api.asking import picture
from tests.front.asking import is_problem, submit

REST = "/fal/rest/storage"
CDN = "/fal/cdn"


async def initiate(client: httpx.AsyncClient, path: str = "initiate", **body: Any) -> dict[str, str]:
    announced = {"content_type": "image/png", "file_name": "a b.png", **body}
    response = await client.post(f"{REST}/upload/{path}?storage_type=fal-cdn-v3", json=announced)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def token(client: httpx.AsyncClient) -> dict[str, str]:
    response = await client.post(f"{REST}/auth/token?storage_type=fal-cdn-v3", json={})
    assert response.status_code == 200
    return dict(response.json())


async def test_a_promised_file_is_put_without_a_key(client: httpx.AsyncClient, nobody: httpx.AsyncClient) -> None:
    promised = await initiate(client)
    assert is_problem(await nobody.get(promised["file_url"]), 404)
    put = await nobody.put(promised["upload_url"], content=picture(3), headers={"content-type": "image/png"})
    assert put.status_code == 200
    file = await nobody.get(promised["file_url"])
    assert (file.content, file.headers["content-type"]) == (picture(3), "image/png")
    assert file.headers["x-content-type-options"] == "nosniff"
    assert file.headers["content-disposition"] == 'inline; filename="a b.png"'


async def test_a_part_of_an_uploaded_file_can_be_had(client: httpx.AsyncClient, nobody: httpx.AsyncClient) -> None:
    promised = await initiate(client)
    await nobody.put(promised["upload_url"], content=b"0123456789")
    part = await nobody.get(promised["file_url"], headers={"range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    assert part.headers["content-range"] == "bytes 2-4/10"


async def test_the_same_bytes_may_come_twice_and_no_others(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    promised = await initiate(client)
    answers = [await nobody.put(promised["upload_url"], content=b"one") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert is_problem(await nobody.put(promised["upload_url"], content=b"two"), 400)
    assert (await nobody.get(promised["file_url"])).content == b"one"


async def test_who_can_read_a_file_cannot_write_it(client: httpx.AsyncClient, nobody: httpx.AsyncClient) -> None:
    promised = await initiate(client)
    assert (await nobody.put(promised["file_url"], content=b"x")).status_code == 405
    read_id = promised["file_url"].split("/")[-2]
    assert is_problem(await nobody.put(f"{CDN}/uploads/{read_id}", content=b"x"), 404)


async def test_what_the_disk_does_not_take_is_a_503_and_may_be_sent_again(
    client: httpx.AsyncClient, context: Context, nobody: httpx.AsyncClient
) -> None:
    whole, parts = await initiate(client), await initiate(client, "initiate-multipart")
    stored = Path(context.settings.artifacts_location.removeprefix("file://"))
    (stored / "spool").rename(stored / "away")
    urls = (whole["upload_url"], f"{parts['upload_url']}/1")
    assert all([is_problem(await nobody.put(url, content=b"x"), 503) for url in urls])
    (stored / "away").rename(stored / "spool")
    assert [(await nobody.put(url, content=b"x")).status_code for url in urls] == [200, 200]


async def test_a_ticket_has_its_time(client: httpx.AsyncClient, db: Database, nobody: httpx.AsyncClient) -> None:
    promised = await initiate(client)
    await db.execute("UPDATE uploads SET created_at = created_at - interval '2 days'")
    assert is_problem(await nobody.put(promised["upload_url"], content=b"x"), 404)


async def test_what_never_came_is_forgotten_with_its_parts(
    client: httpx.AsyncClient, context: Context, nobody: httpx.AsyncClient
) -> None:
    db = context.db
    kept, lost = await initiate(client), await initiate(client, "initiate-multipart")
    await nobody.put(kept["upload_url"], content=b"x")
    for number in (1, 2):
        await nobody.put(f"{lost['upload_url']}/{number}", content=b"part")
    lost_id = lost["file_url"].split("/")[-2]
    assert await context.storage.sizes_of_parts(lost_id) == {1: 4, 2: 4}
    await db.execute("UPDATE uploads SET created_at = created_at - interval '3 days'")
    fresh = await initiate(client)
    await uploads.forget(context)
    assert await making.count(db, "uploads") == 2
    assert await context.storage.sizes_of_parts(lost_id) == {}
    assert (await nobody.get(kept["file_url"])).content == b"x"
    assert (await nobody.put(fresh["upload_url"], content=b"y")).status_code == 200


@pytest.mark.parametrize(
    ("called", "content", "served"),
    [
        ("text/plain", b"Hello", "text/plain"),
        ("text/html", b"<script>", "application/octet-stream"),
        ("image/svg+xml", b"<svg/>", "application/octet-stream"),
        ("text/html", picture(4), "image/png"),
        ("video/mp4; codecs=x", b"no film", "video/mp4"),
        ("x" * 900, b"?", "application/octet-stream"),
    ],
)
async def test_a_file_is_served_as_what_it_is(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient, called: str, content: bytes, served: str
) -> None:
    promised = await initiate(client, content_type=called)
    await nobody.put(promised["upload_url"], content=content, headers={"content-type": called})
    assert (await nobody.get(promised["file_url"])).headers["content-type"] == served


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("../../etc/passwd", 'filename="passwd"'),
        ("a\x00b", 'filename="ab"'),
        ("", 'filename="file"'),
        ("x" * 1_000, f'filename="{"x" * 128}"'),
        ("\u202egnp.exe", 'filename="gnp.exe"'),
        ("a/b\\c", 'filename="c"'),
        ("ü 猫.png", "filename=\"_ _.png\"; filename*=UTF-8''%C3%BC%20%E7%8C%AB.png"),
    ],
)
async def test_a_name_is_only_a_name(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient, name: str, served: str
) -> None:
    promised = await initiate(client, file_name=name)
    await nobody.put(promised["upload_url"], content=b"x")
    file = await nobody.get(promised["file_url"])
    assert (file.content, file.headers["content-disposition"]) == (b"x", f"attachment; {served}")


async def test_a_stranger_does_not_decide_what_my_file_is_served_as(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    """The same bytes are one file of the store, whoever sent them."""
    served = []
    for sender, called in ((stranger, "text/plain"), (client, "video/mp4")):
        promised = await initiate(sender, content_type=called)
        await nobody.put(promised["upload_url"], content=b"some film", headers={"content-type": called})
        served.append((await nobody.get(promised["file_url"])).headers["content-type"])
    for name, called in (("clip.webm", None), ("clip", "text/csv"), ("clip.csv", "audio/mpeg")):
        headers = {"content-type": called} if called else {}
        file = (await client.post(f"/v1/files?name={name}", content=b"some film", headers=headers)).json()
        assert (called or "video/webm", name) == (file["content_type"], file["file_name"])
        served.append((await nobody.get(file["url"])).headers["content-type"])
    assert served == ["text/plain", "video/mp4", "video/webm", "text/csv", "audio/mpeg"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"file_name": 1}', b'{"file_name": "%s"}' % (b"x" * 2_000)])
async def test_an_announcement_that_is_none(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post(f"{REST}/upload/initiate", content=body)
    assert is_problem(response, 400 if body == b"{" else 422)


async def test_a_token_uploads_and_does_nothing_else(client: httpx.AsyncClient, nobody: httpx.AsyncClient) -> None:
    given = await token(client)
    headers = {"authorization": f"{given['token_type']} {given['token']}", "x-fal-file-name": "hello.txt"}
    posted = await nobody.post(
        f"{CDN}/files/upload", content=b"Hello", headers={**headers, "content-type": "text/plain"}
    )
    file = await nobody.get(posted.json()["access_url"])
    assert (file.content, file.headers["content-type"]) == (b"Hello", "text/plain")
    assert given["base_url"].endswith("/fal/cdn")
    assert (await nobody.get("/v1/jobs", headers=headers)).status_code == 401
    assert is_problem(await nobody.post("/fal/queue/fal-ai/llava-next", json={}, headers=headers), 401)


async def test_a_token_is_worth_its_key(client: httpx.AsyncClient, nobody: httpx.AsyncClient, db: Database) -> None:
    given = (await token(client))["token"]
    named, _, seal = given.rpartition(".")
    forged = [given[:-1], f"{named}.{seal[::-1]}", f"{named}9.{seal}", "x", "..", "a.1.b", "é.1.x"]
    for text in forged:
        headers = {b"authorization": b"Bearer " + text.encode("latin-1")}
        assert is_problem(await nobody.post(f"{CDN}/files/upload", content=b"x", headers=headers), 401)
    # Another process has not seen the key yet; this one forgets it after five seconds.
    await db.execute("DELETE FROM api_keys")
    headers = {"authorization": f"Bearer {given}"}

    async def refused() -> bool:
        return (await nobody.post(f"{CDN}/files/upload", content=b"x", headers=headers)).status_code == 401

    await making.until(refused)


async def test_who_may_only_read_uploads_nothing(make_client: Any, nobody: httpx.AsyncClient) -> None:
    reader = await make_client(scopes=("read",))
    calls = [f"{REST}/upload/initiate", f"{REST}/upload/initiate-multipart", f"{REST}/auth/token"]
    calls += [f"{CDN}/files/upload", f"{CDN}/files/upload/multipart"]
    for path in calls:
        assert is_problem(await reader.post(path, json={}), 403)
        assert is_problem(await nobody.post(path, json={}), 401)


PARTS = [b"a" * 70_000, b"b" * 70_000, b"c" * 5]


async def test_parts_are_joined_in_their_order(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient, context: Context
) -> None:
    promised = await initiate(client, "initiate-multipart")
    sent = await asyncio.gather(
        *(nobody.put(f"{promised['upload_url']}/{n}", content=part) for n, part in enumerate(PARTS, 1))
    )
    told = [answer.json() for answer in sent]
    for _ in range(2):  # The answer to the first may have been lost.
        done = await nobody.post(f"{promised['upload_url']}/complete", json={"parts": told[::-1]})
        assert done.status_code == 200
    assert (await nobody.get(promised["file_url"])).content == b"".join(PARTS)
    assert [answer.headers["etag"] for answer in sent] == [f'"{hashlib.sha256(part).hexdigest()}"' for part in PARTS]


async def test_parts_with_a_token(client: httpx.AsyncClient, nobody: httpx.AsyncClient) -> None:
    given = await token(client)
    headers = {"authorization": f"Bearer {given['token']}", "x-fal-file-name": "long.bin"}
    begun = (await nobody.post(f"{given['base_url']}/files/upload/multipart", headers=headers)).json()
    address = f"{begun['access_url']}/multipart/{begun['uploadId']}"
    tags = [(await nobody.put(f"{address}/{n}", content=part)).headers["etag"] for n, part in enumerate(PARTS, 1)]
    parts = [{"partNumber": number, "etag": tag} for number, tag in enumerate(tags, 1)]
    assert (await nobody.post(f"{address}/complete", json={"parts": parts})).status_code == 200
    assert (await nobody.get(begun["access_url"])).content == b"".join(PARTS)


@pytest.mark.parametrize(
    "parts",
    [[{"partNumber": 2, "etag": "x"}], [{"partNumber": 1, "etag": "0" * 64}]],
    ids=["it did not come", "it is another"],
)
async def test_a_part_that_is_not_there(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient, parts: list[dict[str, Any]]
) -> None:
    promised = await initiate(client, "initiate-multipart")
    await nobody.put(f"{promised['upload_url']}/1", content=b"one")
    assert is_problem(await nobody.post(f"{promised['upload_url']}/complete", json={"parts": parts}), 400)
    assert is_problem(await nobody.get(promised["file_url"]), 404)


@pytest.mark.parametrize("body", [{}, {"parts": []}, {"parts": [{"partNumber": 0, "etag": "x"}]}, {"parts": 1}, []])
async def test_a_list_of_parts_that_is_none(client: httpx.AsyncClient, nobody: httpx.AsyncClient, body: Any) -> None:
    promised = await initiate(client, "initiate-multipart")
    assert is_problem(await nobody.post(f"{promised['upload_url']}/complete", json=body), 422)


@pytest.mark.parametrize("number", ["0", "1001", "99999999999999999999"])
async def test_a_number_that_no_part_has(client: httpx.AsyncClient, nobody: httpx.AsyncClient, number: str) -> None:
    promised = await initiate(client, "initiate-multipart")
    assert is_problem(await nobody.put(f"{promised['upload_url']}/{number}", content=b"x"), 422)


async def test_a_file_has_a_size(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "LARGEST_UPLOAD", 1_000)
    monkeypatch.setattr(uploads, "LARGEST_IN_PARTS", 1_500)
    promised = await initiate(client)
    assert is_problem(await nobody.put(promised["upload_url"], content=b"x" * 1_001), 413)
    assert is_problem(await nobody.put(promised["upload_url"], content=b""), 422)
    assert is_problem(await nobody.put(f"{promised['upload_url']}/1", content=b"x" * 1_001), 413)
    sent = [await nobody.put(f"{promised['upload_url']}/{n}", content=b"x" * 900) for n in (1, 2)]
    assert [answer.status_code for answer in sent] == [200, 413]
    parts = [sent[0].json(), {"partNumber": 2, "etag": sent[0].json()["etag"]}]
    assert is_problem(await nobody.put(f"{promised['upload_url']}/3", content=b"x" * 900), 413)
    assert is_problem(await nobody.post(f"{promised['upload_url']}/complete", json={"parts": parts}), 400)
    assert (await nobody.put(f"{promised['upload_url']}/2", content=b"x" * 600)).status_code == 200


async def test_parts_that_come_at_once_are_counted_too(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "LARGEST_IN_PARTS", 1_500)
    promised = await initiate(client, "initiate-multipart")
    await asyncio.gather(*(nobody.put(f"{promised['upload_url']}/{n}", content=b"x" * 500) for n in range(1, 11)))
    kept = await context.storage.sizes_of_parts(promised["file_url"].split("/")[-2])
    assert sum(kept.values()) <= 1_500


async def test_a_file_that_is_whole_takes_no_more_parts(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient, context: Context
) -> None:
    promised = await initiate(client, "initiate-multipart")
    for number in (1, 2):
        await nobody.put(f"{promised['upload_url']}/{number}", content=b"one")
    part = {"partNumber": 1, "etag": hashlib.sha256(b"one").hexdigest()}
    assert (await nobody.post(f"{promised['upload_url']}/complete", json={"parts": [part]})).status_code == 200
    assert is_problem(await nobody.put(f"{promised['upload_url']}/3", content=b"three"), 400)
    assert await context.storage.sizes_of_parts(promised["file_url"].split("/")[-2]) == {}


async def test_calls_that_make_a_file_whole_at_once_all_succeed(
    client: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    promised = await initiate(client, "initiate-multipart")
    told = [(await nobody.put(f"{promised['upload_url']}/{n}", content=p)).json() for n, p in enumerate(PARTS, 1)]
    complete = f"{promised['upload_url']}/complete"
    done = await asyncio.gather(*(nobody.post(complete, json={"parts": told}) for _ in range(8)))
    assert {answer.status_code for answer in done} == {200}
    assert (await nobody.get(promised["file_url"])).content == b"".join(PARTS)


async def test_an_uploaded_file_is_an_input(client: httpx.AsyncClient, nobody: httpx.AsyncClient) -> None:
    promised = await initiate(client)
    await nobody.put(promised["upload_url"], content=picture(5))
    assert await submit(client, json={**making.PROMPT, "image_url": promised["file_url"]})
