"""Many jobs in one request: each accepted or refused in its place."""

import pytest

from tests.journeys.driver import Driver, Json, assert_refused, listed_in, new_tag, sample_input
from tests.stand_in import StandIn
from tests.stand_in.outputs import LLAVA


def item(tag: str, **more: object) -> Json:
    return {"model": LLAVA, "input": sample_input(LLAVA, tag), **more}


def request_id(place: Json) -> str | None:
    found = place.get("request_id") or (place.get("job") or {}).get("request_id")
    return None if found is None else str(found)


def refusal(place: Json) -> Json:
    return place if "detail" in place else place["error"]


def test_each_job_is_accepted_or_refused_in_its_place(client: Driver, fal: StandIn) -> None:
    tags = [new_tag() for _ in range(5)]
    bad = [item(tags[1], model="no/such-model"), item(tags[3], input={"prompt": f"tag:{tags[3]}"})]
    answer = client.http.post(
        "/v1/jobs/batch", json={"jobs": [item(tags[0]), bad[0], item(tags[2]), bad[1], item(tags[4])]}
    )
    places = listed_in(answer.json())
    accepted = [request_id(place) for place in places]
    assert [found is not None for found in accepted] == [True, False, True, False, True]
    for tag, found in zip(tags, accepted, strict=True):
        if found is not None:
            assert client.ended(found)["input"] == sample_input(LLAVA, tag)
    assert [len(fal.submits_of(tag)) for tag in tags] == [1, 0, 1, 0, 1]
    assert all(refusal(places[number])["detail"] for number in (1, 3))


def test_something_that_is_no_job_is_refused_in_its_place(client: Driver, fal: StandIn, tag: str) -> None:
    answer = client.http.post("/v1/jobs/batch", json={"jobs": [42, item(tag), None, [], "x"]})
    places = listed_in(answer.json())
    assert [request_id(place) is not None for place in places] == [False, True, False, False, False]


def test_a_hundred_jobs_come_back_in_order(client: Driver, fal: StandIn) -> None:
    tags = [new_tag() for _ in range(100)]
    places = listed_in(client.http.post("/v1/jobs/batch", json={"jobs": [item(tag) for tag in tags]}).json())
    found = [str(request_id(place)) for place in places]
    assert [client.ended(job)["input"] for job in found] == [sample_input(LLAVA, tag) for tag in tags]
    assert [len(fal.submits_of(tag)) for tag in tags] == [1] * 100


@pytest.mark.parametrize("body", [{}, {"jobs": "x"}, {"jobs": {}}, {"jobs": None}, [], {"jobs": []}])
def test_a_batch_that_is_none_is_refused(client: Driver, body: object) -> None:
    assert_refused(client.http.post("/v1/jobs/batch", json=body))
