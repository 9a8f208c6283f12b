"""Second thoughts: stopping a job, and having it done again."""

import pytest

from tests.journeys.driver import ENDED, Driver, Json, assert_error, assert_refused, parsed
from tests.stand_in import Script, StandIn
from tests.stand_in import script as scripts
from tests.stand_in.server import eventually

REFUSED = Script(submits=(scripts.invalid(b'{"detail": "no"}'),))


def cancel(client: Driver, request_id: str) -> Json:
    answer = client.http.post(f"/v1/jobs/{request_id}/cancel")
    assert answer.status_code // 100 == 2, answer.text
    return parsed(answer)


def retry(client: Driver, request_id: str) -> Json:
    answer = client.http.post(f"/v1/jobs/{request_id}/retry")
    assert answer.status_code // 100 == 2, answer.text
    return parsed(answer)


def test_a_job_that_was_never_taken_is_cancelled_for_good(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(submits=(scripts.refusal(429, "3"),)))
    request_id = client.post(tag)["request_id"]
    eventually(lambda: fal.submits_of(tag))
    client.reaches(request_id, "queued")
    cancel(client, request_id)
    assert client.ended(request_id)["status"] == "cancelled"
    assert_error(client.result(request_id))
    with pytest.raises(AssertionError):
        eventually(lambda: len(fal.submits_of(tag)) > 1, within=6)


@pytest.mark.parametrize("way", ["requested", "removed"])
def test_a_job_under_way_is_cancelled_with_the_provider(client: Driver, fal: StandIn, tag: str, way: str) -> None:
    fal.script(tag, Script(holds=True, cancel=way))  # type: ignore[arg-type]
    request_id = client.post(tag)["request_id"]
    client.reaches(request_id, "submitted", "in_progress")
    cancel(client, request_id)
    assert client.ended(request_id)["status"] == "cancelled"
    eventually(lambda: fal.run(tag).cancels == 1)
    assert client.result(request_id).status_code >= 400


def test_a_provider_that_ignores_a_cancel_does_not_keep_the_job(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(holds=True, cancel="ignored"))
    request_id = client.post(tag)["request_id"]
    client.reaches(request_id, "submitted", "in_progress")
    cancel(client, request_id)
    eventually(lambda: fal.run(tag).cancels)
    fal.finish(fal.run(tag))
    job = client.ended(request_id)
    assert job["status"] in ("cancelled", "completed")
    assert client.job(request_id)["status"] == job["status"]


def test_a_cancel_that_comes_too_late_changes_nothing(client: Driver, fal: StandIn, tag: str) -> None:
    request_id = client.post(tag)["request_id"]
    before = client.ended(request_id)
    assert client.http.post(f"/v1/jobs/{request_id}/cancel").status_code < 500
    assert client.job(request_id) == before
    assert fal.run(tag).cancels == 0


def test_a_second_cancel_is_no_harm(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(holds=True))
    request_id = client.post(tag)["request_id"]
    client.reaches(request_id, "submitted", "in_progress")
    cancel(client, request_id)
    job = client.ended(request_id)
    assert client.http.post(f"/v1/jobs/{request_id}/cancel").status_code < 500
    assert client.job(request_id) == job


def test_a_failed_job_is_done_again_as_a_new_one(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, REFUSED)
    old = client.ended(client.post(tag, tags=["a"], metadata={"b": "c"})["request_id"])
    new = retry(client, old["request_id"])
    assert new["retry_of"] == old["request_id"] != new["request_id"]
    job = client.ended(new["request_id"])
    assert job["status"] == "completed"
    for name in ("model", "input", "tags", "metadata", "priority"):
        assert job[name] == old[name]
    assert client.job(old["request_id"])["status"] == "failed"
    assert fal.submits_of(tag)[0].body == fal.submits_of(tag)[1].body


def test_retrying_twice_gives_the_same_new_job(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, REFUSED)
    old = client.ended(client.post(tag)["request_id"])
    first, second = (retry(client, old["request_id"]) for _ in range(2))
    assert first["request_id"] == second["request_id"]
    client.ended(first["request_id"])
    assert len(fal.submits_of(tag)) == 2


def test_a_cancelled_job_can_be_done_again(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(holds=True))
    request_id = client.post(tag)["request_id"]
    client.reaches(request_id, "submitted", "in_progress")
    cancel(client, request_id)
    client.ended(request_id)
    fal.script(tag, Script())
    assert client.ended(retry(client, request_id)["request_id"])["status"] == "completed"


def test_a_live_job_is_not_done_again(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(holds=True))
    request_id = client.post(tag)["request_id"]
    assert_refused(client.http.post(f"/v1/jobs/{request_id}/retry"))
    assert client.job(request_id)["status"] not in ENDED
    fal.finish(fal.run(tag))
    assert len(fal.submits_of(tag)) == 1
