"""Finding a job again: by which names, when, and by whom."""

import threading

import httpx
import pytest

from tests.journeys.driver import ENDED, Driver, assert_refused
from tests.journeys.running import Service
from tests.stand_in import Script, StandIn
from tests.stand_in.outputs import SA2VA

PARTS = ("", "/result", "/masks", "/masks/0", "/timings", "/events", "/attempts")
ABSENT = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def sa2va(client: Driver, fal: StandIn) -> tuple[str, str, str]:
    """A completed job's three names: ours, the provider's, its gateway's."""
    request_id = client.post("three-names", SA2VA)["request_id"]
    client.stored(request_id)
    run = fal.run("three-names")
    return request_id, run.request_id, run.gateway_request_id


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", [0, 1, 2], ids=["ours", "the provider's", "the gateway's"])
def test_a_job_is_found_by_each_of_its_names(client: Driver, sa2va: tuple[str, str, str], name: int, part: str) -> None:
    found = client.get(f"/v1/jobs/{sa2va[name]}{part}")
    assert found.content == client.get(f"/v1/jobs/{sa2va[0]}{part}").content


@pytest.mark.parametrize("part", PARTS)
def test_another_tenants_job_is_as_absent_as_none(
    client: Driver, other: Driver, sa2va: tuple[str, str, str], part: str
) -> None:
    for name in sa2va:
        foreign, absent = (other.http.get(f"/v1/jobs/{request_id}{part}") for request_id in (name, ABSENT))
        assert_refused(foreign, 404)
        assert foreign.text.replace(name, ABSENT) == absent.text


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_another_tenants_job_cannot_be_changed(
    client: Driver, other: Driver, sa2va: tuple[str, str, str], verb: str
) -> None:
    before = client.job(sa2va[0])
    assert_refused(other.http.post(f"/v1/jobs/{sa2va[0]}/{verb}"), 404)
    assert client.job(sa2va[0]) == before


def test_another_tenants_list_does_not_show_it(other: Driver, sa2va: tuple[str, str, str]) -> None:
    assert sa2va[0] not in other.ids()


@pytest.mark.parametrize("name", ["nothing", "%00", "a%2Fb", "..%2f..", "é" * 300, "0" * 3000, "-1", "null"])
def test_a_strange_name_is_absent(client: Driver, name: str) -> None:
    assert_refused(client.http.get(f"/v1/jobs/{name}"))


def test_a_mask_that_is_no_number_is_absent(client: Driver, sa2va: tuple[str, str, str]) -> None:
    for index in ("-1", "99", "x", "99999999999999999999"):
        assert_refused(client.http.get(f"/v1/jobs/{sa2va[0]}/masks/{index}"))


def test_the_links_of_a_job_lead_to_it(client: Driver, service: Service, sa2va: tuple[str, str, str]) -> None:
    links = client.job(sa2va[0])["links"]
    assert links.pop("callback") is None  # It names no address.
    assert all(link.startswith(f"{service.url}/v1/jobs/{sa2va[0]}") for link in links.values())
    assert client.http.get(links["self"]).json()["request_id"] == sa2va[0]
    assert client.http.get(links["result"]).content == client.result(sa2va[0]).content
    assert client.http.get(links["masks"]).status_code == 200


def test_answers_about_a_job_name_it_in_a_header(client: Driver, sa2va: tuple[str, str, str]) -> None:
    assert client.get(f"/v1/jobs/{sa2va[0]}").headers["x-fal-request-id"] == sa2va[0]
    assert client.result(sa2va[0]).headers["x-fal-request-id"] == sa2va[0]


def test_a_result_is_refused_while_the_job_is_pending(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(holds=True))
    request_id = client.post(tag)["request_id"]
    answer = client.result(request_id)
    assert_refused(answer, 400)
    assert answer.headers["x-fal-request-id"] == request_id
    fal.finish(fal.run(tag))
    client.ended(request_id)
    assert client.result(request_id).status_code == 200


def test_wait_answers_when_the_job_ends(client: Driver, fal: StandIn, service: Service, tag: str) -> None:
    fal.script(tag, Script(holds=True))
    request_id = client.post(tag)["request_id"]
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(client.get(f"/v1/jobs/{request_id}", wait=25)))
    waiting.start()
    fal.finish(fal.run(tag))
    waiting.join(timeout=30)
    assert answers[0].json()["status"] == "completed"


def test_wait_gives_the_job_as_it_is_when_the_time_is_over(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(holds=True))
    request_id = client.post(tag)["request_id"]
    assert client.get(f"/v1/jobs/{request_id}", wait=1).json()["status"] not in ENDED
    fal.finish(fal.run(tag))
    assert client.get(f"/v1/jobs/{request_id}", wait=25).json()["status"] == "completed"


@pytest.mark.parametrize("seconds", ["soon", "-1", "nan", "1e999"])
def test_a_wait_that_is_no_time_is_refused(client: Driver, sa2va: tuple[str, str, str], seconds: str) -> None:
    assert_refused(client.http.get(f"/v1/jobs/{sa2va[0]}", params={"wait": seconds}))


def test_events_tell_the_whole_way_in_order(client: Driver, fal: StandIn, tag: str) -> None:
    request_id = client.post(tag)["request_id"]
    client.ended(request_id)
    statuses = [event["status"] for event in client.events(request_id)]
    order = ["queued", "submitted", "in_progress", "completed"]
    assert (statuses[0], statuses[-1]) == ("queued", "completed")
    assert [order.index(status) for status in statuses] == sorted(order.index(status) for status in statuses)


@pytest.mark.parametrize(
    "credentials", [None, "Key admin:wrong-secret-of-some-length", "Key nobody:x", "Key x", "Basic YTpi", ""]
)
def test_without_a_valid_key_there_is_nothing(client: Driver, service: Service, credentials: str | None) -> None:
    headers = {} if credentials is None else {"authorization": credentials}
    for path in ("/v1/jobs", f"/v1/jobs/{ABSENT}"):
        assert_refused(httpx.get(f"{service.url}{path}", headers=headers, trust_env=False), 401)
    assert_refused(httpx.post(f"{service.url}/v1/jobs", headers=headers, json={}, trust_env=False), 401)


def test_a_key_may_come_as_a_bearer(service: Service) -> None:
    headers = {"authorization": f"Bearer {service.admin_key}"}
    assert httpx.get(f"{service.url}/v1/jobs", headers=headers, trust_env=False).status_code == 200
