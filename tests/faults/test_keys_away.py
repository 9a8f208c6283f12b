"""fal's keys cannot be had: nothing is accepted unseen, nothing is lost."""

from collections.abc import Iterator

import pytest

from tests.journeys.driver import ENDED, Driver, new_tag
from tests.journeys.running import Service, installation
from tests.stand_in import Script, StandIn
from tests.stand_in.server import eventually

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def fal() -> Iterator[StandIn]:
    with StandIn() as fal:
        fal.keys_away = True
        yield fal


@pytest.fixture(scope="module")
def service(fal: StandIn) -> Iterator[Service]:
    with installation(fal) as service:
        service.start()
        yield service


def test_a_webhook_that_cannot_be_checked_is_refused_for_now(fal: StandIn, service: Service) -> None:
    tag = new_tag()
    fal.script(tag, Script(holds=True))
    with service.client() as http:
        client = Driver(http)
        request_id = client.post(tag)["request_id"]
        eventually(lambda: client.job(request_id)["provider_request_id"])
        run = fal.run(tag)
        fal.end(run)
        run.ended = False
        assert fal.deliver(run).status == 503
        assert client.job(request_id)["status"] not in ENDED
        fal.keys_away = False
        eventually(lambda: fal.deliver(run).status // 100 == 2, within=120, every=1)
        assert client.ended(request_id)["status"] == "completed"


def test_keys_once_had_outlive_their_absence(fal: StandIn, service: Service) -> None:
    fal.keys_away = True
    tag = new_tag()
    with service.client() as http:
        client = Driver(http)
        assert client.ended(client.post(tag)["request_id"])["status"] == "completed"
    assert fal.deliveries_of(tag)[0].status // 100 == 2
