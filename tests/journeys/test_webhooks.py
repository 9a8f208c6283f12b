"""Each kind of webhook, good and bad, and what becomes of its job.

A job that `holds` is ended by nobody but the test, so that what a webhook did to it can be told apart from
what a poll found.
"""

import json
from dataclasses import replace

import pytest

from tests.journeys.driver import ENDED, Driver, Json, assert_error, exactly, new_tag
from tests.stand_in import Answer, Outcome, Script, StandIn, webhooks
from tests.stand_in import script as scripts
from tests.stand_in.outputs import LLAVA, NEMOTRON, SA2VA, as_json, mask_files
from tests.stand_in.pictures import TRUCK
from tests.stand_in.script import Webhook
from tests.stand_in.server import Run, eventually

LOST = Script(webhooks=())
HOLDS = Script(holds=True)
OTHER_TEXT = Outcome(as_json({"output": "Somebody else drew this."}))
REFUSAL = Outcome(
    as_json({"detail": [{"loc": ["body", "image_url"], "msg": "Too small é", "type": "image_too_small", "ctx": {}}]}),
    status=422,
)

FORGED: dict[str, Webhook] = {
    "signed by a key that is not fal's": webhooks.by_a_stranger,
    "one bit of the body flipped": webhooks.with_flipped_bit,
    "the body emptied": webhooks.emptied,
    "a signature of zeros": webhooks.with_header("x-fal-webhook-signature", webhooks.ZERO_SIGNATURE),
    "a signature that is too short": webhooks.with_short_signature,
    "a signature that is not hexadecimal": webhooks.with_header("x-fal-webhook-signature", "zz" * 64),
    "an empty signature": webhooks.with_header("x-fal-webhook-signature", ""),
    "two signatures": webhooks.with_header_twice("x-fal-webhook-signature", webhooks.ZERO_SIGNATURE),
    "two timestamps": webhooks.with_header_twice("x-fal-webhook-timestamp", "1"),
    "no signature": webhooks.without_header("x-fal-webhook-signature"),
    "no timestamp": webhooks.without_header("x-fal-webhook-timestamp"),
    "no request ID": webhooks.without_header("x-fal-webhook-request-id"),
    "no account": webhooks.without_header("x-fal-webhook-user-id"),
    "another request ID in the header": webhooks.with_header("x-fal-webhook-request-id", "another"),
    "another account in the header": webhooks.with_header("x-fal-webhook-user-id", "another"),
    "another time in the header": webhooks.with_header("x-fal-webhook-timestamp", "1800000000"),
    "a time with a fraction": webhooks.with_header("x-fal-webhook-timestamp", "1800000000.5"),
    "a time below zero": webhooks.with_header("x-fal-webhook-timestamp", "-1"),
    "a time of twenty digits": webhooks.with_header("x-fal-webhook-timestamp", "18000000000000000000"),
    "a time that is no number": webhooks.with_header("x-fal-webhook-timestamp", "now"),
    "301 s old": webhooks.shifted(-301),
    "an hour old": webhooks.shifted(-3600),
    "302 s in the future": webhooks.shifted(302),
    "validly signed for another account": webhooks.for_another_account,
}

GARBAGE = {
    "html": scripts.PAGE,
    "nothing": b"",
    "half of a JSON object": b'{"request_id": "',
    "not UTF-8": b'{"request_id": "\xff\xfe"}',
    "a list": b"[]",
    "a string": b'"OK"',
    "null": b"null",
    "an object of nothing": b"{}",
    "nested without end": b"[" * 100_000,
    "a number of a million digits": b"1" * 1_000_000,
}


def held(client: Driver, fal: StandIn, tag: str, model: str = LLAVA, script: Script = HOLDS) -> tuple[str, Run]:
    """A job whose submission is over, and its run, whose outcome is known but not told."""
    fal.script(tag, script)
    request_id = client.post(tag, model)["request_id"]
    client.reaches(request_id, "submitted", "in_progress")
    run = fal.run(tag)
    eventually(lambda: client.job(request_id)["provider_request_id"] == run.request_id)
    fal.end(run)
    run.ended = False
    return request_id, run


def completed(client: Driver, fal: StandIn, tag: str, script: Script, model: str = LLAVA) -> tuple[str, Run]:
    fal.script(tag, script)
    request_id = client.post(tag, model)["request_id"]
    assert client.ended(request_id)["status"] == "completed"
    return request_id, fal.run(tag)


def settled(job: Json) -> Json:
    """What may not change any more once a job has ended."""
    return {name: job[name] for name in ("status", "output", "error", "completed_at", "provider_request_id", "timings")}


