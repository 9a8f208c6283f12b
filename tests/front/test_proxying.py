"""The server-side proxy: fal's own addresses, answered here and nowhere else."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from service.db import Database
from tests import making
from tests.front.asking import LLAVA, is_problem, of

PROXY = "/fal/proxy"


def to(target: str, **more: str) -> dict[str, Any]:
    return {"headers": {"x-fal-target-url": target, **more}}


@pytest.mark.parametrize("host", ["queue.fal.run", "QUEUE.fal.run", "queue.falrun.com", "queue.fal.run:443"])
async def test_a_submission_to_fal_is_ours(client: httpx.AsyncClient, host: str) -> None:
    target = f"https://{host}/{LLAVA}?fal_webhook=https%3A%2F%2Fa.example%2F%3Fb%3D1"
    response = await client.post(PROXY, json=making.PROMPT, **to(target))
    assert response.status_code == 200
    job = (await client.get(f"/v1/jobs/{response.json()['request_id']}")).json()
    assert (job["model"], job["webhook_url"]) == (LLAVA, "https://a.example/?b=1")


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_requests_addresses_are_ours_too(
    client: httpx.AsyncClient, db: Database, tenant: UUID, method: str
) -> None:
    job_id = await making.queued(db, tenant)
    ending = {"GET": "status?logs=1", "PUT": "cancel"}[method]
    target = f"https://queue.fal.run/{LLAVA}/requests/{job_id}/{ending}"
    response = await client.request(method, PROXY, **to(target))
    assert response.status_code == {"GET": 202, "PUT": 200}[method]
    assert response.headers["x-fal-request-id"] == str(job_id)


@pytest.mark.parametrize("host", ["rest.fal.ai", "rest.alpha.fal.ai"])
async def test_storage_is_ours(client: httpx.AsyncClient, api: str, host: str) -> None:
    target = f"https://{host}/storage/upload/initiate?storage_type=fal-cdn-v3"
    response = await client.post(PROXY, json={"file_name": "a", "content_type": "text/plain"}, **to(target))
    assert response.json()["upload_url"].startswith(f"{api}/fal/cdn/")


async def test_a_failure_is_told_as_it_is(client: httpx.AsyncClient, nobody: httpx.AsyncClient, db: Database) -> None:
    absent = "00000000-0000-7000-8000-000000000000"
    target = f"https://queue.fal.run/{LLAVA}/requests/{absent}/status"
    assert is_problem(await client.get(PROXY, **to(target)), 404, status="NOT_FOUND")
    assert (await client.get(PROXY, **to(target))).content == (await client.get(f"{of(absent)}/status")).content
    assert is_problem(await nobody.get(PROXY, **to(target)), 401)


async def test_a_key_of_the_callers_goes_along(client: httpx.AsyncClient, db: Database) -> None:
    call = to(f"https://queue.fal.run/{LLAVA}", **{"idempotency-key": "once"})
    for _ in range(2):
        assert (await client.post(PROXY, json=making.PROMPT, **call)).status_code == 200
    assert await making.count(db, "jobs") == 1


ELSEWHERE = [
    "",
    "x",
    "//queue.fal.run/a/b",
    "https://example.com/",
    "https://queue.fal.run.example.com/a/b",
    "https://example.com/queue.fal.run",
    "https://user@queue.fal.run/a/b",
    "https://queue.fal.run@example.com/",
    "https://queue.fal.run:8443/a/b",
    "http://queue.fal.run:443/a/b",
    "https://queue.fal.run:x/a/b",
    "https://queue.fal.run./a/b",
    "ftp://queue.fal.run/a/b",
    "file:///etc/passwd",
    "https://api.fal.ai/v1/models",
    "https://127.0.0.1:8000/v1/jobs",
    "http://169.254.169.254/latest/meta-data",
    "https://queue.fal.run\\@example.com/",
    "https://[::1]/a/b",
    "https://[/a",
    "https://queue.fal.run/" + "x" * 9_000,
]


@pytest.mark.parametrize("target", ELSEWHERE)
async def test_nothing_else_is_reached(client: httpx.AsyncClient, target: str) -> None:
    assert is_problem(await client.get(PROXY, **to(target)), 400)
    assert is_problem(await client.post(PROXY, json={}, **to(target)), 400)


async def test_without_a_target_there_is_nothing(client: httpx.AsyncClient) -> None:
    assert is_problem(await client.get(PROXY), 400)


@pytest.mark.parametrize(
    "target",
    [
        "https://queue.fal.run/../../v1/jobs",
        "https://queue.fal.run/%2e%2e/%2e%2e/v1/jobs",
        "https://rest.fal.ai/v1/jobs",
        "https://fal.run",
        "https://v3.fal.media/files/b/x/y.png",
    ],
)
async def test_only_the_door_itself_is_behind_it(client: httpx.AsyncClient, target: str) -> None:
    response = await client.get(PROXY, **to(target))
    assert response.status_code in {404, 405}
    assert "jobs" not in response.json()
