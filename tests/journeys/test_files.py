"""Copies of a job's files: made before the provider's expire, kept to the byte, served by us."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.journeys.driver import Driver, addresses, new_tag
from tests.stand_in import Outcome, Script, StandIn
from tests.stand_in.outputs import MASKS, SA2VA, SEGMENTED, UPSCALER, as_json, image_file, mask_files
from tests.stand_in.pictures import photograph
from tests.stand_in.script import Webhook
from tests.stand_in.server import eventually

SHORT = 1.5


@pytest.mark.parametrize("hooks", [None, ()], ids=["webhook", "poll"])
def test_files_that_expire_soon_are_kept(
    client: Driver, fal: StandIn, tag: str, hooks: tuple[Webhook, ...] | None
) -> None:
    fal.script(tag, Script(file_seconds=SHORT, webhooks=hooks))
    request_id = client.post(tag, SA2VA)["request_id"]
    masks = client.stored(request_id)["masks"]
    theirs = [mask["url"] for mask in fal.run(tag).output["masks"]]
    eventually(lambda: all(client.http.get(url).status_code == 404 for url in theirs))
    assert [client.http.get(mask["url"]).content for mask in masks] == [mask.png() for mask in MASKS]


def test_a_burst_of_files_that_expire_soon_is_kept(client: Driver, fal: StandIn) -> None:
    """Ten jobs end in the same moment, with thirty masks that can be had for 1.5 s."""
    tags = [new_tag() for _ in range(10)]
    for tag in tags:
        fal.script(tag, Script(holds=True, file_seconds=SHORT))
    ids = [client.post(tag, SA2VA)["request_id"] for tag in tags]
    runs = [fal.run(tag) for tag in tags]
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(fal.finish, runs))
    assert [len(client.stored(request_id)["masks"]) for request_id in ids] == [3] * 10


def test_an_upscaled_image_that_expires_soon_is_kept(client: Driver, fal: StandIn, tag: str) -> None:
    fal.script(tag, Script(file_seconds=SHORT))
    request_id = client.post(tag, UPSCALER)["request_id"]
    [image] = client.stored(request_id, kind="images")["images"]
    [theirs] = addresses(fal.run(tag).outcome.body)
    eventually(lambda: client.http.get(theirs).status_code == 404)
    assert hashlib.sha256(client.http.get(image["url"]).content).hexdigest() == image["sha256"]
    assert addresses(client.result(request_id).content) == [image["url"]]


def test_a_file_that_is_already_gone_leaves_the_job_completed(client: Driver, fal: StandIn, tag: str) -> None:
    def outcome(fal: StandIn) -> Outcome:
        files = mask_files(fal, MASKS[:1])
        missing = files[0] | {"url": f"{fal.url}/files/never-there.png"}
        return Outcome(as_json({"output": SEGMENTED, "masks": [files[0], missing]}))

    fal.script(tag, Script(outcome=outcome))
    job = client.ended(client.post(tag, SA2VA)["request_id"])
    assert job["status"] == "completed"
    eventually(lambda: client.job(job["request_id"])["masks"][0]["sha256"])
    missing = client.job(job["request_id"])["masks"][1]
    assert (missing["url"], missing["sha256"]) == (f"{fal.url}/files/never-there.png", None)


def test_a_file_that_is_no_picture_does_not_harm_the_job(client: Driver, fal: StandIn, tag: str) -> None:
    def outcome(fal: StandIn) -> Outcome:
        return Outcome(as_json({"output": SEGMENTED, "masks": [image_file(fal, b"<html>not a picture</html>", 1, 1)]}))

    fal.script(tag, Script(outcome=outcome))
    job = client.ended(client.post(tag, SA2VA)["request_id"])
    assert job["status"] == "completed"
    assert len(client.job(job["request_id"])["masks"]) == 1


def test_a_stored_page_is_never_served_as_a_page(client: Driver, fal: StandIn, tag: str) -> None:
    def outcome(fal: StandIn) -> Outcome:
        image = image_file(fal, b"<html><script>alert(1)</script></html>", 1, 1)
        return Outcome(as_json({"image": image, "seed": 1, "timings": {}, "caption": ""}))

    fal.script(tag, Script(outcome=outcome))
    job = client.ended(client.post(tag, UPSCALER)["request_id"])
    [url] = addresses(client.result(job["request_id"]).content)
    if not url.startswith(fal.url):
        assert "html" not in client.http.get(url).headers["content-type"]


def test_one_file_named_twice_is_two_masks(client: Driver, fal: StandIn, tag: str) -> None:
    def outcome(fal: StandIn) -> Outcome:
        [file] = mask_files(fal, MASKS[:1])
        return Outcome(as_json({"output": SEGMENTED, "masks": [file, file]}))

    fal.script(tag, Script(outcome=outcome))
    masks = client.stored(client.post(tag, SA2VA)["request_id"])["masks"]
    assert [mask["label"] for mask in masks] == ["A white pickup truck", "the red building"]
    assert len({mask["sha256"] for mask in masks}) == 1


def test_a_larger_picture_is_kept_to_the_byte(client: Driver, fal: StandIn, tag: str) -> None:
    data = photograph(2048, 1536)

    def outcome(fal: StandIn) -> Outcome:
        image = image_file(fal, data, 2048, 1536)
        return Outcome(as_json({"image": image, "seed": 1, "timings": {"inference": 1}, "caption": "A gradient."}))

    fal.script(tag, Script(outcome=outcome))
    [image] = client.stored(client.post(tag, UPSCALER)["request_id"], kind="images")["images"]
    assert client.http.get(image["url"]).content == data
    assert (image["width"], image["height"], image["file_size"]) == (2048, 1536, len(data))