@pytest.mark.parametrize("name", FORGED)
def test_a_webhook_that_proves_nothing_is_refused_and_changes_nothing(
    client: Driver, fal: StandIn, tag: str, name: str
) -> None:
    request_id, run = held(client, fal, tag)
    assert fal.deliver(run, FORGED[name]).status == 401
    assert client.job(request_id)["status"] not in ENDED
    assert fal.deliver(run).status // 100 == 2
    assert client.ended(request_id)["status"] == "completed"


def test_every_refusal_of_a_webhook_reads_the_same(client: Driver, fal: StandIn, tag: str) -> None:
    _, run = held(client, fal, tag)
    assert len({fal.deliver(run, forge).body for forge in FORGED.values()}) == 1
    fal.deliver(run)


@pytest.mark.parametrize("shift", [-295, 295])
def test_a_webhook_within_five_minutes_counts(client: Driver, fal: StandIn, tag: str, shift: int) -> None:
    request_id, run = held(client, fal, tag)
    assert fal.deliver(run, webhooks.shifted(shift)).status // 100 == 2
    assert client.ended(request_id)["status"] == "completed"


def test_a_key_published_with_padding_counts(client: Driver, fal: StandIn, tag: str) -> None:
    request_id, run = held(client, fal, tag)
    assert fal.deliver(run, webhooks.good_by(fal.padded_key)).status // 100 == 2
    assert client.ended(request_id)["status"] == "completed"


