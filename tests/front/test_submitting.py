"""A submission through the door: what is answered, what is kept, what goes on to the provider."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.context import Context
from service.db import Database
from service.jobs import due, pauses
from service.jobs.submitting import Submitter
from service.jobs.watching import watch
from tests import making
from tests.front.asking import LLAVA, QUEUE, SA2VA, is_problem, of, submit
from tests.provider import reply, says


async def test_the_receipt_is_fals(client: httpx.AsyncClient, api: str) -> None:
    response = await client.post(f"{QUEUE}/{SA2VA}", json=making.PROMPT)
    receipt = response.json()
    request_id = receipt.pop("request_id")
    assert response.status_code == 200
    assert response.headers["x-fal-request-id"] == request_id
    assert receipt == {
        "status": "IN_QUEUE",
        "gateway_request_id": request_id,
        "queue_position": 0,
        "response_url": f"{api}/fal/queue/fal-ai/sa2va/requests/{request_id}",
        "status_url": f"{api}/fal/queue/fal-ai/sa2va/requests/{request_id}/status",
        "cancel_url": f"{api}/fal/queue/fal-ai/sa2va/requests/{request_id}/cancel",
    }


async def test_it_is_a_job_as_any_other(client: httpx.AsyncClient) -> None:
    request_id = (await submit(client))["request_id"]
    job = (await client.get(f"/v1/jobs/{request_id}")).json()
    assert (job["model"], job["input"], job["status"]) == (LLAVA, making.PROMPT, "queued")


async def test_the_input_goes_on_to_the_letter(client: httpx.AsyncClient, db: Database) -> None:
    body = b'{ "prompt":"\\u00e9", "image_url": "https://example.com/a.png", "temperature": 0.10 }'
    request_id = (await submit(client, json=None, content=body))["request_id"]
    row = await db.fetchrow("SELECT body FROM inputs WHERE job_id = $1", request_id)
    assert row is not None
    assert row["body"].encode() == body


@pytest.mark.parametrize("end", ["", "/"])
async def test_a_slash_at_the_end_changes_nothing(client: httpx.AsyncClient, end: str) -> None:
    assert (await client.post(f"{QUEUE}/{SA2VA}{end}", json=making.PROMPT)).status_code == 200


async def test_no_body_is_an_empty_input(client: httpx.AsyncClient) -> None:
    response = await client.post(f"{QUEUE}/{LLAVA}", headers={"content-type": "application/json"})
    assert is_problem(response, 422)
    assert {"loc": ["body", "prompt"], "msg": "Field required", "type": "missing"} in response.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[]", 422), (b'"x"', 422), (b'{"a": "\\u0000"}', 422), (b"\xff", 400)]
)
async def test_what_is_no_input_is_refused(client: httpx.AsyncClient, db: Database, body: bytes, status: int) -> None:
    assert is_problem(await client.post(f"{QUEUE}/{LLAVA}", content=body), status)
    assert await making.count(db, "jobs") == 0


@pytest.mark.parametrize("model", ["no/such", "fal-ai", "fal-ai/llava-next/more", "a/requests/b", "%00/%ff"])
async def test_an_unknown_model_is_nothing(client: httpx.AsyncClient, model: str) -> None:
    assert is_problem(await client.post(f"{QUEUE}/{model}", json=making.PROMPT), 404)


async def test_a_webhook_is_kept_with_its_format(client: httpx.AsyncClient, db: Database) -> None:
    url = "https://hooks.example/done?a=1&b=%20"
    request_id = (await submit(client, params={"fal_webhook": url}))["request_id"]
    plain_id = (await submit(client))["request_id"]
    told = await db.fetchrow("SELECT webhook_url, callback_format FROM jobs WHERE id = $1", request_id)
    plain = await db.fetchrow("SELECT webhook_url, callback_format FROM jobs WHERE id = $1", plain_id)
    assert tuple(told or ()) == (url, "fal")
    assert tuple(plain or ()) == (None, None)


@pytest.mark.parametrize(
    "url", ["", "ftp://a.example", "http://127.0.0.1/x", "http://[::1]", "x", "http://a\0b", "é" * 9]
)
async def test_a_webhook_that_could_never_be_called_is_refused(client: httpx.AsyncClient, url: str) -> None:
    response = await client.post(f"{QUEUE}/{LLAVA}", json=making.PROMPT, params={"fal_webhook": url})
    assert is_problem(response, 422)
    assert response.json()["detail"][0]["loc"] == ["query", "fal_webhook"]


async def kept(client: httpx.AsyncClient, headers: dict[str, str]) -> dict[str, Any]:
    request_id = (await submit(client, headers=headers))["request_id"]
    return dict((await client.get(f"/v1/jobs/{request_id}")).json())


async def test_priority_and_tags_are_the_jobs(client: httpx.AsyncClient) -> None:
    tags = "team=a, no pair, fal.own=1, Upper=1, ok=two words"
    job = await kept(client, {"X-Fal-Queue-Priority": "Low", "X-Fal-Tags": tags})
    assert (job["priority"], job["tags"]) == ("low", ["team=a", "ok=two words"])


async def test_hints_go_on_to_the_provider(client: httpx.AsyncClient, context: Context, provider: Any) -> None:
    lifecycle = json.dumps({"expiration_duration_seconds": 60})
    hints = {
        "X-Fal-Runner-Hint": "session-7",
        "X-Fal-Object-Lifecycle-Preference": lifecycle,
        "X-Fal-Store-IO": "0",
        "X-Fal-No-Retry": "1",
        "X-Fal-Request-Timeout": "120",
        "X-Fal-Request-Start-Timeout": "60.0",
        "X-Fal-Anything": "stays here",
    }
    await submit(client, headers=hints)
    await Submitter(context).drain()
    [call] = provider.submissions
    assert call.headers["x-fal-runner-hint"] == "session-7"
    assert call.headers["x-fal-object-lifecycle-preference"] == lifecycle
    assert (call.headers["x-fal-store-io"], call.headers["x-fal-no-retry"]) == ("0", "1")
    assert 50 < float(call.headers["x-fal-request-timeout"]) < 60
    assert "x-fal-anything" not in call.headers
    assert call.headers["authorization"] == "Key our-id:our-secret"


async def test_a_job_that_may_no_longer_start_is_not_submitted(
    client: httpx.AsyncClient, context: Context, provider: Any
) -> None:
    request_id = (await submit(client, headers={"X-Fal-Request-Timeout": "30"}))["request_id"]
    await context.db.execute("UPDATE jobs SET created_at = created_at - interval '31 s' WHERE id = $1", request_id)
    await Submitter(context).drain()
    result = await client.get(of(request_id))
    assert provider.submissions == []
    assert is_problem(result, 504)
    assert result.headers["x-fal-request-timeout-type"] == "user"
    assert result.headers["x-fal-error-type"] == "request_timeout"


async def pause(context: Context, provider: Any) -> None:
    await pauses.pause(context.db, "fal", "Exhausted balance.", 403)
    await context.db.execute("UPDATE provider_pauses SET probe_at = NULL")


async def refuse(context: Context, provider: Any) -> None:
    provider.submit = says(reply({}, 429, retry_after="3000"))
    await Submitter(context).drain()


async def leave_it(context: Context, provider: Any) -> None:
    """No worker is there."""


@pytest.mark.parametrize("hold_up", [pause, refuse, leave_it])
async def test_the_time_to_start_passes_while_a_job_waits_here_too(
    client: httpx.AsyncClient, context: Context, provider: Any, hold_up: Any
) -> None:
    request_id = (await submit(client, headers={"X-Fal-Request-Timeout": "30"}))["request_id"]
    without = (await submit(client))["request_id"]
    await hold_up(context, provider)
    asked = len(provider.submissions)
    assert not (await due.anything_due(context.db))["watch"]
    await context.db.execute("UPDATE live_jobs SET start_by = start_by - interval '31 s'")
    assert (await due.anything_due(context.db))["watch"]
    await watch(context)
    assert is_problem(result := await client.get(of(request_id)), 504)
    assert result.headers["x-fal-request-timeout-type"] == "user"
    assert result.headers["x-fal-error-type"] == "request_timeout"
    assert (await client.get(f"{of(without)}/status")).status_code == 202
    assert len(provider.submissions) == asked


async def test_a_repetition_has_its_own_time_to_start(client: httpx.AsyncClient, context: Context) -> None:
    request_id = (await submit(client, headers={"X-Fal-Request-Timeout": "30"}))["request_id"]
    await context.db.execute("UPDATE live_jobs SET start_by = start_by - interval '31 s'")
    await watch(context)
    again = (await client.post(f"/v1/jobs/{request_id}/retry")).json()["request_id"]
    row = await making.live(context.db, again)
    assert row is not None
    assert (row["start_by"] - datetime.now(UTC)).total_seconds() > 20


async def test_what_its_provider_has_in_time_is_not_ended_by_that(
    client: httpx.AsyncClient, context: Context, provider: Any
) -> None:
    request_id = (await submit(client, headers={"X-Fal-Request-Timeout": "30"}))["request_id"]
    await Submitter(context).drain()
    await context.db.execute("UPDATE live_jobs SET start_by = start_by - interval '31 s'")
    await watch(context)
    assert (await client.get(f"{of(request_id)}/status")).status_code == 202


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-fal-queue-priority", "urgent"),
        ("x-fal-request-timeout", "soon"),
        ("x-fal-request-timeout", "-1"),
        ("x-fal-request-start-timeout", "nan"),
        ("x-fal-request-start-timeout", "1e999"),
        ("x-fal-runner-hint", "h" * 5_000),
        ("x-fal-runner-hint", "\xe9"),
        ("idempotency-key", ""),
        ("x-fal-idempotency-key", "k" * 256),
    ],
)
async def test_a_header_that_means_nothing_is_refused(client: httpx.AsyncClient, name: str, value: str) -> None:
    headers = {name: value.encode("latin-1")}
    response = await client.post(f"{QUEUE}/{LLAVA}", json=making.PROMPT, headers=headers)
    assert is_problem(response, 422)
    assert response.json()["detail"][0]["loc"] == ["header", name]


async def test_a_queue_may_be_too_long_for_a_client(client: httpx.AsyncClient, db: Database) -> None:
    for _ in range(2):
        await submit(client, params={"fal_max_queue_length": "1"})
    response = await client.post(f"{QUEUE}/{LLAVA}?fal_max_queue_length=1", json=making.PROMPT)
    assert is_problem(response, 429)
    await submit(client, "fal-ai/mini-cpm", json={"image_urls": [making.PROMPT["image_url"]], "prompt": "?"})
    assert await making.count(db, "jobs") == 3


@pytest.mark.parametrize("text", ["", "-1", "x", "1.5", "9" * 30, "\u0661"])
async def test_a_length_is_a_number(client: httpx.AsyncClient, text: str) -> None:
    response = await client.post(f"{QUEUE}/{LLAVA}", json=making.PROMPT, params={"fal_max_queue_length": text})
    assert is_problem(response, 422)


@pytest.mark.parametrize("name", ["Idempotency-Key", "X-Fal-Idempotency-Key"])
async def test_the_same_key_is_the_same_request(client: httpx.AsyncClient, db: Database, name: str) -> None:
    ids = {(await submit(client, headers={name: "order-1"}))["request_id"] for _ in range(3)}
    other = await client.post(f"{QUEUE}/{LLAVA}", json={**making.PROMPT, "prompt": "?"}, headers={name: "order-1"})
    assert len(ids) == await making.count(db, "jobs") == 1
    assert is_problem(other, 422)


async def test_who_may_only_read_submits_nothing(make_client: Any, nobody: httpx.AsyncClient, db: Database) -> None:
    reader = await make_client(scopes=("read",))
    assert is_problem(await reader.post(f"{QUEUE}/{LLAVA}", json=making.PROMPT), 403)
    assert is_problem(await nobody.post(f"{QUEUE}/{LLAVA}", json=making.PROMPT), 401)
    assert await making.count(db, "jobs") == 0


async def test_a_repeated_call_is_told_where_its_request_stands(client: httpx.AsyncClient, db: Database) -> None:
    key = {"idempotency-key": "once"}
    first = await submit(client, headers=key)
    assert await submit(client, headers=key) == first
    [claim] = await making.claim_all(db)
    await making.settle(db, claim)
    again = await submit(client, headers=key)
    assert (again["status"], again["request_id"]) == ("COMPLETED", first["request_id"])
    assert "queue_position" not in again


@pytest.mark.parametrize("joining", [False, True])
async def test_a_repeated_call_is_not_refused_for_the_length_of_the_queue(
    client: httpx.AsyncClient, db: Database, tenant: UUID, joining: bool
) -> None:
    await db.execute("UPDATE tenants SET join_seconds = 60 WHERE $1", joining)
    asked = {"params": {"fal_max_queue_length": "0"}, "headers": {} if joining else {"idempotency-key": "once"}}
    first, again = await submit(client, **asked), await submit(client, **asked)
    assert first["request_id"] == again["request_id"]
    other = {**asked, "json": {**making.PROMPT, "prompt": "Another."}, "headers": {}}
    assert is_problem(await client.post(f"{QUEUE}/{LLAVA}", **other), 429)


async def test_tags_may_be_as_long_as_fals_and_bad_ones_are_dropped(
    client: httpx.AsyncClient, context: Context, provider: Any
) -> None:
    longest, longer = f"k={'v' * 256}", f"l={'v' * 257}"
    job = await kept(client, {"X-Fal-Tags": f"{longest},{longer}"})
    assert job["tags"] == [longest]
    job = await kept(client, {"X-Fal-Tags": "a=b,c=\xe9".encode("latin-1")})
    assert job["tags"] == ["a=b"]
    await Submitter(context).drain()
    assert {call.headers["x-fal-tags"] for call in provider.submissions} == {f"{longest},{longer}", "a=b"}
