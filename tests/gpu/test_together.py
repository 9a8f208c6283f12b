"""Jobs that wait are run together, where the model can, and each of them has an end of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gpu.working import Worker, body, working
from tests.journeys.driver import Driver, parsed
from tests.journeys.running import Service

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together") / "batches"


@pytest.fixture(scope="module")
def worker(service: Service, batches: Path) -> Iterator[Worker]:
    options = ("--option", "together=4", "--option", f"batches={batches}")
    # So long that each picture is there: what a batch is made of then depends on the line alone.
    options += ("--gather-seconds", "30", "--grace-seconds", "1")
    with working(service, *options, name="together") as worker:
        yield worker


@contextmanager
def busy(client: Driver) -> Iterator[None]:
    """The device has a job meanwhile, which is then cancelled."""
    held = submit(client, "wait 2000")
    client.reaches(held, "in_progress")
    yield
    cancel(client, held)


def submit(client: Driver, prompt: str) -> str:
    request_id: str = parsed(client.http.post("/v1/jobs", json=body(prompt)))["request_id"]
    return request_id


def waiting(client: Driver, prompts: Sequence[str]) -> list[str]:
    """Registered while the device is busy, and in line."""
    with busy(client):
        jobs = []
        for prompt in prompts:  # One by one, so that their messages are in this order.
            jobs.append(submit(client, prompt))
            client.reaches(jobs[-1], "submitted")
    return jobs


def cancel(client: Driver, request_id: str) -> None:
    assert client.http.post(f"/v1/jobs/{request_id}/cancel").status_code == 202


def sizes(batches: Path) -> list[int]:
    found = [int(line) for line in batches.read_text().split()] if batches.exists() else []
    batches.unlink(missing_ok=True)
    return found


ONCE = ["registered", "submitting", "accepted", "started", "completed"]


def test_those_that_wait_are_run_together_and_each_once(client: Driver, worker: Worker, batches: Path) -> None:
    jobs = waiting(client, ["look"] * 6)
    assert [client.ended(job)["output"]["output"] for job in jobs] == ["8 by 16, #ff8040"] * 6
    # Behind the messages of those that were run without them.
    assert client.ended(submit(client, "look"))["status"] == "completed"
    assert sizes(batches) == [4, 2]
    assert [[event["event"] for event in client.events(job)] for job in jobs] == [ONCE] * 6
    # What was said of each went to it alone.
    assert [len(parsed(client.get(f"/v1/jobs/{job}/logs"))["logs"]) for job in jobs] == [1] * 6


def test_one_of_them_is_cancelled_and_the_others_go_on(client: Driver, worker: Worker, batches: Path) -> None:
    jobs = waiting(client, ["wait 2000"] * 3)
    for job in jobs:
        client.reaches(job, "in_progress")
    cancel(client, jobs[1])
    assert client.ended(jobs[1])["status"] == "cancelled"
    assert [client.job(job)["status"] for job in (jobs[0], jobs[2])] == ["in_progress"] * 2
    cancel(client, jobs[0])
    cancel(client, jobs[2])
    assert [client.ended(job)["status"] for job in (jobs[0], jobs[2])] == ["cancelled"] * 2
    assert sizes(batches) == [3]


def test_one_that_is_cancelled_and_not_asked_any_more_ends_without_the_others(
    client: Driver, worker: Worker, batches: Path
) -> None:
    """A row that has all its tokens is not stepped, and its batch goes on for longer than the grace."""
    process = worker.model_process()
    jobs = waiting(client, ["still 100", "wait 100"])
    for job in jobs:
        client.reaches(job, "in_progress")
    cancel(client, jobs[0])
    assert client.ended(jobs[0])["status"] == "cancelled"
    assert client.job(jobs[1])["status"] == "in_progress"
    assert client.ended(jobs[1])["status"] == "completed"
    assert worker.model_process() == process
    assert sizes(batches) == [2]


def test_what_fails_a_whole_batch_fails_nobody_but_itself(client: Driver, worker: Worker, batches: Path) -> None:
    jobs = [client.ended(job) for job in waiting(client, ["look", "spoils", "look"])]
    assert [job["status"] for job in jobs] == ["completed", "failed", "completed"]
    assert sizes(batches) == [3]


def test_the_failure_of_one_is_its_own(client: Driver, worker: Worker, batches: Path) -> None:
    jobs = [client.ended(job) for job in waiting(client, ["look", "odd", "broken", "full"])]
    assert [job["status"] for job in jobs] == ["completed", "failed", "failed", "failed"]
    assert [job["error"]["status"] for job in jobs[1:]] == [422, 500, 503]
    assert sizes(batches) == [4]


def test_nobody_is_overtaken_for_a_batch(client: Driver, worker: Worker, batches: Path) -> None:
    jobs = [client.ended(job) for job in waiting(client, ["look", "apart", "look"])]
    assert sizes(batches) == []
    assert sorted(jobs, key=lambda job: str(job["completed_at"])) == jobs


def test_who_dies_in_a_batch_has_no_company_afterwards(
    client: Driver, worker: Worker, batches: Path, tmp_path: Path
) -> None:
    jobs = waiting(client, ["look", f"die {tmp_path / 'died'} 1", "look"])
    assert [client.ended(job, within=120)["status"] for job in jobs] == ["completed"] * 3
    assert sizes(batches) == [3]
    for job in jobs:
        events = [event["event"] for event in client.events(job)]
        assert (events.count("submitting"), events.count("completed")) == (1, 1)