def test_a_key_that_appears_later_counts(client: Driver, fal: StandIn, tag: str) -> None:
    """fal tries again for long; a service that limits how often it asks for keys may need some tries."""
    request_id, run = held(client, fal, tag)
    fal.rotate()
    eventually(lambda: fal.deliver(run).status // 100 == 2, within=120, every=1)
    assert client.ended(request_id)["status"] == "completed"
    assert len(fal.submits_of(tag)) == 1


def test_forgeries_do_not_make_us_ask_for_keys_each_time(client: Driver, fal: StandIn, tag: str) -> None:
    """Else whoever forges webhooks makes us a hammer on fal's key server."""
    _, run = held(client, fal, tag)
    before = fal.key_reads
    for _ in range(120):
        fal.deliver(run, webhooks.by_a_stranger)
    assert fal.key_reads - before <= 60
    fal.deliver(run)


@pytest.mark.parametrize("name", GARBAGE)
def test_a_signed_body_that_is_no_webhook_changes_nothing(client: Driver, fal: StandIn, tag: str, name: str) -> None:
    request_id, run = held(client, fal, tag)
    assert fal.deliver(run, webhooks.body(GARBAGE[name])).status < 500
    assert client.job(request_id)["status"] not in ENDED
    assert fal.deliver(run).status // 100 == 2
    assert client.ended(request_id)["status"] == "completed"


def test_repeated_keys_in_a_webhook_do_not_smuggle_a_second_reading(client: Driver, fal: StandIn, tag: str) -> None:
    request_id, run = held(client, fal, tag)
    doubled = webhooks.envelope(run, run.outcome)[:-1] + b', "request_id": "another"}'
    assert fal.deliver(run, webhooks.body(doubled)).status < 500
    assert client.job(request_id)["status"] not in ENDED
    fal.deliver(run)


def test_a_duplicate_is_acknowledged_and_changes_nothing(client: Driver, fal: StandIn, tag: str) -> None:
    request_id, run = completed(client, fal, tag, Script(webhooks=(webhooks.good, webhooks.good)))
    before = settled(client.job(request_id))
    eventually(lambda: len(fal.deliveries_of(tag)) == 2)
    fal.deliver(run)
    assert [delivery.status // 100 for delivery in fal.deliveries_of(tag)] == [2, 2, 2]
    assert settled(client.job(request_id)) == before
    assert [event["status"] for event in client.events(request_id)].count("completed") == 1


@pytest.mark.parametrize("second", [OTHER_TEXT, REFUSAL], ids=["another result", "a failure"])
def test_a_conflicting_second_webhook_is_never_applied(client: Driver, fal: StandIn, tag: str, second: Outcome) -> None:
    request_id, run = completed(client, fal, tag, Script())
    before, raw = settled(client.job(request_id)), client.result(request_id).content
    assert fal.deliver(run, webhooks.with_outcome(second)).status // 100 == 2
    assert settled(client.job(request_id)) == before
    assert client.result(request_id).content == raw


def test_a_success_after_a_failure_is_never_applied(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(outcome=lambda _: REFUSAL))
    request_id = client.post(tag)["request_id"]
    before = settled(client.ended(request_id))
    fal.deliver(fal.run(tag), webhooks.with_outcome(OTHER_TEXT))
    assert settled(client.job(request_id)) == before


def test_a_crossed_webhook_changes_neither_job(client: Driver, fal: StandIn, tag: str) -> None:
    """Anybody with an account can have fal sign a webhook; only this attempt's own counts."""
    (mine, run), (theirs, other_run) = held(client, fal, tag), held(client, fal, new_tag())
    for forge in (webhooks.crossed(other_run), webhooks.crossed_headers(other_run)):
        assert fal.deliver(run, forge).status < 500
        assert {client.job(request_id)["status"] for request_id in (mine, theirs)}.isdisjoint(ENDED)
    for each in (run, other_run):
        assert fal.deliver(each).status // 100 == 2
    assert [client.ended(request_id)["provider_request_id"] for request_id in (mine, theirs)] == [
        run.request_id,
        other_run.request_id,
    ]


def test_a_webhook_at_an_address_with_a_wrong_secret_changes_nothing(client: Driver, fal: StandIn, tag: str) -> None:
    request_id, run = held(client, fal, tag)
    assert fal.deliver(run, webhooks.to_a_wrong_secret).status < 500
    assert client.job(request_id)["status"] not in ENDED
    fal.deliver(run)


def test_an_early_webhook_finds_its_job(client: Driver, fal: StandIn, tag: str) -> None:
    request_id, run = completed(client, fal, tag, Script(early=True))
    job = eventually(lambda: named(client.job(request_id)))
    assert (job["provider_request_id"], len(fal.submits_of(tag))) == (run.request_id, 1)
    assert fal.deliveries_of(tag)[0].status // 100 == 2
    assert [attempt["state"] for attempt in client.attempts(request_id)] == ["completed"]


def named(job: Json) -> Json | None:
    return job if job["provider_request_id"] else None


def test_the_times_of_an_early_end_are_in_order(client: Driver, fal: StandIn, tag: str) -> None:
    request_id, _ = completed(client, fal, tag, Script(early=True, answer_seconds=(0.05, 0.1)))
    job = eventually(lambda: named(client.job(request_id)))
    moments = [job[f"{name}_at"] for name in ("created", "submitted", "completed") if job[f"{name}_at"]]
    assert moments == sorted(moments)
    spans = [span for name, span in job["timings"].items() if name != "model" and span is not None]
    assert 0 <= min(spans) <= max(spans) == job["timings"]["total_seconds"]


def test_early_files_are_stored_as_well(client: Driver, fal: StandIn, tag: str) -> None:
    request_id, _ = completed(client, fal, tag, Script(early=True, answer_seconds=(0.1, 0.3)), SA2VA)
    assert len(client.stored(request_id)["masks"]) == 3


def test_a_lost_webhook_is_made_up_for_by_polling(client: Driver, fal: StandIn, tag: str) -> None:
    request_id, run = completed(client, fal, tag, LOST)
    assert exactly(client.result(request_id).content) == exactly(run.outcome.body)
    assert (len(fal.submits_of(tag)), fal.deliveries_of(tag)) == (1, [])


def test_a_lost_failure_is_found_by_polling_with_its_status_and_body(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, replace(LOST, outcome=lambda _: REFUSAL))
    request_id = client.post(tag)["request_id"]
    assert client.ended(request_id)["status"] == "failed"
    answer = client.result(request_id)
    assert (answer.status_code, answer.json()) == (422, json.loads(REFUSAL.body))


def test_polling_survives_sick_answers(client: Driver, fal: StandIn, tag: str) -> None:
    sick = tuple(Answer("http", status, b"<html>", (("content-type", "text/html"),)) for status in (500, 403, 429, 200))
    fal.script(tag, replace(LOST, statuses=(*sick, Answer("close")), results=(scripts.page(502), scripts.page(200))))
    request_id = client.post(tag)["request_id"]
    assert client.ended(request_id, within=60)["status"] == "completed"
    assert exactly(client.result(request_id).content) == exactly(fal.run(tag).outcome.body)


FORGOTTEN = Answer("http", 404, b'{"status": "NOT_FOUND"}', (("content-type", "application/json"),))


def test_a_request_that_the_provider_mislays_for_a_moment_is_not_given_up(
    client: Driver, fal: StandIn, tag: str
) -> None:
    request_id, run = completed(client, fal, tag, replace(LOST, statuses=(FORGOTTEN, FORGOTTEN)))
    assert exactly(client.result(request_id).content) == exactly(run.outcome.body)


def test_a_request_that_the_provider_forgot_for_good_fails_the_job(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(holds=True, statuses=(FORGOTTEN,) * 1000))
    request_id = client.post(tag)["request_id"]
    job = client.ended(request_id, within=60)
    assert (job["status"], len(fal.submits_of(tag))) == ("failed", 1)
    assert_error(client.result(request_id))


def test_a_job_never_goes_backwards(client: Driver, fal: StandIn, tag: str) -> None:
    words = ("IN_QUEUE", "IN_PROGRESS", "IN_QUEUE", "IN_PROGRESS")
    fal.script(tag, Script(holds=True, webhooks=(), progress=words))
    request_id = client.post(tag)["request_id"]
    seen = ["queued"]

    def look() -> bool:
        job = client.job(request_id)
        if job["status"] != seen[-1]:
            seen.append(job["status"])
        if fal.runs_of(tag) and fal.run(tag).status_reads >= len(words):
            fal.end(fal.run(tag))
        return job["status"] in ENDED

    eventually(look, within=60, every=0.05)
    ranks = ["queued", "submitted", "in_progress", "completed"]
    assert [ranks.index(word) for word in seen] == sorted({ranks.index(word) for word in seen})
    assert "in_progress" in seen


@pytest.mark.parametrize("empty", [webhooks.null_payload, webhooks.null_error_payload], ids=["OK", "ERROR"])
def test_a_null_payload_is_fetched_from_the_queue(client: Driver, fal: StandIn, tag: str, empty: Webhook) -> None:
    request_id, run = completed(client, fal, tag, Script(webhooks=(empty,)))
    assert exactly(client.result(request_id).content) == exactly(run.outcome.body)
    assert run.result_reads >= 1
    assert fal.deliveries_of(tag)[0].status // 100 == 2


def test_another_gateway_attempt_of_fals_own_still_counts(client: Driver, fal: StandIn, tag: str) -> None:
    request_id, run = completed(client, fal, tag, Script(webhooks=(webhooks.other_gateway,), holds=False))
    newest = f"gateway-{run.request_id}"
    assert client.job(newest)["request_id"] == request_id
    assert client.attempts(request_id)[0]["gateway_request_id"] == newest


def test_a_failed_model_fails_the_job_with_its_own_status_and_body(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(outcome=lambda _: REFUSAL))
    job = client.ended(client.post(tag)["request_id"])
    assert (job["status"], job["output"]) == ("failed", None)
    assert job["error"]
    answer = client.result(job["request_id"])
    assert answer.status_code == 422
    assert exactly(answer.content) == exactly(REFUSAL.body)
    assert len(fal.submits_of(tag)) == 1


@pytest.mark.parametrize("status", [500, 504])
def test_a_broken_model_fails_the_job_with_its_own_status(client: Driver, fal: StandIn, tag: str, status: int) -> None:
    body = b'{"detail": "Internal error", "error_type": "runner_server_error"}'
    fal.script(tag, Script(outcome=lambda _: Outcome(body, status)))
    job = client.ended(client.post(tag)["request_id"])
    assert job["status"] == "failed"
    assert (client.result(job["request_id"]).status_code, len(fal.submits_of(tag))) == (status, 1)


TEXTS = {
    "NUL characters": b'{"output": "before\\u0000after\\u0000"}',
    "half a surrogate pair": b'{"output": "\\ud800 alone"}',
    "control characters": '{"output": "\\u0001\\u202e\\ufeff <script>alert(1)</script> é e\u0301 🎨"}'.encode(),
    "three megabytes": as_json({"output": "Æther " * 450_000}),
    "NUL under other names": b'{"output": "x", "usage": {"a\\u0000b": 1}, "timings": {"t\\u0000": 0.5}}',
}


@pytest.mark.parametrize("how", ["webhook", "poll"])
@pytest.mark.parametrize("name", TEXTS)
def test_hard_text_survives_byte_for_byte(client: Driver, fal: StandIn, tag: str, name: str, how: str) -> None:
    script = Script(webhooks=() if how == "poll" else None, outcome=lambda _: Outcome(TEXTS[name]))
    request_id, _ = completed(client, fal, tag, script)
    assert exactly(client.result(request_id).content) == exactly(TEXTS[name])
    assert client.get(f"/v1/jobs/{request_id}").content


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_number_that_json_does_not_know_keeps_no_job_from_ending(
    client: Driver, fal: StandIn, tag: str, number: str
) -> None:
    """Python models write them. Whatever is made of it, the job ends and can be read."""
    raw = f'{{"output": "x", "usage": {{"a": {number}}}, "timings": {{"t": {number}}}}}'.encode()
    fal.script(tag, Script(outcome=lambda _: Outcome(raw)))
    job = client.ended(client.post(tag, NEMOTRON)["request_id"])
    assert job["status"] in ("completed", "failed")
    assert client.result(job["request_id"]).content


def test_a_hard_label_survives(client: Driver, fal: StandIn, tag: str) -> None:
    """A NUL is kept or left out of the label, but the mask is there; the output has every character."""
    text = "<p> a\u0000 truck </p> [SEG]"
    script = Script(outcome=lambda fal: Outcome(as_json({"output": text, "masks": mask_files(fal, (TRUCK,))})))
    request_id, _ = completed(client, fal, tag, script, SA2VA)
    [mask] = client.stored(request_id)["masks"]
    assert "truck" in mask["label"]
    assert client.result(request_id).json()["output"] == text
