"""The whole service stopped, cleanly and not, and started again on the same data."""

import os
import re
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.faults.killing import is_api, is_beat, is_postgres, is_valkey, is_worker, kill
from tests.journeys.driver import Driver, new_tag
from tests.journeys.running import Process, Service, installation, wait_gone
from tests.stand_in import Script, StandIn
from tests.stand_in.outputs import LLAVA, SA2VA
from tests.stand_in.server import eventually

KINDS: dict[str, Callable[[Process], bool]] = {
    "worker": is_worker,
    "api": is_api,
    "postgres": is_postgres,
    "valkey": is_valkey,
    "beat": is_beat,
}

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture
def fal() -> Iterator[StandIn]:
    with StandIn() as fal:
        yield fal


@pytest.fixture
def service(fal: StandIn) -> Iterator[Service]:
    with installation(fal) as service:
        service.start()
        yield service


def end_all_at_once(service: Service) -> None:
    """SIGKILL of `up` and, as a power cut would, of everything below it."""
    below = service.processes()
    service.kill()
    for process in below:
        if process.alive:
            os.kill(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("ends", [Service.stop, Service.kill, end_all_at_once], ids=["SIGTERM", "SIGKILL", "power cut"])
def test_the_next_start_finds_everything_again(
    fal: StandIn, service: Service, ends: Callable[[Service], object]
) -> None:
    done, under_way, waiting = new_tag(), new_tag(), new_tag()
    fal.script(under_way, Script(holds=True))
    with service.client() as http:
        client = Driver(http)
        request_id = client.stored(client.post(done, SA2VA)["request_id"])["request_id"]
        # How long its copies took is counted a moment later.
        eventually(lambda: client.job(request_id)["timings"]["copy_seconds"])
        finished = client.job(request_id)
        raw = client.result(finished["request_id"]).content
        held = client.post(under_way)["request_id"]
        eventually(lambda: client.job(held)["provider_request_id"])
        late = client.post(waiting, LLAVA)["request_id"]
        ends(service)
        service.start()
        assert client.job(finished["request_id"]) == finished
        assert client.result(finished["request_id"]).content == raw
        assert client.http.get(finished["masks"][0]["url"]).status_code == 200
        fal.finish(fal.run(under_way))
        assert client.ended(held)["status"] == "completed"
        assert client.ended(late, within=60)["status"] == "completed"
    assert [len(fal.submits_of(tag)) for tag in (done, under_way)] == [1, 1]


def test_sigterm_leaves_nothing_behind(service: Service) -> None:
    started = service.processes()
    assert all(any(map(which, started)) for which in KINDS.values())
    assert service.stop() == 0
    assert wait_gone(started, within=10) == []


def test_ctrl_c_leaves_nothing_behind(service: Service) -> None:
    """A terminal sends SIGINT to every process of the group at once."""
    started = service.processes()
    os.killpg(service.pid, signal.SIGINT)
    assert service._up is not None
    service._up.wait(timeout=60)
    assert wait_gone(started, within=10) == []


def test_what_a_killed_start_left_behind_is_cleaned_up_by_the_next(service: Service) -> None:
    left = service.processes()
    service.kill()
    service.start()
    assert wait_gone(left) == []


def test_a_second_start_on_the_same_data_does_no_harm(fal: StandIn, service: Service) -> None:
    second = Service(fal, service.data, admin_key=service.admin_key)
    try:
        second.start()
    except AssertionError:
        pass
    finally:
        second.close()
    with service.client() as http:
        assert Driver(http).ended(Driver(http).post(new_tag())["request_id"])["status"] == "completed"


@pytest.mark.parametrize("name", KINDS)
def test_a_process_that_dies_is_started_again_and_said_so(service: Service, name: str) -> None:
    which = KINDS[name]
    dead = kill(service, which)
    eventually(lambda: any(which(process) for process in service.processes() if process.pid != dead.pid))
    service.wait_ready()
    with service.client() as http:
        assert Driver(http).ended(Driver(http).post(new_tag())["request_id"], within=60)["status"] == "completed"
    assert re.search(rf"^roundtrip: .*{name}", service.log.read_text(errors="replace"), re.M | re.I)
