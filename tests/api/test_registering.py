"""POST /v1/jobs, one and many: what is taken is durable, what is refused leaves nothing."""

import asyncio
import base64
import json
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.db import Database
from service.jobs import store
from service.jobs.cursors import moment_of
from tests import making
from tests.api.asking import JOB, asked, is_problem, places, register
from tests.conftest import MakeClient


async def test_a_job_is_answered_with_itself(client: httpx.AsyncClient, db: Database) -> None:
    response = await client.post("/v1/jobs", json=asked(tags=["a"], metadata={"user": 7}, priority="low"))
    job = response.json()
    assert response.status_code == 202
    assert response.headers["x-fal-request-id"] == job["request_id"]
    assert (job["status"], job["model"], job["input"], job["output"]) == ("queued", JOB["model"], JOB["input"], None)
    assert (job["tags"], job["metadata"], job["priority"], job["provider"]) == (["a"], {"user": 7}, "low", "fal")
    assert await making.status(db, UUID(job["request_id"])) == "queued"


async def test_the_input_is_sent_on_as_the_client_wrote_it(client: httpx.AsyncClient, db: Database) -> None:
    text = (
        '{ "prompt":"\\u00e9 \\ud83d\\ude00", "image_url" : "https://example.com/a.png", "x": 1.0e2, "y": 1'
        + "0" * 30
        + "}"
    )
    body = f'{{"model": "fal-ai/llava-next", "input": {text}}}'
    job = (await client.post("/v1/jobs", content=body)).json()
    row = await db.fetchrow("SELECT body FROM inputs WHERE job_id = $1", UUID(job["request_id"]))
    assert row is not None
    assert row["body"] == text


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"input": {"prompt": "x"}}, ["body", "input", "image_url"]),
        ({"input": {"image_url": "https://a.example/x", "prompt": 7}}, ["body", "input", "prompt"]),
        ({"input": {"image_url": "ftp://a.example/x", "prompt": "x"}}, ["body", "input", "image_url"]),
        ({"input": []}, ["body", "input"]),
        ({"input": None}, ["body", "input"]),
        ({"model": 7}, ["body", "model"]),
        ({"model": ""}, ["body", "model"]),
        ({"model": "x" * 201}, ["body", "model"]),
        ({"priority": "high"}, ["body", "priority"]),
        ({"provider": "aws"}, ["body", "provider"]),
        ({"deadline_seconds": 0}, ["body", "deadline_seconds"]),
        ({"deadline_seconds": -1}, ["body", "deadline_seconds"]),
        ({"deadline_seconds": 10**9}, ["body", "deadline_seconds"]),
        ({"deadline_seconds": "60"}, ["body", "deadline_seconds"]),
        ({"metadata": []}, ["body", "metadata"]),
        ({"metadata": {"a": "x" * 20_000}}, ["body", "metadata"]),
        ({"metadata": {str(n): n for n in range(65)}}, ["body", "metadata"]),
        ({"tags": "a"}, ["body", "tags"]),
        ({"tags": [""]}, ["body", "tags", 0]),
        ({"tags": ["ok", "x" * 129]}, ["body", "tags", 1]),
        ({"tags": ["ok\0"]}, ["body", "tags", 0]),
        ({"tags": [str(n) for n in range(65)]}, ["body", "tags"]),
        ({"webhook_url": "javascript:alert(1)"}, ["body", "webhook_url"]),
        ({"webhook_url": "http://127.0.0.1/"}, ["body", "webhook_url"]),
        ({"webhook_url": "http://[::1]/"}, ["body", "webhook_url"]),
        ({"webhook_url": "http://169.254.169.254/latest"}, ["body", "webhook_url"]),
        ({"webhook_url": "https://a:b@example.com/"}, ["body", "webhook_url"]),
        ({"webhook_url": "https://example.com/" + "x" * 2_048}, ["body", "webhook_url"]),
        ({"webhook_url": 7}, ["body", "webhook_url"]),
        ({"unheard": 1}, ["body", "unheard"]),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
async def test_what_does_not_fit_is_told_where(
    client: httpx.AsyncClient, db: Database, change: dict[str, Any], place: list[str | int]
) -> None:
    assert place in places(await client.post("/v1/jobs", json=asked(**change)))
    assert await making.count(db, "jobs") == 0


async def test_a_bound_of_a_text_is_told_in_characters(client: httpx.AsyncClient) -> None:
    change = {"model": "x" * 201, "tags": ["x" * 129], "webhook_url": "https://example.com/" + "x" * 2_048}
    told = (await client.post("/v1/jobs", json=asked(**change))).json()["detail"]
    assert [each["msg"].rpartition("at most ")[2] for each in told] == [
        f"{n} characters" for n in (201 - 1, 2_048, 128)
    ]


