"""A job's whole way through a GPU worker, as processes on this machine that nobody introduced to each other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from service.gpu.queues import queue_of
from service.queue import build_celery
from service.settings import Settings
from tests.gpu.working import MODEL, Worker, body, picture, working
from tests.journeys.driver import Driver, Json, parsed
from tests.journeys.running import Service
from tests.stand_in.server import eventually

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def worker(service: Service) -> Iterator[Worker]:
    with working(service) as worker:
        yield worker


def submit(client: Driver, **job: object) -> str:
    answer = client.http.post("/v1/jobs", json=body(**job))  # type: ignore[arg-type]
    assert answer.status_code == 202, answer.text
    request_id: str = parsed(answer)["request_id"]
    return request_id


def logs(client: Driver, request_id: str) -> list[str]:
    return [line["line"] for line in parsed(client.get(f"/v1/jobs/{request_id}/logs"))["logs"]]


def ended(client: Driver, **job: object) -> Json:
    return client.ended(submit(client, **job))


def test_a_job_comes_back_with_its_mask_stored_and_its_log(client: Driver, worker: Worker) -> None:
    job = client.stored(submit(client))
    assert (job["status"], job["provider"], job["attempt"]) == ("completed", "gpu", 1)
    assert job["output"]["output"] == "8 by 16, #ff8040"
    assert job["timings"]["model"].keys() == {"loading"}
    [mask] = job["masks"]
    assert (mask["width"], mask["height"], mask["area_fraction"], mask["remark"]) == (8, 16, 1, None)
    assert client.get(mask["url"]).content.startswith(b"\x89PNG")
    assert logs(client, job["request_id"]) == ["Looked at 128 pixels."]
    events = [event["event"] for event in client.events(job["request_id"])]
    assert events == ["registered", "submitting", "accepted", "started", "completed"]
    [attempt] = client.attempts(job["request_id"])
    assert (attempt["provider"], attempt["state"], attempt["reason"]) == ("gpu", "completed", "its client asked for it")


def test_the_webhook_is_kept_as_evidence_like_any_other(client: Driver, worker: Worker) -> None:
    job = ended(client)
    [report] = parsed(client.get(f"/v1/jobs/{job['request_id']}/evidence"))["evidence"]
    assert (report["source"], report["verdict"], report["headers"]["provider"]) == ("webhook", "applied", "gpu")
    envelope = client.get(report["url"]).json()
    assert envelope["request_id"] == job["provider_request_id"]


@pytest.mark.parametrize(
    ("prompt", "status", "kind"),
    [
        ("odd", 422, "value_error"),
        ("full", 503, "out_of_memory"),
        ("away", 503, "model_unavailable"),
        ("broken", 500, "internal_error"),
    ],
)
def test_what_goes_wrong_in_a_model_ends_the_job_in_the_form_of_fal(
    client: Driver, worker: Worker, prompt: str, status: int, kind: str
) -> None:
    job = ended(client, prompt=prompt)
    assert (job["status"], job["error"]["status"], job["error"]["type"]) == ("failed", status, kind)
    assert client.result(job["request_id"]).status_code == status


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://169.254.169.254/latest/meta-data", "could not be fetched"),
        ("data:image/png;base64,AAAA", "cannot be used"),
        ("file:///etc/passwd", "not an http or https address"),
    ],
)
def test_a_picture_that_cannot_be_had_is_a_422(client: Driver, worker: Worker, url: str, words: str) -> None:
    job = ended(client, image_url=url)
    assert (job["status"], job["error"]["status"]) == ("failed", 422)
    assert words in job["error"]["message"]


def test_an_upload_of_ours_and_a_turned_photograph_are_seen_upright(
    client: Driver, worker: Worker, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by a quarter.
    path = tmp_path / "turned.jpg"
    Image.new("RGB", (40, 20), "#00ff00").save(path, exif=exif)
    sent = client.http.post("/v1/files", content=path.read_bytes(), headers={"content-type": "image/jpeg"})
    assert sent.status_code in {200, 201}, sent.text
    assert ended(client, image_url=parsed(sent)["url"])["output"]["output"].startswith("20 by 40")


def test_a_large_data_uri_goes_neither_through_the_broker_nor_the_row(client: Driver, worker: Worker) -> None:
    assert ended(client, image_url=picture(900, "#010203"))["output"]["output"] == "900 by 1800, #010203"


def test_progress_is_on_the_job_while_it_runs_and_a_cancel_stops_it(client: Driver, worker: Worker) -> None:
    request_id = submit(client, prompt="wait 2000")

    def under_way() -> Json | None:
        job = client.job(request_id)
        return job if job["progress"] else None

    job = eventually(under_way, within=30, every=0.1)
    assert (job["status"], job["progress"]["of"], job["queue_position"]) == ("in_progress", 2000, None)
    assert job["started_at"]
    asked = client.http.post(f"/v1/jobs/{request_id}/cancel")
    assert asked.status_code == 202
    assert client.ended(request_id)["status"] == "cancelled"
    assert ended(client)["status"] == "completed"  # The same process takes the next.


def test_those_behind_have_a_place_in_the_queue(client: Driver, worker: Worker, tmp_path: Path) -> None:
    over = tmp_path / "over"
    first = submit(client, prompt=f"until {over}")
    client.reaches(first, "in_progress")
    second, third = submit(client), submit(client)
    eventually(lambda: client.job(third)["queue_position"] == 1, within=30, every=0.05)
    assert client.job(second)["queue_position"] == 0
    over.touch()
    assert [client.ended(each)["status"] for each in (first, second, third)] == ["completed"] * 3


def test_fals_own_status_shows_what_the_worker_says(client: Driver, worker: Worker) -> None:
    job = ended(client)
    answer = client.get(f"/fal/queue/tests/colours/requests/{job['request_id']}/status", logs="1")
    assert "Looked at 128 pixels." in [line["message"] for line in answer.json()["logs"]]


def test_a_worker_answers_pings_during_a_job_and_a_revoke_ends_it(client: Driver, worker: Worker) -> None:
    app = build_celery(Settings(broker_url=worker.broker_url))
    request_id = submit(client, prompt="wait 2000")
    client.reaches(request_id, "in_progress")
    assert [list(each.values()) for each in app.control.ping(timeout=5)].count([{"ok": "pong"}]) >= 1
    active = app.control.inspect(timeout=5).active() or {}
    [task] = [task for tasks in active.values() for task in tasks if task["name"] == "roundtrip.run_on_gpu"]
    assert task["delivery_info"]["routing_key"] == queue_of(MODEL)
    before = worker.model_process()
    app.control.revoke(task["id"], terminate=True, signal="SIGKILL")
    eventually(lambda: worker.model_process() != before, within=30, every=0.1)
    assert client.http.post(f"/v1/jobs/{request_id}/cancel").status_code == 202
    assert client.ended(request_id, within=60)["status"] == "cancelled"
    assert ended(client)["status"] == "completed"


def test_the_figures_tell_of_the_worker(client: Driver, worker: Worker) -> None:
    text = client.get("/metrics").text
    assert f'roundtrip_gpu_workers{{model="{MODEL}"}} 1.0' in text
    assert 'roundtrip_provider_paused{provider="gpu"} 0.0' in text
