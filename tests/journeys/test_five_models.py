"""Each model's job: one submit, the exact input, and everything that came back."""

import hashlib
import json

import pytest

from tests.journeys.driver import (
    Driver,
    addresses,
    exactly,
    listed,
    new_tag,
    picture_size,
    sample_input,
    with_addresses,
)
from tests.journeys.running import Service
from tests.stand_in import Mask, Outcome, Script, StandIn
from tests.stand_in.outputs import (
    LLAVA,
    MASKS,
    MINICPM,
    MODELS,
    NEMOTRON,
    NEMOTRON_TIMINGS,
    NEMOTRON_USAGE,
    SA2VA,
    SEED,
    UPSCALED,
    UPSCALER,
    as_json,
    image_file,
    mask_files,
    upscaled,
)
from tests.stand_in.pictures import BUILDING, TRUCK, photograph
from tests.stand_in.server import Run


def done(client: Driver, fal: StandIn, tag: str, model: str) -> tuple[str, Run]:
    request_id = client.post(tag, model)["request_id"]
    job = client.ended(request_id)
    assert job["status"] == "completed", job
    return request_id, fal.run(tag)


@pytest.mark.parametrize("model", MODELS)
def test_a_job_completes_after_exactly_one_submit(client: Driver, fal: StandIn, tag: str, model: str) -> None:
    request_id, run = done(client, fal, tag, model)
    job = client.job(request_id)
    assert (job["provider"], job["provider_request_id"]) == ("fal", run.request_id)
    assert job["model"] == model
    assert job["error"] is None
    assert len(fal.submits_of(tag)) == 1
    assert [delivery.status // 100 for delivery in fal.deliveries_of(tag)] == [2]


@pytest.mark.parametrize("model", MODELS)
def test_what_is_sent_on_is_what_the_client_sent(
    client: Driver, fal: StandIn, service: Service, tag: str, model: str
) -> None:
    done(client, fal, tag, model)
    [submit] = fal.submits_of(tag)
    assert json.loads(submit.body) == sample_input(model, tag)
    assert submit.model == model
    assert submit.headers["authorization"] == f"Key {service.fal_key}"
    assert submit.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("model", MODELS)
def test_the_output_is_the_models_but_for_the_files_addresses(
    client: Driver, fal: StandIn, service: Service, tag: str, model: str
) -> None:
    request_id, run = done(client, fal, tag, model)
    client.stored(request_id, kind="masks" if model == SA2VA else "images")
    raw = client.result(request_id).content
    ours, theirs = addresses(raw), addresses(run.outcome.body)
    assert json.loads(with_addresses(raw, lambda _: "")) == json.loads(with_addresses(run.outcome.body, lambda _: ""))
    assert all(url.startswith(f"{service.url}/") for url in ours)
    assert [client.http.get(url).content for url in ours] == [fal.file_at(url).data for url in theirs]
    assert client.job(request_id)["output"] == json.loads(raw)


@pytest.mark.parametrize("model", [NEMOTRON, LLAVA, MINICPM])
def test_an_output_without_files_is_given_back_to_the_digit(client: Driver, fal: StandIn, tag: str, model: str) -> None:
    odd = (
        b'{"output":  "\\u00e9\xc3\xa9 \\/ \xf0\x9f\x8e\xa8", "zeta": [1.50, 1E3, -0.0, 12345678901234567890], "a": 1}'
    )
    fal.script(tag, Script(outcome=lambda _: Outcome(odd)))
    request_id, _ = done(client, fal, tag, model)
    assert exactly(client.result(request_id).content) == exactly(odd)


def test_sa2va_masks_have_labels_measures_and_bytes(client: Driver, fal: StandIn, tag: str) -> None:
    request_id, run = done(client, fal, tag, SA2VA)
    job = client.stored(request_id)
    assert [mask["label"] for mask in job["masks"]] == [mask.label for mask in MASKS]
    for number, (shown, mask, claim) in enumerate(zip(job["masks"], MASKS, run.output["masks"], strict=True)):
        data = client.http.get(shown["url"]).content
        assert data == mask.png() == fal.file_at(claim["url"]).data
        assert shown["sha256"] == hashlib.sha256(data).hexdigest()
        assert (shown["index"], shown["content_type"], shown["file_size"]) == (number, "image/png", len(data))
        assert (shown["width"], shown["height"]) == mask.size
        assert shown["area_fraction"] == pytest.approx(mask.area_fraction)
        assert shown["bbox"] == mask.bbox


def test_masks_of_a_job_are_a_list_and_each_a_png(client: Driver, fal: StandIn, tag: str) -> None:
    request_id, _ = done(client, fal, tag, SA2VA)
    masks = client.stored(request_id)["masks"]
    assert listed(client.get(f"/v1/jobs/{request_id}/masks")) == masks
    for index, mask in enumerate(MASKS):
        answer = client.get(f"/v1/jobs/{request_id}/masks/{index}")
        assert answer.headers["content-type"] == "image/png"
        assert answer.content == mask.png()
    assert client.http.get(f"/v1/jobs/{request_id}/masks/{len(MASKS)}").status_code == 404


def test_masks_may_come_as_an_object_of_label_to_image(client: Driver, fal: StandIn, tag: str) -> None:
    def outcome(fal: StandIn) -> Outcome:
        files = mask_files(fal, (TRUCK, BUILDING))
        return Outcome(as_json({"output": "Two things.", "masks": {"truck": files[0], "shed": files[1]}}))

    fal.script(tag, Script(outcome=outcome))
    request_id, _ = done(client, fal, tag, SA2VA)
    masks = client.stored(request_id)["masks"]
    assert [(mask["label"], mask["sha256"]) for mask in masks] == [
        (label, hashlib.sha256(mask.png()).hexdigest()) for label, mask in (("truck", TRUCK), ("shed", BUILDING))
    ]
    assert list(client.result(request_id).json()["masks"]) == ["truck", "shed"]


def test_an_empty_mask_covers_nothing(client: Driver, fal: StandIn, tag: str) -> None:
    nothing = Mask("nothing", (40, 30), ())
    text = "There is <p> nothing </p> [SEG]."
    fal.script(
        tag, Script(outcome=lambda fal: Outcome(as_json({"output": text, "masks": mask_files(fal, (nothing,))})))
    )
    request_id, _ = done(client, fal, tag, SA2VA)
    [mask] = client.stored(request_id)["masks"]
    assert mask["area_fraction"] == 0
    assert mask["bbox"] in (None, [0, 0, 0, 0])


def test_a_job_without_masks_has_none(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(outcome=lambda _: Outcome(b'{"output": "Just words.", "masks": []}')))
    request_id, _ = done(client, fal, tag, SA2VA)
    assert client.job(request_id)["masks"] == []
    assert listed(client.get(f"/v1/jobs/{request_id}/masks")) == []
    assert client.http.get(f"/v1/jobs/{request_id}/masks/0").status_code == 404


def test_what_the_provider_claims_of_a_file_is_measured_again(client: Driver, fal: StandIn, tag: str) -> None:
    def outcome(fal: StandIn) -> Outcome:
        claim = image_file(fal, TRUCK.png(), 7, 5) | {"file_size": 1}
        return Outcome(as_json({"output": "<p> A truck </p> [SEG]", "masks": [claim]}))

    fal.script(tag, Script(outcome=outcome))
    request_id, _ = done(client, fal, tag, SA2VA)
    [mask] = client.stored(request_id)["masks"]
    assert (mask["width"], mask["height"], mask["file_size"]) == (*TRUCK.size, len(TRUCK.png()))


def test_the_upscaler_gives_image_seed_and_timings(client: Driver, fal: StandIn, tag: str) -> None:
    request_id, _ = done(client, fal, tag, UPSCALER)
    job = client.stored(request_id, kind="images")
    [image] = job["images"]
    data = client.http.get(image["url"]).content
    assert data == photograph(*UPSCALED)
    assert picture_size(data) == (image["width"], image["height"]) == UPSCALED
    assert image["sha256"] == hashlib.sha256(data).hexdigest()
    assert (job["seed"], job["timings"]["model"], job["masks"]) == (SEED, {"inference": 52.8}, [])


def test_a_seed_beyond_64_bits_keeps_its_digits(client: Driver, fal: StandIn, tag: str) -> None:
    seed = 2**64 + 1
    fal.script(tag, Script(outcome=lambda fal: Outcome(as_json(upscaled(fal) | {"seed": seed}))))
    request_id, _ = done(client, fal, tag, UPSCALER)
    assert client.result(request_id).json()["seed"] == seed
    assert client.job(request_id)["seed"] == seed


def test_nemotron_gives_usage_and_timings_under_its_own_names(client: Driver, fal: StandIn, tag: str) -> None:
    request_id, _ = done(client, fal, tag, NEMOTRON)
    job = client.job(request_id)
    assert job["usage"] == NEMOTRON_USAGE
    assert job["timings"]["model"] == NEMOTRON_TIMINGS
    assert client.get(f"/v1/jobs/{request_id}/timings").json()["model"] == NEMOTRON_TIMINGS


def test_durations_are_seconds_that_fit_together(client: Driver, fal: StandIn, tag: str) -> None:
    request_id, _ = done(client, fal, tag, LLAVA)
    job = client.job(request_id)
    parts = [job["timings"][f"{name}_seconds"] for name in ("queued", "submit", "provider", "webhook")]
    assert all(isinstance(part, int | float) and part >= 0 for part in parts)
    assert max(parts) <= job["timings"]["total_seconds"]
    moments = [job[f"{name}_at"] for name in ("created", "submitted", "completed")]
    assert moments == sorted(moments)
    assert job["usage"] == {}


def test_a_model_is_told_our_webhook_address_with_nothing_to_guess(
    client: Driver, fal: StandIn, service: Service
) -> None:
    tags = [new_tag(), new_tag()]
    for tag in tags:
        done(client, fal, tag, LLAVA)
    urls = [fal.submits_of(tag)[0].webhook_url or "" for tag in tags]
    assert all(url.startswith(f"{service.url}/webhooks/") for url in urls)
    assert len(set(urls)) == 2