@pytest.mark.parametrize("missing", ["model", "input"])
async def test_a_missing_field_is_named(client: httpx.AsyncClient, missing: str) -> None:
    body = {name: value for name, value in JOB.items() if name != missing}
    assert places(await client.post("/v1/jobs", json=body)) == [["body", missing]]


@pytest.mark.parametrize("model", ["fal-ai/none", "none", "../../etc/passwd", "<script>", "\u202e"])
async def test_an_unknown_model_is_not_found(client: httpx.AsyncClient, db: Database, model: str) -> None:
    assert is_problem(await client.post("/v1/jobs", json=asked(model=model)), 404)
    assert await making.count(db, "jobs") == 0


@pytest.mark.parametrize("provider", ["auto", "fal"])
async def test_a_provider_may_be_named_or_left_to_us(client: httpx.AsyncClient, provider: str) -> None:
    assert (await register(client, provider=provider))["provider"] == "fal"


# Idempotency


async def test_the_same_key_and_body_give_the_same_job(client: httpx.AsyncClient, db: Database) -> None:
    headers = {"idempotency-key": "k"}
    first = await client.post("/v1/jobs", json=JOB, headers=headers)
    again = await client.post("/v1/jobs", json=JOB, headers=headers)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["request_id"] == again.json()["request_id"]
    assert await making.count(db, "jobs") == 1


async def test_ten_at_once_under_one_key_are_one_job(client: httpx.AsyncClient, db: Database) -> None:
    posts = (client.post("/v1/jobs", json=JOB, headers={"idempotency-key": "k"}) for _ in range(10))
    answers = await asyncio.gather(*posts)
    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [202]
    assert len({answer.json()["request_id"] for answer in answers}) == await making.count(db, "jobs") == 1


async def test_the_same_key_with_another_body_is_refused(client: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "k"}
    await client.post("/v1/jobs", json=JOB, headers=headers)
    response = await client.post("/v1/jobs", json=asked(priority="low"), headers=headers)
    assert is_problem(response, 422)
    assert response.json()["error_type"] == "idempotency_mismatch"


async def test_a_key_counts_for_its_tenant_alone(client: httpx.AsyncClient, stranger: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "k"}
    answers = [await each.post("/v1/jobs", json=JOB, headers=headers) for each in (client, stranger)]
    assert [answer.status_code for answer in answers] == [202, 202]


async def test_a_refused_request_uses_no_key(client: httpx.AsyncClient, db: Database) -> None:
    headers = {"idempotency-key": "k"}
    await client.post("/v1/jobs", json=asked(input={}), headers=headers)
    assert await making.count(db, "idempotency_keys") == 0
    assert (await client.post("/v1/jobs", json=JOB, headers=headers)).status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", b"\x80"])
async def test_a_key_has_a_form(client: httpx.AsyncClient, key: str | bytes) -> None:
    response = await client.post("/v1/jobs", json=JOB, headers={"idempotency-key": key})
    assert places(response) == [["header", "idempotency-key"]]


async def test_the_longest_key_is_a_key(client: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "x" * 255}
    for status in (202, 200):
        assert (await client.post("/v1/jobs", json=JOB, headers=headers)).status_code == status
        assert (await client.post("/v1/jobs/batch", json={"jobs": [JOB]}, headers=headers)).status_code == 202


# Many


async def test_each_job_of_a_batch_is_answered_in_its_place(client: httpx.AsyncClient, db: Database) -> None:
    jobs = [JOB, asked(input={}), asked(model="fal-ai/none"), asked(tags=["last"])]
    response = await client.post("/v1/jobs/batch", json={"jobs": jobs})
    entries = response.json()["jobs"]
    assert (response.status_code, [entry["status"] for entry in entries]) == (202, [202, 422, 404, 202])
    assert entries[1]["error"]["detail"][0]["loc"][:4] == ["body", "jobs", 1, "input"]
    assert entries[3]["job"]["tags"] == ["last"]
    assert await making.count(db, "jobs") == 2


async def test_a_batch_under_a_key_is_registered_once(client: httpx.AsyncClient, db: Database) -> None:
    body = {"jobs": [JOB, asked(priority="low"), asked(input={})]}
    answers = [await client.post("/v1/jobs/batch", json=body, headers={"idempotency-key": "k"}) for _ in range(2)]
    statuses = [[entry["status"] for entry in answer.json()["jobs"]] for answer in answers]
    assert statuses == [[202, 202, 422], [200, 200, 422]]
    assert await making.count(db, "jobs") == 2


