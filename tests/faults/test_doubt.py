"""A worker dies with many submissions on the way: taken by the provider, their answers heard by nobody.

This is the one case in which a job may be submitted twice, so here it is forced, and counted exactly.
"""

from collections.abc import Iterator

import pytest

from tests.faults.killing import is_worker, kill
from tests.journeys.driver import Driver, Json, listed_in, new_tag, sample_input
from tests.journeys.running import Service, installation
from tests.stand_in import Script, StandIn
from tests.stand_in.outputs import LLAVA
from tests.stand_in.script import Webhook

JOBS = 40

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def fal() -> Iterator[StandIn]:
    with StandIn(webhook_tries=5) as fal:
        yield fal


@pytest.fixture(scope="module")
def service(fal: StandIn) -> Iterator[Service]:
    with installation(fal) as service:
        service.start()
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[Driver]:
    """Of a service whose worker is known to be at work."""
    with service.client() as http:
        client = Driver(http)
        client.ended(client.post(new_tag())["request_id"], within=60)
        yield client


def killed_in_the_middle(
    fal: StandIn, service: Service, client: Driver, webhooks: tuple[Webhook, ...] | None
) -> dict[str, Json]:
    """Register a batch, kill the worker when all of it is with the provider, and follow each job to its end."""
    tags = [new_tag() for _ in range(JOBS)]
    for tag in tags:
        fal.script(tag, Script(answer_seconds=(1.5, 1.9), webhooks=webhooks))
    jobs = [{"model": LLAVA, "input": sample_input(LLAVA, tag)} for tag in tags]
    places = listed_in(client.http.post("/v1/jobs/batch", json={"jobs": jobs}).json())
    ids = [(place.get("job") or place)["request_id"] for place in places]
    kill(service, is_worker, when=lambda: fal.unanswered == JOBS)
    return {tag: client.ended(request_id, within=90) for tag, request_id in zip(tags, ids, strict=True)}


def test_webhooks_make_up_for_every_answer_that_was_lost(fal: StandIn, service: Service, client: Driver) -> None:
    jobs = killed_in_the_middle(fal, service, client, webhooks=None)
    assert {job["status"] for job in jobs.values()} == {"completed"}
    assert {tag: len(fal.submits_of(tag)) for tag in jobs} == dict.fromkeys(jobs, 1)
    assert {job["resubmissions"] for job in jobs.values()} == {0}
    assert {tag: job["provider_request_id"] for tag, job in jobs.items()} == {
        tag: fal.run(tag).request_id for tag in jobs
    }


def test_without_webhooks_each_is_submitted_once_more_and_counted(
    fal: StandIn, service: Service, client: Driver
) -> None:
    jobs = killed_in_the_middle(fal, service, client, webhooks=())
    assert {job["status"] for job in jobs.values()} == {"completed"}
    again = {tag: len(fal.submits_of(tag)) - 1 for tag in jobs}
    assert again == {tag: job["resubmissions"] for tag, job in jobs.items()}
    assert sum(again.values()) == JOBS
    for job in jobs.values():
        assert [attempt["state"] for attempt in client.attempts(job["request_id"])] == ["superseded", "completed"]
