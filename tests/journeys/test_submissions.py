"""Each way in which a submission can go, and how often the provider was asked in the end."""

import pytest

from tests.journeys.driver import Driver, exactly
from tests.stand_in import Answer, Script, StandIn, webhooks
from tests.stand_in import script as scripts
from tests.stand_in.server import eventually

REFUSED = b'{"detail":[{"loc":["body","image_url"],"msg":"Too small","type":"image_too_small"}]}'


@pytest.mark.parametrize("times", [1, 3])
def test_429_is_tried_again_until_taken(client: Driver, fal: StandIn, tag: str, times: int) -> None:
    fal.script(tag, Script(submits=(scripts.refusal(429, "1"),) * times))
    request_id = client.post(tag)["request_id"]
    assert client.ended(request_id, within=60)["status"] == "completed"
    assert (len(fal.submits_of(tag)), len(fal.runs_of(tag))) == (times + 1, 1)


def test_429_waits_as_long_as_it_is_told(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(submits=(scripts.refusal(429, "60"),)))
    request_id = client.post(tag)["request_id"]
    eventually(lambda: fal.submits_of(tag))
    with pytest.raises(AssertionError):
        eventually(lambda: len(fal.submits_of(tag)) > 1, within=4)
    assert client.job(request_id)["status"] == "queued"


@pytest.mark.parametrize(
    ("answer", "doubtful"),
    [
        (scripts.refusal(503), False),
        (scripts.page(503), False),
        (scripts.page(404), False),
        (scripts.page(502), True),
        (scripts.page(200), True),
        (scripts.CLOSED_UNTAKEN, True),
    ],
    ids=["503", "HTML 503", "HTML 404", "HTML 502", "HTML 200", "closed"],
)
def test_an_answer_that_says_nothing_is_tried_again(
    client: Driver, fal: StandIn, tag: str, answer: Answer, doubtful: bool
) -> None:
    """At once where the provider refused, and after a wait, and counted, where it may have taken the job."""
    fal.script(tag, Script(submits=(answer, answer)))
    request_id = client.post(tag)["request_id"]
    job = client.ended(request_id, within=60)
    assert (job["status"], job["resubmissions"]) == ("completed", 2 if doubtful else 0)
    assert (len(fal.submits_of(tag)), len(fal.runs_of(tag))) == (3, 1)
    before = "superseded" if doubtful else "refused"
    assert [attempt["state"] for attempt in client.attempts(request_id)] == [before, before, "completed"]
    assert len({submit.webhook_url for submit in fal.submits_of(tag)}) == 3


@pytest.mark.parametrize(
    "answer",
    [scripts.HELD, scripts.CLOSED, scripts.page(200, taken=True), scripts.page(502, taken=True)],
    ids=["held", "closed", "HTML 200", "HTML 502"],
)
def test_a_lost_answer_is_made_up_for_by_the_webhook(client: Driver, fal: StandIn, tag: str, answer: Answer) -> None:
    fal.script(tag, Script(submits=(answer,), seconds=0.5))
    request_id = client.post(tag)["request_id"]
    job = client.ended(request_id)
    assert (job["status"], job["provider_request_id"]) == ("completed", fal.run(tag).request_id)
    assert exactly(client.result(request_id).content) == exactly(fal.run(tag).outcome.body)
    assert job["resubmissions"] == 0
    with pytest.raises(AssertionError):
        eventually(lambda: len(fal.submits_of(tag)) > 1, within=6)


def test_a_lost_answer_without_a_webhook_is_submitted_again_and_counted(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(submits=(scripts.CLOSED,), webhooks=()))
    request_id = client.post(tag)["request_id"]
    job = client.ended(request_id, within=60)
    attempts = client.attempts(request_id)
    assert (job["status"], job["resubmissions"], len(fal.submits_of(tag))) == ("completed", 1, 2)
    assert [attempt["state"] for attempt in attempts] == ["superseded", "completed"]
    assert attempts[1]["provider_request_id"] == fal.run(tag, number=1).request_id


def test_the_first_result_wins_of_two_attempts(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(submits=(scripts.CLOSED,), holds=True))
    request_id = client.post(tag)["request_id"]
    first, second = fal.run(tag), fal.run(tag, number=1)
    for run in (first, second):
        fal.end(run)
        run.ended = False
    eventually(lambda: client.job(request_id)["status"] in ("submitted", "in_progress"))
    assert fal.deliver(first).status // 100 == 2
    job = client.ended(request_id)
    assert (job["status"], job["provider_request_id"], job["resubmissions"]) == ("completed", first.request_id, 1)
    assert fal.deliver(second).status // 100 == 2
    eventually(lambda: second.cancels)
    eventually(lambda: client.attempts(request_id)[1]["ended_at"])
    assert [attempt["state"] for attempt in client.attempts(request_id)] == ["completed", "superseded"]
    assert client.job(request_id) == job
    assert (first.cancels, second.cancels) == (0, 1)


def test_a_refused_input_fails_the_job_with_the_providers_body(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(submits=(scripts.invalid(REFUSED),)))
    job = client.ended(client.post(tag)["request_id"])
    assert job["status"] == "failed"
    answer = client.result(job["request_id"])
    assert (answer.status_code, exactly(answer.content)) == (422, exactly(REFUSED))
    assert len(fal.submits_of(tag)) == 1


def test_the_pictures_of_an_input_are_never_fetched(client: Driver, fal: StandIn, tag: str) -> None:
    body = {
        "model": "fal-ai/llava-next",
        "input": {"image_url": f"{fal.url}/pictures/{tag}.png", "prompt": f"tag:{tag}"},
    }
    answer = client.http.post("/v1/jobs", json=body)
    assert client.ended(answer.json()["request_id"])["status"] == "completed"
    assert fal.picture_reads == 0


def test_priority_goes_along_as_fals_header(client: Driver, fal: StandIn, tag: str) -> None:
    request_id = client.post(tag, priority="low")["request_id"]
    assert client.ended(request_id)["priority"] == "low"
    assert fal.submits_of(tag)[0].headers["x-fal-queue-priority"] == "low"


def test_each_attempt_names_what_became_of_it(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(submits=(scripts.refusal(429, "1"),), webhooks=(webhooks.good,)))
    request_id = client.post(tag)["request_id"]
    client.ended(request_id)
    assert [attempt["state"] for attempt in client.attempts(request_id)] == ["refused", "completed"]
