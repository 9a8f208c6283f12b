"""A job and its parts, as clients read them."""

import json
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.api import openapi
from service.artifacts.links import FileLinks
from service.artifacts.results import SMALL_BODY
from service.catalog.base import Lifted, LiftedFile
from service.context import Context
from service.db import Database
from service.jobs import endings, store
from service.jobs.lifecycle import LIVE, Status
from tests import making
from tests.api.asking import in_every_status, is_problem, picture, store_copy, with_files


async def job_of(client: httpx.AsyncClient, request_id: object) -> dict[str, Any]:
    response = await client.get(f"/v1/jobs/{request_id}")
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_a_job_is_found_under_each_of_its_names(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.accepted(claim, "theirs-1", gateway_request_id="gateway-1")])
    for name in (claim.job_id, str(claim.job_id).upper(), "theirs-1", "gateway-1"):
        response = await client.get(f"/v1/jobs/{name}")
        assert response.json()["request_id"] == response.headers["x-fal-request-id"] == str(claim.job_id)


@pytest.mark.parametrize("name", ["{{{}}}", "urn:uuid:{}", "{}x", " {}", "0{}"])
async def test_a_job_has_no_other_names(client: httpx.AsyncClient, db: Database, tenant: UUID, name: str) -> None:
    job_id = await making.queued(db, tenant)
    assert is_problem(await client.get(f"/v1/jobs/{name.format(job_id)}"), 404)


