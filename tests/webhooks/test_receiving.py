"""The door for providers over HTTP: what is answered is true, and what was said is kept to the byte."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest

from service.app import create_app
from service.context import Context
from service.jobs import endings
from service.jobs.watching import watch
from service.settings import Settings
from service.webhooks.receive import LARGEST_WEBHOOK
from tests import making
from tests.making import CAT, DOG, Claim
from tests.provider import Provider, Reply
from tests.servers import Wire
from tests.serving import serving
from tests.webhooks.posting import Poster, envelope


@pytest.fixture
async def claim(context: Context, tenant: UUID) -> Claim:
    return await making.submitted(context.db, tenant, "r-1")


def url_of(poster: Poster, claim: Claim) -> str:
    return poster.sealer.path(claim.job_id, claim.attempt, claim.model)


async def send(poster: Poster, claim: Claim, body: bytes, **headers: str) -> httpx.Response:
    return await poster.send(url_of(poster, claim), body, poster.signed("r-1", body) | headers)


async def test_two_hundred_means_durable(poster: Poster, claim: Claim, context: Context) -> None:
    assert await poster.post(url_of(poster, claim), "r-1", CAT) == {"verdict": "applied"}
    row = await making.outcome(context.db, claim.job_id)
    [report] = await making.reports(context.db, claim.job_id)
    assert row is not None
    assert (row["body"], row["source"], report["verdict"]) == (CAT, "webhook", "applied")
    assert set(json.loads(report["headers"])) == {"request_id", "user_id", "timestamp", "signature"}


async def test_news_again_and_other_news_are_answered_and_kept(poster: Poster, claim: Claim, context: Context) -> None:
    verdicts = [(await poster.post(url_of(poster, claim), "r-1", body))["verdict"] for body in (CAT, CAT, DOG)]
    assert verdicts == ["applied", "duplicate", "conflict"]
    row = await making.outcome(context.db, claim.job_id)
    assert row is not None
    assert row["body"] == CAT
    assert len(await making.reports(context.db, claim.job_id)) == 3


async def test_the_same_news_eight_times_at_once_is_applied_once(poster: Poster, claim: Claim) -> None:
    news = (poster.post(url_of(poster, claim), "r-1", CAT) for _ in range(8))
    verdicts = sorted(each["verdict"] for each in await asyncio.gather(*news))
    assert verdicts == ["applied"] + ["duplicate"] * 7


async def test_a_failure_is_kept_with_its_status_and_words(poster: Poster, claim: Claim, context: Context) -> None:
    detail = b'{"detail": [{"loc": ["body", "seed"], "msg": "too large", "type": "value_error"}]}'
    await poster.post(url_of(poster, claim), "r-1", detail, status="ERROR", error="Invalid status code: 422")
    row = await making.outcome(context.db, claim.job_id)
    assert row is not None
    assert (row["status"], row["http_status"], row["error"], row["body"]) == (
        "failed",
        422,
        "body.seed: too large",
        detail,
    )


ODD = {
    "NUL": b'{"output": "a\\u0000b"}',
    "three megabytes": b'{"output": "' + b"x" * 3_000_000 + b'"}',
    "odd white space": b'{ "output" :\n\t"A cat." }',
    "keys twice": b'{"output": "A dog.", "output": "A cat."}',
    "a long number": b'{"output": "", "seed": ' + b"9" * 300 + b"}",
    "depth": b'{"output": ' + b"[" * 400 + b"]" * 400 + b"}",
    "no object": b'"A cat."',
    "no UTF-8": b'{"output": "\xff"}',
    "unicode": '{"output": "Ωé😀\u202e"}'.encode(),
}


@pytest.mark.parametrize("name", ODD)
async def test_a_payload_comes_back_byte_for_byte(
    poster: Poster, claim: Claim, client: httpx.AsyncClient, name: str
) -> None:
    assert await poster.post(url_of(poster, claim), "r-1", ODD[name]) == {"verdict": "applied"}
    result = await client.get(f"/v1/jobs/{claim.job_id}/result")
    job = await client.get(f"/v1/jobs/{claim.job_id}")
    assert (result.status_code, result.content) == (200, ODD[name])
    assert (job.status_code, job.json()["status"]) == (200, "completed")


BROKEN = {
    "NaN": b'{"request_id": "r-1", "status": "OK", "payload": {"output": NaN}}',
    "no JSON": b"<html>",
    "no UTF-8": b'{"request_id": "r-1\xff", "status": "OK", "payload": {}}',
    "no UTF-8 in its status": b'{"request_id": "r-1", "status": "OK\xc3", "payload": {}}',
    "a list": b"[]",
    "no request ID": b'{"status": "OK", "payload": {}}',
    "an unknown word": envelope("r-1", CAT, status="FINISHED"),
    "endless depth": envelope("r-1", b"[" * 100_000),
    "a lone surrogate": envelope("r-1", b'{"output": "\\ud800"}'),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_news_that_cannot_be_read_is_kept_and_the_queue_is_asked(
    poster: Poster, claim: Claim, context: Context, name: str
) -> None:
    response = await send(poster, claim, BROKEN[name])
    row = await making.live(context.db, claim.job_id)
    [report] = await making.reports(context.db, claim.job_id)
    assert (response.status_code, response.json()) == (200, {"verdict": "unreadable"})
    assert report["body"] == BROKEN[name]
    assert row is not None
    assert (row["status"], row["is_due"]) == ("submitted", True)


@pytest.mark.parametrize("result", [b'{"output": "\\ud800"}', b'{"output": NaN}', b'{"output": 1e999}'])
async def test_what_strict_json_cannot_hold_comes_by_the_queue_byte_for_byte(
    poster: Poster, claim: Claim, context: Context, client: httpx.AsyncClient, provider: Provider, result: bytes
) -> None:
    provider.ended(Reply(200, result))
    await send(poster, claim, envelope("r-1", result))
    await making.make_due(context.db, claim.job_id)
    await watch(context)
    assert (await client.get(f"/v1/jobs/{claim.job_id}/result")).content == result
    assert (await client.get(f"/v1/jobs/{claim.job_id}")).json()["status"] == "completed"


@pytest.mark.parametrize("fields", [{}, {"status": "ERROR", "payload_error": "Not JSON"}])
async def test_news_without_a_payload_lets_the_queue_be_asked_now(
    poster: Poster, claim: Claim, context: Context, fields: dict[str, str]
) -> None:
    assert await poster.post(url_of(poster, claim), "r-1", b"null", **fields) == {"verdict": "incomplete"}
    row = await making.live(context.db, claim.job_id)
    assert row is not None
    assert (row["status"], row["is_due"]) == ("submitted", True)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"detail": [{"msg": "\\u0000", "type": "\\u0000"}]}',
        b'{"detail": "\\u0000", "error_type": "\\u0000"}',
        b'{"detail": [{"msg": ["a"], "type": null}]}',
    ],
)
async def test_a_failure_in_strange_words_ends_the_job(
    poster: Poster, claim: Claim, context: Context, payload: bytes
) -> None:
    verdict = await poster.post(url_of(poster, claim), "r-1", payload, status="ERROR", error="status code: 500")
    assert verdict == {"verdict": "applied"}
    assert await making.status(context.db, claim.job_id) == "failed"


async def test_a_strange_gateway_id_is_no_obstacle(poster: Poster, claim: Claim) -> None:
    news = poster.post(url_of(poster, claim), "r-1", CAT, gateway_request_id="g\0" * 5_000)
    assert (await news)["verdict"] == "applied"


# What is refused before anybody looks


async def test_a_compressed_body_is_refused(poster: Poster, claim: Claim) -> None:
    response = await send(poster, claim, envelope("r-1", CAT), **{"content-encoding": "gzip"})
    assert (response.status_code, response.json()["error_type"]) == (415, "bad_request")


async def test_a_body_that_is_too_large_is_refused(poster: Poster, claim: Claim, context: Context) -> None:
    body = b"x" * (LARGEST_WEBHOOK + 1)
    response = await send(poster, claim, body)
    assert (response.status_code, response.json()["error_type"]) == (413, "file_too_large")
    assert await making.reports(context.db, claim.job_id) == []


async def test_a_body_that_hides_its_size_is_refused_as_well(poster: Poster, claim: Claim) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(LARGEST_WEBHOOK // 2**20 + 2):
            yield b"x" * 2**20

    url = url_of(poster, claim)
    response = await poster.http.post(url, content=pieces(), headers=poster.signed("r-1", b""))
    assert response.status_code == 413


async def raw(poster: Poster, head: list[str], body: bytes) -> bytes:
    """What is answered to a request that no HTTP library would send."""
    where = urlsplit(str(poster.http.base_url))
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write("\r\n".join([*head, "Host: x", "Connection: close", "", ""]).encode() + body)
    writer.write_eof()
    said = await reader.read()
    writer.close()
    return said


@pytest.mark.parametrize("length", ["1", "-1", "1, 2", "x", "+5", "9" * 5_000, "99999999999"])
async def test_a_body_of_another_length_than_announced_changes_nothing(
    poster: Poster, claim: Claim, context: Context, length: str
) -> None:
    body = envelope("r-1", CAT)
    head = [f"POST {url_of(poster, claim)} HTTP/1.1", f"Content-Length: {length}"]
    head += [f"{name}: {value}" for name, value in poster.signed("r-1", body).items()]
    said = await raw(poster, head, body)
    assert not said.startswith((b"HTTP/1.1 2", b"HTTP/1.1 5"))
    assert await making.status(context.db, claim.job_id) == "submitted"
    assert await making.reports(context.db, claim.job_id) == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_a_post_is_a_webhook(poster: Poster, claim: Claim, method: str) -> None:
    response = await poster.http.request(method, url_of(poster, claim))
    assert (response.status_code, set(response.json())) == (405, {"detail", "error_type", "message"})


# What we need is away


async def test_without_keys_nothing_is_promised(settings: Settings, poster: Poster, claim: Claim) -> None:
    away = settings.model_copy(update={"fal_jwks_url": "http://127.0.0.1:1/jwks.json"})
    async with serving(create_app(away)) as url:
        body = envelope("r-1", CAT)
        response = await poster.send(url + url_of(poster, claim), body, poster.signed("r-1", body))
    assert (response.status_code, response.json()["error_type"]) == (503, "unavailable")
    assert response.headers["retry-after"]


async def test_while_the_database_is_away_nothing_is_promised(
    settings: Settings, poster: Poster, claim: Claim, context: Context, folder: Path
) -> None:
    wire = Wire(settings.require_database_url(), folder)
    await wire.mend()
    async with serving(create_app(settings.model_copy(update={"database_url": wire.database_url}))) as url:
        url, body = url + url_of(poster, claim), envelope("r-1", CAT)
        await wire.cut()
        assert (await poster.send(url, body, poster.signed("r-1", body))).status_code == 503
        assert await making.status(context.db, claim.job_id) == "submitted"
        await wire.mend()
        assert (await poster.send(url, body, poster.signed("r-1", body))).json() == {"verdict": "applied"}
        await wire.cut()


async def test_a_webhook_says_what_became_of_a_job_that_was_closed(
    poster: Poster, claim: Claim, context: Context
) -> None:
    await endings.close(context.db, claim.job_id, making.failed(), even_if_submitted=True)
    assert await poster.post(url_of(poster, claim), "r-1", CAT) == {"verdict": "late"}
