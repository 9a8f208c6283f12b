"""One service for the tests of GPU workers; each starts the workers that it needs."""

from collections.abc import Iterator

import pytest

from tests.gpu.working import SETTINGS
from tests.journeys.driver import Driver
from tests.journeys.running import Service, installation
from tests.stand_in import StandIn


@pytest.fixture(scope="package")
def fal() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture(scope="package")
def service(fal: StandIn) -> Iterator[Service]:
    with installation(fal, **SETTINGS) as service:
        service.start()
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[Driver]:
    with service.client() as http:
        yield Driver(http)