async def test_a_name_without_hyphens_is_not_ours(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    assert is_problem(await client.get(f"/v1/jobs/{(await making.queued(db, tenant)).hex}"), 404)


async def test_every_status_has_the_times_that_belong_to_it(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    for status, job_id in (await in_every_status(context, tenant)).items():
        job = await job_of(client, job_id)
        assert job["status"] == status
        assert bool(job["completed_at"]) is (Status(status) not in LIVE)
        assert bool(job["submitted_at"]) is (status not in {"queued", "cancelled"})
        assert (job["error"] is None) is (status not in {"failed", "cancelled"})
        assert all(value is None or value >= 0 for name, value in job["timings"].items() if name != "model")
        assert datetime.fromisoformat(job["created_at"]).utcoffset().total_seconds() == 0  # type: ignore[union-attr]


async def test_a_result_is_pending_until_the_end(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    for status, job_id in (await in_every_status(context, tenant)).items():
        response = await client.get(f"/v1/jobs/{job_id}/result")
        if Status(status) in LIVE:
            assert is_problem(response, 400)
            assert response.json()["detail"] == "Request is still in progress."
        assert response.status_code == (400 if Status(status) in LIVE else response.status_code)
        assert response.headers["x-fal-request-id"] == str(job_id)


@pytest.mark.parametrize("status", [400, 404, 413, 422, 499, 500, 502, 504])
async def test_a_failed_jobs_result_has_its_own_status_and_body(
    client: httpx.AsyncClient, db: Database, tenant: UUID, status: int
) -> None:
    claim = await making.ended(db, tenant, making.failed("It broke.", status))
    response = await client.get(f"/v1/jobs/{claim.job_id}/result")
    job = await job_of(client, claim.job_id)
    assert (response.status_code, response.content) == (status, b'{"detail": "It broke."}')
    assert response.headers["x-fal-error-type"] == "model_error"
    assert job["error"] == {"message": "It broke.", "type": "model_error", "status": status}
    assert job["output"] is None


async def test_files_point_at_their_stored_copies(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    job_id = await with_files(context, tenant)
    job = await job_of(client, job_id)
    result = (await client.get(f"/v1/jobs/{job_id}/result")).json()
    public = context.settings.public_url
    assert result["masks"][0]["url"] == job["masks"][0]["url"] == job["output"]["masks"][0]["url"]
    assert result["image"]["url"] == job["images"][0]["url"]
    assert result["masks"][0]["url"].startswith(f"{public}/files/")
    assert result["masks"][1]["url"] == job["masks"][1]["url"] == "https://example.com/mask-1.png"


async def test_a_mask_says_what_was_measured_in_its_copy(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    job_id = await with_files(context, tenant)
    stored, owed = (await client.get(f"/v1/jobs/{job_id}/masks")).json()["masks"]
    assert (stored["label"], stored["area_fraction"], stored["bbox"]) == ("A truck", 0.5, [0, 0, 8, 3])
    assert (stored["width"], stored["height"], stored["file_size"]) == (8, 6, len(picture(255)))
    assert (owed["index"], owed["sha256"], owed["bbox"]) == (1, None, None)


async def test_a_mask_itself_is_its_picture(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    job_id = await with_files(context, tenant)
    response = await client.get(f"/v1/jobs/{job_id}/masks/0")
    assert (response.status_code, response.content) == (200, picture(255))
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-fal-request-id"] == str(job_id)
    assert (await client.get(f"/v1/jobs/{job_id}/images/0")).content == picture(1)


async def test_a_mask_whose_copy_is_owed_comes_later(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    job_id = await with_files(context, tenant)
    response = await client.get(f"/v1/jobs/{job_id}/masks/1")
    assert is_problem(response, 503)
    assert response.headers["retry-after"] == "1"
    await store_copy(context, job_id, "mask", 1, picture(7))
    assert (await client.get(f"/v1/jobs/{job_id}/masks/1")).content == picture(7)


async def test_a_mask_that_could_not_be_copied_says_why(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    job_id = await with_files(context, tenant)
    await context.db.execute("UPDATE artifacts SET copy_error = 'HTTP 410' WHERE index = 1")
    response = await client.get(f"/v1/jobs/{job_id}/masks/1")
    assert is_problem(response, 404)
    assert "HTTP 410" in response.json()["message"]


@pytest.mark.parametrize("part", ["masks/2", "masks/32767", "images/1"])
async def test_a_mask_that_is_none_is_not_found(
    client: httpx.AsyncClient, context: Context, tenant: UUID, part: str
) -> None:
    assert is_problem(await client.get(f"/v1/jobs/{await with_files(context, tenant)}/{part}"), 404)


async def test_figures_are_the_models_own(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    job = await job_of(client, await with_files(context, tenant))
    assert (job["seed"], job["usage"], job["timings"]["model"]) == (2**53 + 1, {"tokens": 3}, {"inference": 1.5})


FIGURES = [
    Lifted(seed=2**64 + 1),
    Lifted(seed=-(10**40)),
    Lifted(seed=10**4_000),
    Lifted(usage={"tokens": 10**30, "x": -1}),
    Lifted(usage={"a": 1e-320, "b": 1.7e308}, timings={"t": 1e300}),
]


@pytest.mark.parametrize("lifted", FIGURES, ids=lambda lifted: repr(lifted)[:60])
async def test_no_figure_of_a_model_hides_its_job(
    client: httpx.AsyncClient, db: Database, tenant: UUID, lifted: Lifted
) -> None:
    claim = await making.submitted(db, tenant)
    await endings.settle(db, claim.job_id, 1, making.completed(), making.heard(), "webhook", lifted)
    job = await job_of(client, claim.job_id)
    assert len((await client.get("/v1/jobs")).json()["jobs"]) == 1
    assert job["seed"] is None or job["seed"] == lifted.seed
    assert {name: float(value) for name, value in job["usage"].items()} == {
        name: float(value) for name, value in lifted.usage.items()
    }


OUTPUTS = [
    b'{"output": "\\ud800"}',
    b'{"output": NaN, "x": [Infinity, -Infinity]}',
    b'{"output": 1e999}',
    b'{"seed": ' + b"9" * 100 + b"}",
    b'{"output": "\xff"}',
    b"[" * 900 + b"]" * 900,
    b"not JSON",
    b"",
    b"null",
]


@pytest.mark.parametrize("body", OUTPUTS, ids=lambda body: repr(body[:40]))
async def test_no_output_of_a_model_hides_its_job(
    client: httpx.AsyncClient, db: Database, tenant: UUID, body: bytes
) -> None:
    claim = await making.ended(db, tenant, making.completed(body))
    assert (await job_of(client, claim.job_id))["status"] == "completed"
    assert (await client.get(f"/v1/jobs/{claim.job_id}/result")).content == body


async def test_the_history_of_a_job_is_told(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    claim = await making.ended(db, tenant, request_id="theirs-1")
    events = (await client.get(f"/v1/jobs/{claim.job_id}/events")).json()["events"]
    [attempt] = (await client.get(f"/v1/jobs/{claim.job_id}/attempts")).json()["attempts"]
    assert [event["event"] for event in events] == ["registered", "submitting", "accepted", "completed"]
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)
    assert (attempt["state"], attempt["provider_request_id"]) == ("completed", "theirs-1")
    timings = (await client.get(f"/v1/jobs/{claim.job_id}/timings")).json()
    assert timings["total_seconds"] >= timings["queued_seconds"] >= 0


async def test_every_link_of_a_job_leads_somewhere(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    job_id = await with_files(context, tenant)
    links = (await job_of(client, job_id))["links"]
    assert links.pop("callback") is None
    for name in set(links) - {"cancel", "retry"}:
        assert (await client.get(links[name])).status_code == 200, name
    assert (await client.post(links["cancel"])).status_code == 200
    assert (await client.post(links["retry"])).status_code == 409


async def test_the_catalogue_shows_the_models(client: httpx.AsyncClient) -> None:
    models = (await client.get("/v1/models")).json()["models"]
    assert {model["id"] for model in models} >= {"fal-ai/llava-next", "fal-ai/sa2va/8b/image", "fal-ai/mini-cpm"}
    for model in models:
        assert (await client.get(f"/v1/models/{model['id']}")).json() == model
    assert is_problem(await client.get("/v1/models/fal-ai/none"), 404)


def test_the_document_is_made_once() -> None:
    assert openapi.document() is openapi.document()
    assert json.loads(openapi.document())["openapi"].startswith("3.1")


@pytest.mark.parametrize("large", [True, False])
async def test_a_large_result_is_written_anew_beside_the_event_loop(
    client: httpx.AsyncClient, context: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    threads = []

    def watched(links: FileLinks, body: bytes, files: Sequence[Mapping[str, Any]]) -> bytes:
        threads.append(threading.current_thread())
        return rewritten(links, body, files)

    rewritten = FileLinks.rewritten
    monkeypatch.setattr(FileLinks, "rewritten", watched)
    claim = await making.submitted(context.db, tenant)
    url = "https://example.com/image.png"
    body = json.dumps({"image": {"url": url}, "numbers": [0.5] * (SMALL_BODY // (4 if large else 10))}).encode()
    ending, lifted = making.completed(body), Lifted(files=(LiftedFile("image", 0, url),))
    await endings.settle(context.db, claim.job_id, 1, ending, making.heard(body), "webhook", lifted)
    sha256 = await store_copy(context, claim.job_id, "image", 0, picture())
    own = f"/v1/jobs/{claim.job_id}"
    shared = await client.post("/v1/shares", json={"url": f"{str(client.base_url).rstrip('/')}{own}/result"})
    asked = [own, f"{own}/result", f"{own}/stream", f"/fal/queue/{claim.model}/requests/{claim.job_id}"]
    for path in [*asked, shared.json()["url"]]:
        response = await client.get(path)
        assert (response.status_code, sha256 in response.text) == (200, True), path
    assert (await client.post(f"{own}/cancel")).status_code == 200
    assert len(threads) == len(asked) + 2
    assert [thread is not threading.main_thread() for thread in threads] == [large] * len(threads)