@pytest.mark.parametrize(
    "body", [{}, [], {"jobs": []}, {"jobs": {}}, {"jobs": None}, {"jobs": [JOB] * 1_001}, {"jobs": [JOB], "x": 1}]
)
async def test_what_is_no_batch_is_refused(client: httpx.AsyncClient, db: Database, body: object) -> None:
    assert places(await client.post("/v1/jobs/batch", json=body))
    assert await making.count(db, "jobs") == 0


@pytest.mark.parametrize("entry", [None, 7, "x", [], {}, {"model": "\0"}, {"input": {}}])
async def test_a_strange_entry_spoils_no_other(client: httpx.AsyncClient, entry: object) -> None:
    response = await client.post("/v1/jobs/batch", json={"jobs": [JOB, entry, JOB]})
    assert [each["status"] for each in response.json()["jobs"]] == [202, 422, 202]


# Again


@pytest.mark.parametrize("ending", [making.failed(), making.Ending(making.Event.CANCELLED, 499, b"{}", "Stop.", "x")])
async def test_a_failed_or_cancelled_job_is_repeated_once(
    client: httpx.AsyncClient, db: Database, tenant: UUID, ending: making.Ending
) -> None:
    old = await making.ended(db, tenant, ending, tags=["t"], metadata='{"k": 1}', priority="low")
    first = await client.post(f"/v1/jobs/{old.job_id}/retry")
    again = await client.post(f"/v1/jobs/{old.job_id}/retry")
    job, before = first.json(), (await client.get(f"/v1/jobs/{old.job_id}")).json()
    assert (first.status_code, again.status_code) == (202, 200)
    assert job["request_id"] == again.json()["request_id"] == before["retried_as"]
    assert (job["status"], job["retry_of"], before["status"]) == ("queued", str(old.job_id), ending.event.value)
    assert all(job[name] == before[name] for name in ("model", "input", "tags", "metadata", "priority"))


@pytest.mark.parametrize("state", [making.queued, making.submitted, making.ended])
async def test_no_other_job_is_repeated(client: httpx.AsyncClient, db: Database, tenant: UUID, state: Any) -> None:
    made = await state(db, tenant)
    response = await client.post(f"/v1/jobs/{made if isinstance(made, UUID) else made.job_id}/retry")
    assert is_problem(response, 409)
    assert await making.count(db, "jobs") == 1


async def test_a_job_is_cancelled_and_shows_it(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    queued = await making.queued(db, tenant)
    response = await client.post(f"/v1/jobs/{queued}/cancel")
    assert (response.status_code, response.json()["status"]) == (202, "cancelled")
    assert response.json()["error"]["status"] == 499
    again = await client.post(f"/v1/jobs/{queued}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")


async def test_a_cancel_of_a_submitted_job_is_asked_for(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant)
    response = await client.post(f"/v1/jobs/{claim.job_id}/cancel")
    assert (response.status_code, response.json()["status"]) == (202, "submitted")
    assert response.json()["cancel_requested_at"]


async def test_a_cancel_of_a_refused_job_ends_it(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.refused(claim, delay=3600.0)])
    assert (await client.post(f"/v1/jobs/{claim.job_id}/cancel")).json()["status"] == "cancelled"


async def test_a_submit_key_registers_and_sees_its_answer(make_client: MakeClient) -> None:
    submitter = await make_client(scopes=("submit",))
    assert (await register(submitter))["status"] == "queued"


async def test_an_address_that_nobody_ever_may_name_is_refused_in_words_that_lead_nowhere(
    client: httpx.AsyncClient,
) -> None:
    refused = await client.post("/v1/jobs", json={**JOB, "webhook_url": "http://169.254.169.254/latest"})
    assert "link-local" in refused.json()["message"]
    assert "ROUNDTRIP_ALLOW" not in refused.text
    private = await client.post("/v1/jobs", json={**JOB, "webhook_url": "http://10.0.0.1/"})
    assert "ROUNDTRIP_ALLOW_PRIVATE_NETWORKS" in private.json()["message"]


async def test_a_jobs_id_has_the_time_after_its_files_were_kept(client: httpx.AsyncClient, db: Database) -> None:
    uri = "data:application/octet-stream;base64," + base64.b64encode(bytes(2**20)).decode()
    job = await register(client, input={"image_url": uri, "prompt": "What is this?"})
    row = await db.fetchrow("SELECT created_at, (SELECT id FROM jobs) AS id FROM blobs")
    assert row is not None
    assert job["request_id"] == str(row["id"])
    assert job["request_id"] in job["links"]["self"]
    kept = row["created_at"]
    assert moment_of(row["id"]) >= kept.replace(microsecond=kept.microsecond // 1000 * 1000)
