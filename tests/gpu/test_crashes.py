"""What dies, and what comes of it: workers, their processes and devices, messages, and the way to the service."""

import json
import os
import shutil
import signal
import socket
from pathlib import Path
from uuid import UUID

import pytest

from service.gpu.config import place_in
from service.gpu.outbox import MANIFEST
from service.gpu.queues import TASK, queue_of
from service.queue import build_celery
from service.settings import Settings
from tests.gpu.working import MODEL, Forwarder, Worker, body, rows, working
from tests.journeys.driver import Driver, Json, parsed
from tests.journeys.running import Service
from tests.stand_in.server import eventually

HERE = ("127.0.0.1", 0)
# Longer than the 4 s after which Celery takes a new process for dead.
LOAD_SECONDS = float(os.environ.get("LOAD_SECONDS", "7"))

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]


def submit(client: Driver, prompt: str = "look", **job: object) -> str:
    answer = client.http.post("/v1/jobs", json=body(prompt, **job))  # type: ignore[arg-type]
    assert answer.status_code == 202, answer.text
    request_id: str = parsed(answer)["request_id"]
    return request_id


def runs_of(service: Service, request_id: str) -> list[str]:
    sql = "SELECT how FROM runs WHERE job_id = $1 ORDER BY attempt, number"
    return [row["how"] for row in rows(service, sql, UUID(request_id))]


def completed_once(client: Driver, request_id: str, within: float = 90) -> Json:
    job = client.ended(request_id, within=within)
    assert job["status"] == "completed", job["error"]
    [attempt] = client.attempts(request_id)
    assert attempt["state"] == "completed"
    return job


def test_a_worker_killed_in_the_middle_of_a_run_leaves_its_job_to_the_next(service: Service, client: Driver) -> None:
    with working(service, name="killed") as first:
        request_id = submit(client, "wait 100")
        client.reaches(request_id, "in_progress")
        first.child.kill()
    with working(service, name="next"):
        completed_once(client, request_id)
    eventually(lambda: runs_of(service, request_id) == ["crashed", "finished"], within=10, every=0.1)


def test_a_process_that_dies_once_costs_one_run(service: Service, client: Driver, tmp_path: Path) -> None:
    with working(service, name="once") as worker:
        request_id = submit(client, f"die {tmp_path / 'times'} 1")
        completed_once(client, request_id)
        worker.child.insist_alive()
    assert runs_of(service, request_id) == ["crashed", "finished"]


def test_three_crashes_in_a_row_end_the_job_and_are_said(service: Service, client: Driver, tmp_path: Path) -> None:
    with working(service, name="three"):
        request_id = submit(client, f"die {tmp_path / 'times'} 10")
        job = client.ended(request_id, within=90)
        assert (job["status"], job["error"]["type"], job["error"]["status"]) == ("failed", "worker_crashed", 502)
        assert "crashed 3 times in a row" in job["error"]["message"]
        assert runs_of(service, request_id) == ["crashed"] * 3
        assert len((tmp_path / "times").read_text()) == 3
        completed_once(client, submit(client))


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("lost", "an illegal memory access was encountered"),
        # As a model's own code lets it through.
        ("asserted", "CUDA error: device-side assert triggered"),
    ],
)
def test_a_lost_device_is_a_crash_with_a_reason(service: Service, client: Driver, prompt: str, words: str) -> None:
    with working(service, name=prompt):
        request_id = submit(client, prompt)
        assert client.ended(request_id, within=90)["error"]["type"] == "worker_crashed"
        lines = [line["line"] for line in parsed(client.get(f"/v1/jobs/{request_id}/logs"))["logs"]]
        assert lines.count(f"The device is lost: {words}") == 3
        completed_once(client, submit(client))


def test_a_process_that_loads_for_longer_than_celery_waits_is_left_alone(
    service: Service, client: Driver, tmp_path: Path
) -> None:
    """By default a process that takes more than 4 s after another's end is killed, again and again."""
    loads = tmp_path / "loads"
    slow = ("--option", f"load_seconds={LOAD_SECONDS:g}", "--option", f"loads={loads}")
    with working(service, *slow, name="slow") as worker:
        os.kill(worker.model_process(), signal.SIGKILL)
        completed_once(client, submit(client))
        assert len(set(loads.read_text().split())) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--option", "weights=none"), "there are no weights in "),
        (("--option", "weights=large"), "65 GiB were asked for"),
        (("--option", "weights=odd"), "ZeroDivisionError: no heads"),
        (
            ("--option", "weights=deadly"),
            "its process was lost 3 times in a row while it loaded; is there enough memory?",
        ),
        (("--runtime", "tests.gpu.nothing:find"), "ModuleNotFoundError: No module named 'tests.gpu.nothing'"),
    ],
)
def test_what_cannot_be_loaded_ends_the_worker_with_one_line(
    service: Service, arguments: tuple[str, ...], words: str
) -> None:
    worker = Worker(service, arguments, name=f"weightless-{arguments[-1].rpartition('=')[2]}")
    worker.child.start()
    try:
        assert worker.child.ended(within=60) == 1
    finally:
        worker.child.close()
    last = worker.child.log.read_text().strip().splitlines()[-1]
    assert last.startswith(f"roundtrip: {MODEL} cannot be loaded: {words}")


