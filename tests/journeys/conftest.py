"""One stand-in and one service for the whole session: they are shared by every test of this folder.

So a test may count only what carries its own tag (`tag`), and looks at a whole list only as a tenant of its
own (`new_tenant`). A test that rotates keys leaves keys that still work.
"""

import json
import re
from collections.abc import Callable, Iterator

import pytest

from tests.journeys.driver import Driver, new_tag
from tests.journeys.running import Service, installation
from tests.stand_in import StandIn

UNKNOWN_MODEL = "acme/echo"


@pytest.fixture(scope="session")
def fal() -> Iterator[StandIn]:
    with StandIn() as fal:
        yield fal


@pytest.fixture(scope="session")
def service(fal: StandIn) -> Iterator[Service]:
    with installation(fal, ROUNDTRIP_MODELS=UNKNOWN_MODEL) as service:
        service.start()
        yield service
        assert_nothing_secret_was_logged(fal, service)


def assert_nothing_secret_was_logged(fal: StandIn, service: Service) -> None:
    """Whatever went wrong in this session, its log may be shown to anybody."""
    log = service.log.read_text(errors="replace")
    keys = {"admin": service.admin_key, "fal": service.fal_key}
    assert [name for name, key in keys.items() if key.partition(":")[2] in log] == []
    addresses = {submit.webhook_url for submit in fal.submits if submit.webhook_url}
    assert [url for url in addresses if url.removeprefix(service.url) in log][:1] == []


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[Driver]:
    with service.client() as http:
        yield Driver(http)


@pytest.fixture(scope="session")
def new_tenant(service: Service) -> Iterator[Callable[[str], Driver]]:
    opened = []

    def create(name: str) -> Driver:
        http = service.client(create_key(service, name))
        opened.append(http)
        return Driver(http)

    yield create
    for http in opened:
        http.close()


@pytest.fixture(scope="session")
def other(new_tenant: Callable[[str], Driver]) -> Driver:
    return new_tenant("other")


@pytest.fixture
def tag() -> str:
    return new_tag()


def create_key(service: Service, tenant: str, *scopes: str) -> str:
    chosen = [word for scope in scopes for word in ("--scope", scope)]
    printed = service.run("keys", "create", "--tenant", tenant, *chosen, "--data", str(service.data))
    found = re.search(r"[A-Za-z0-9_-]+:[A-Za-z0-9_-]{16,}", printed)
    assert found is not None, json.dumps(printed)
    return found[0]
