"""A job with a deadline ends by it, whatever its provider does."""

from tests.journeys.driver import Driver, assert_error
from tests.stand_in import Script, StandIn
from tests.stand_in import script as scripts
from tests.stand_in.server import eventually


def test_a_job_that_is_not_done_in_time_fails_and_stays_failed(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(holds=True, cancel="ignored"))
    request_id = client.post(tag, deadline_seconds=1.5)["request_id"]
    job = client.ended(request_id)
    assert (job["status"], job["output"]) == ("failed", None)
    assert_error(client.result(request_id))
    eventually(lambda: fal.run(tag).cancels)
    fal.finish(fal.run(tag))
    assert client.job(request_id)["status"] == "failed"
    assert fal.deliveries_of(tag)[0].status // 100 == 2


def test_a_job_that_no_provider_takes_in_time_fails(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(submits=(scripts.refusal(429, "30"),)))
    job = client.ended(client.post(tag, deadline_seconds=1.5)["request_id"])
    assert (job["status"], len(fal.submits_of(tag))) == ("failed", 1)


def test_a_job_that_is_done_in_time_completes(client: Driver, fal: StandIn, tag: str) -> None:
    assert client.ended(client.post(tag, deadline_seconds=60)["request_id"])["status"] == "completed"
