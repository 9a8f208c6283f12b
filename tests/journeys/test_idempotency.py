"""One Idempotency-Key, one job."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import httpx
import pytest

from tests.journeys.driver import Driver, assert_refused, sample_input
from tests.stand_in import StandIn
from tests.stand_in.outputs import LLAVA


def register(client: Driver, tag: str, key: str, **more: object) -> httpx.Response:
    body = {"model": LLAVA, "input": sample_input(LLAVA, tag), **more}
    return client.http.post("/v1/jobs", json=body, headers={"idempotency-key": key})


def test_the_same_key_and_body_give_the_same_job(client: Driver, fal: StandIn, tag: str) -> None:
    first = register(client, tag, tag)
    client.ended(first.json()["request_id"])
    again = register(client, tag, tag)
    assert (first.status_code, again.status_code) in ((202, 200), (202, 202))
    assert again.json()["request_id"] == first.json()["request_id"]
    assert len(fal.submits_of(tag)) == 1


def test_the_same_key_with_another_body_is_refused(client: Driver, fal: StandIn, tag: str) -> None:
    first = register(client, tag, tag)
    assert_refused(register(client, tag, tag, priority="low"), 422)
    assert client.ended(first.json()["request_id"])["priority"] == "normal"
    assert len(fal.submits_of(tag)) == 1


def test_ten_first_uses_at_once_make_one_job(client: Driver, fal: StandIn, tag: str) -> None:
    barrier = Barrier(10)

    def once(_: int) -> httpx.Response:
        barrier.wait()
        return register(client, tag, tag)

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(once, range(10)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    [request_id] = {answer.json()["request_id"] for answer in answers}
    client.ended(request_id)
    assert len(fal.submits_of(tag)) == 1


def test_another_tenant_may_use_the_same_key(client: Driver, other: Driver, tag: str) -> None:
    assert register(client, tag, tag).json()["request_id"] != register(other, tag, tag).json()["request_id"]


def test_a_refused_request_does_not_use_up_its_key(client: Driver, tag: str) -> None:
    assert_refused(register(client, tag, tag, priority="extreme"), 422)
    assert register(client, tag, tag).status_code == 202


@pytest.mark.parametrize("key", ["k" * 256, "k" * 5000])
def test_a_key_that_is_too_long_is_refused(client: Driver, fal: StandIn, tag: str, key: str) -> None:
    assert_refused(register(client, tag, key))
    assert fal.submits_of(tag) == []


def test_a_key_of_255_characters_is_taken(client: Driver, tag: str) -> None:
    assert register(client, tag, tag.ljust(255, "x")).status_code == 202
