"""fal is away in the middle of many jobs that may run elsewhere: all are done, and none is paid for twice."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.gpu.working import MODEL, SETTINGS, Forwarder, picture, rows, working
from tests.journeys.driver import Driver, parsed
from tests.journeys.running import Service, installation
from tests.stand_in import StandIn
from tests.stand_in.server import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

JOBS = 300
AWAY_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "5"))


@pytest.fixture
def way(fal: StandIn) -> Iterator[Forwarder]:
    way = Forwarder(urlsplit(fal.url).port or 0)
    way.open()
    yield way
    way.close()


@pytest.fixture
def own_service(fal: StandIn, way: Forwarder) -> Iterator[Service]:
    settings = SETTINGS | {
        "ROUNDTRIP_FAL_QUEUE_URL": way.url,
        "ROUNDTRIP_AMBIGUOUS_SECONDS": "120",  # What was on its way at the cut calls back by itself.
        "ROUNDTRIP_FAL_JWKS_URL": f"{fal.url}/.well-known/jwks.json",
    }
    with installation(fal, **settings) as service:
        service.start()
        yield service


def submit(client: Driver, tag: str, count: int) -> list[str]:
    jobs = [
        {"model": MODEL, "input": {"image_url": picture(), "prompt": f"tag:{tag}-{number}"}} for number in range(count)
    ]
    answer = client.http.post("/v1/jobs/batch", json={"jobs": jobs})
    assert answer.status_code == 202
    return [entry["job"]["request_id"] for entry in parsed(answer)["jobs"]]


def test_an_outage_in_the_middle_of_many_jobs_costs_none_of_them(
    fal: StandIn, way: Forwarder, own_service: Service
) -> None:
    tenant = rows(own_service, "SELECT name FROM tenants")[0]["name"]
    own_service.run("routes", "set", tenant, "--prefer", "fal", "--data", str(own_service.data))
    assert "fal first" in own_service.run("routes", "list", "--data", str(own_service.data))
    with working(own_service, name="spare"), own_service.client() as http:
        client = Driver(http)
        before = submit(client, "before", JOBS // 3)
        eventually(lambda: len([run for run in fal.submits if run.tag.startswith("before")]) > JOBS // 6, within=30)
        way.close()
        away = submit(client, "away", JOBS // 3)
        time.sleep(AWAY_SECONDS)
        way.open()
        after = submit(client, "after", JOBS // 3)
        jobs = {each: client.ended(each, within=300) for each in (*before, *away, *after)}
    assert Counter(job["status"] for job in jobs.values()) == {"completed": JOBS}
    by = Counter(jobs[each]["provider"] for each in away)
    assert by["gpu"] > 0
    reasons = {job["provider_reason"].partition(":")[0] for job in jobs.values() if job["provider"] == "gpu"}
    assert reasons == {"fal did not take it"}
    # Of no job did fal accept two, nor one that a worker of ours completed.
    accepted = Counter(submit.tag for submit in fal.submits if submit.run is not None)
    assert [tag for tag, times in accepted.items() if times > 1] == []
    both = rows(
        own_service,
        "SELECT job_id FROM attempts WHERE provider_request_id IS NOT NULL GROUP BY job_id HAVING count(*) > 1",
    )
    assert both == []
