"""A whole installation whose files lie in a bucket of a real S3."""

import base64
import hashlib
import json
from collections.abc import Iterator

import pytest

from tests.artifacts.s3 import CREDENTIALS, S3, running_s3
from tests.journeys.driver import Driver, new_tag, picture_size
from tests.journeys.running import free_port, installation
from tests.stand_in import StandIn
from tests.stand_in.outputs import MASKS, SA2VA
from tests.stand_in.pictures import photograph

BUCKET = "kept"


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture
def s3(port: int) -> Iterator[S3]:
    """Each test has one that holds nothing, at the same address."""
    with running_s3(port) as s3:
        s3.new_bucket(BUCKET)
        yield s3


@pytest.fixture(scope="module")
def in_bucket(fal: StandIn, port: int) -> Iterator[Driver]:
    place = {"ROUNDTRIP_ARTIFACTS_URL": f"s3://{BUCKET}/ours", "AWS_ENDPOINT": f"http://127.0.0.1:{port}"}
    with installation(fal, **place, **CREDENTIALS, AWS_ALLOW_HTTP="true") as service:
        service.start()
        with service.client() as http:
            yield Driver(http)


def lies_in(s3: S3, sha256: str) -> bool:
    return f"ours/{sha256[:2]}/{sha256}" in s3.keys(BUCKET)


def test_masks_are_kept_there_and_served_and_drawn_from_there(in_bucket: Driver, s3: S3, fal: StandIn) -> None:
    tag, picture = new_tag(), photograph(64, 48)
    uri = "data:image/png;base64," + base64.b64encode(picture).decode()
    asked = {"image_url": uri, "prompt": f"What is here? tag:{tag}"}
    job = in_bucket.stored(in_bucket.post(tag, SA2VA, input=asked)["request_id"])
    [submit] = fal.submits_of(tag)
    assert json.loads(submit.body) == asked
    assert lies_in(s3, hashlib.sha256(picture).hexdigest())
    assert len(job["masks"]) == len(MASKS)
    for mask, ours in zip(MASKS, job["masks"], strict=True):
        assert ours["sha256"] == hashlib.sha256(mask.png()).hexdigest()
        assert lies_in(s3, ours["sha256"])
        assert in_bucket.http.get(ours["url"]).content == mask.png()
        part = in_bucket.http.get(ours["url"], headers={"range": "bytes=8-15"})
        assert (part.status_code, part.content) == (206, mask.png()[8:16])
    drawn = in_bucket.get(f"/v1/jobs/{job['request_id']}/masks/0/overlay")
    assert picture_size(drawn.content) == picture_size(picture)


def test_while_the_bucket_is_away_jobs_complete_and_their_files_are_copied_later(in_bucket: Driver, port: int) -> None:
    request_id = in_bucket.post(new_tag(), SA2VA)["request_id"]
    assert in_bucket.ended(request_id)["status"] == "completed"
    refused = in_bucket.http.post("/v1/files", content=photograph(64, 48), headers={"content-type": "image/png"})
    assert refused.status_code == 503, refused.text
    with running_s3(port) as s3:
        s3.new_bucket(BUCKET)
        masks = in_bucket.stored(request_id, within=60)["masks"]
        assert all(lies_in(s3, mask["sha256"]) for mask in masks)