def test_a_model_that_does_not_heed_a_cancel_is_ended_after_its_grace(service: Service, client: Driver) -> None:
    with working(service, "--grace-seconds", "1", name="deaf") as worker:
        before = worker.model_process()
        request_id = submit(client, "deaf")
        client.reaches(request_id, "in_progress")
        assert client.http.post(f"/v1/jobs/{request_id}/cancel").status_code == 202
        assert client.ended(request_id, within=60)["status"] == "cancelled"
        completed_once(client, submit(client))
        assert worker.model_process() != before
        worker.child.insist_alive()


def test_a_server_beside_the_worker_that_is_away_for_a_while_costs_no_job(
    service: Service, client: Driver, tmp_path: Path
) -> None:
    with working(service, name="beside"):
        request_id = submit(client, f"away {tmp_path / 'times'} 2")
        completed_once(client, request_id)
    assert runs_of(service, request_id) == ["finished"]


def test_a_cancel_while_a_picture_is_on_its_way_leaves_the_model_loaded(service: Service, client: Driver) -> None:
    with working(service, "--grace-seconds", "1", name="fetching") as worker, socket.create_server(HERE) as silent:
        before = worker.model_process()
        request_id = submit(client, image_url=f"http://127.0.0.1:{silent.getsockname()[1]}/never.png")
        client.reaches(request_id, "in_progress")
        assert client.http.post(f"/v1/jobs/{request_id}/cancel").status_code == 202
        assert client.ended(request_id, within=60)["status"] == "cancelled"
        completed_once(client, submit(client))
        assert worker.model_process() == before


def test_a_result_that_the_service_does_not_take_is_a_failed_job(service: Service, client: Driver) -> None:
    with working(service, name="large"):
        request_id = submit(client, "large")
        job = client.ended(request_id, within=60)
        assert (job["status"], job["error"]["type"]) == ("failed", "result_refused")
        assert "413" in job["error"]["message"]
        completed_once(client, submit(client))
    assert runs_of(service, request_id) == ["finished"]


def test_a_result_on_disk_that_cannot_be_read_holds_up_no_other(service: Service, client: Driver) -> None:
    outbox = place_in(service.data) / "outbox"
    spoiled = outbox / f"{MODEL.replace('/', '.')}@cpu-0" / "gpu-spoiled-1"
    spoiled.mkdir(parents=True)
    (spoiled / MANIFEST).write_text("{")
    with working(service, name="spoiled"):
        completed_once(client, submit(client))
    [aside] = (outbox / "set-aside").iterdir()
    assert (aside / MANIFEST).read_text() == "{"
    shutil.rmtree(aside.parent)


def test_a_finished_result_outlives_its_worker(service: Service, client: Driver, tmp_path: Path) -> None:
    way = Forwarder(service.port)
    way.open()
    outbox = place_in(service.data) / "outbox"
    closed = tmp_path / "closed"
    with working(service, settings={"ROUNDTRIP_PUBLIC_URL": way.url}, name="cut-off") as worker:
        request_id = submit(client, f"until {closed}")
        # Before its first steps are told, a worker that is cut off may not know yet that it may begin.
        eventually(lambda: (client.job(request_id)["progress"] or {}).get("done"), within=60)
        way.close()
        closed.touch()
        eventually(lambda: [*outbox.glob(f"*/gpu-{request_id}-1/{MANIFEST}")], within=60, every=0.1)
        worker.child.kill()
    assert client.job(request_id)["status"] == "in_progress"
    with working(service, name="back"):
        completed_once(client, request_id)
    assert len(runs_of(service, request_id)) == 1
    assert [*outbox.glob("*/gpu-*")] == []


def test_a_message_that_comes_three_times_runs_once(service: Service, client: Driver) -> None:
    with working(service, name="thrice") as worker:
        request_id = submit(client, "wait 40")
        client.reaches(request_id, "in_progress")
        app = build_celery(Settings(broker_url=worker.broker_url))
        [task] = [each for tasks in (app.control.inspect(timeout=5).active() or {}).values() for each in tasks]
        with working(service, name="other"):
            for _ in range(3):
                app.send_task(TASK, kwargs=task["kwargs"], queue=queue_of(MODEL), ignore_result=True)
            completed_once(client, request_id)
            completed_once(client, submit(client))
    assert runs_of(service, request_id) == ["finished"]


def test_a_message_that_was_lost_is_sent_again(service: Service, client: Driver) -> None:
    request_id = submit(client)
    client.reaches(request_id, "submitted")
    running = json.loads((service.data / "running.json").read_text())
    with build_celery(Settings(broker_url=running["broker_url"])).connection() as connection:
        assert connection.default_channel.queue_purge(queue_of(MODEL)) == 1
    with working(service, name="late"):
        completed_once(client, request_id)
    assert runs_of(service, request_id) == ["finished"]


def test_a_worker_that_is_told_to_end_finishes_and_tells_what_it_has(service: Service, client: Driver) -> None:
    with working(service, name="ending") as worker:
        request_id, waiting = submit(client, "wait 60"), submit(client)
        client.reaches(request_id, "in_progress")
        assert worker.child.stop() == 0
        completed_once(client, request_id, within=30)
    with working(service, name="successor"):
        completed_once(client, waiting)
    assert runs_of(service, request_id) == ["finished"]
