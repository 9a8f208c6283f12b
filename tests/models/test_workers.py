"""All five models through `roundtrip gpu-worker` to a completed job, and the same inputs with fal and the sandbox."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from service.catalog import Catalog
from tests.deployment.children import Child
from tests.journeys.driver import Driver, Json, parsed
from tests.journeys.running import Service, installation
from tests.models.witness import FLUX, LLAVA, MINICPM, NEMOTRON, SA2VA
from tests.sandbox.running import Sandbox, running_sandbox
from tests.stand_in import StandIn
from tests.stand_in.server import eventually

pytestmark = pytest.mark.timeout(300)

TRUSTED = ("trust_remote_code=yes",)
TABLE: dict[str, tuple[Json, tuple[str, ...]]] = {
    LLAVA: ({"prompt": "what is here?", "max_tokens": 20, "temperature": 0}, ()),
    MINICPM: ({"prompt": "compare"}, TRUSTED),
    SA2VA: ({"prompt": "please segment both"}, TRUSTED),
    NEMOTRON: ({"prompt": "what is here?", "max_tokens": 96, "block_length": 32}, TRUSTED),
    FLUX: ({"upscale_factor": 2, "steps": 4, "seed": 7, "enable_safety_checker": False}, ("tile=64", "overlap=16")),
}


@pytest.fixture(scope="module")
def folders(
    llava_folder: Path, minicpm_folder: Path, sa2va_folder: Path, nemotron_folder: Path, flux_folder: Path
) -> dict[str, Path]:
    return dict(zip(TABLE, (llava_folder, minicpm_folder, sa2va_folder, nemotron_folder, flux_folder), strict=True))


@pytest.fixture(scope="module")
def fal() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def service(fal: StandIn) -> Iterator[Service]:
    with installation(fal, ROUNDTRIP_ALLOW_PRIVATE_NETWORKS="true") as service:
        service.start()
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[Driver]:
    with service.client() as http:
        yield Driver(http)


@pytest.fixture
def worker(request: pytest.FixtureRequest, service: Service, folders: dict[str, Path]) -> Iterator[Child]:
    """Of the model that the test is about, on the processor of this machine."""
    model: str = request.param
    options = [f"--option={option}" for option in TABLE[model][1]]
    command = [sys.executable, "-m", "service.cli", "gpu-worker", "--model", model, "--device", "cpu"]
    command += ["--weights", str(folders[model]), "--data", str(service.data), *options]
    command += ["--gather-seconds", "30"]  # What runs together then depends on the line alone.
    # A name that no other has, since its log is looked at.
    worker = Child(f"gpu-{uuid4().hex}", command, service.environment(), service.data.parent)
    worker.start()

    def ready() -> bool:
        worker.insist_alive()
        return loads(worker) > 0

    try:
        eventually(ready, within=180, every=0.1)
        yield worker
    finally:
        worker.close()


def loads(worker: Child) -> int:
    return worker.log.read_text(errors="replace").count("is loaded")


def input_of(model: str, fal: StandIn, picture: Image.Image) -> Json:
    """With a picture at an address that a worker, a provider and the sandbox can all fetch."""
    content = io.BytesIO()
    picture.save(content, "PNG")
    url = fal.serve_file(content.getvalue(), "picture.png")
    fields = dict(TABLE[model][0])
    return fields | ({"image_urls": [url, url]} if model == MINICPM else {"image_url": url})


def submitted(client: Driver, model: str, input: Json, provider: str) -> Json:
    answer = client.http.post("/v1/jobs", json={"model": model, "input": input, "provider": provider})
    assert answer.status_code == 202, answer.text
    kind = "images" if model == FLUX else "masks"
    return client.stored(parsed(answer)["request_id"], kind=kind, within=120)


def shape(value: Any) -> Any:
    """Of a payload: names and kinds; a list is the kinds of its items."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in sorted(value.items())}
    if isinstance(value, list):
        kinds = [shape(each) for each in value]
        return [kind for place, kind in enumerate(kinds) if kind not in kinds[:place]]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


@pytest.mark.parametrize(("model", "worker"), [(model, model) for model in TABLE], indirect=["worker"])
def test_a_job_is_completed_by_a_worker_in_the_form_of_fal(
    client: Driver, fal: StandIn, sandbox: Sandbox, worker: Child, picture: Image.Image, model: str
) -> None:
    input = input_of(model, fal, picture)
    job = submitted(client, model, input, "gpu")
    assert (job["status"], job["provider"], job["error"]) == ("completed", "gpu", None), job["error"]
    assert [attempt["state"] for attempt in client.attempts(job["request_id"])] == ["completed"]
    schema = Catalog().find(model).Output
    assert schema is not None
    schema.model_validate(job["output"])

    remote = submitted(client, model, input, "fal")
    assert (remote["status"], remote["provider"]) == ("completed", "fal")
    assert shape(job["output"]) == shape(remote["output"]) == shape(sandbox.run(model, **input))
    for part in ("masks", "images", "usage", "seed"):
        assert shape(job[part][:1] if part in {"masks", "images"} else job[part]) == shape(
            remote[part][:1] if part in {"masks", "images"} else remote[part]
        )
    CHECKS[model](client, job, picture)


def look_at_words(client: Driver, job: Json, picture: Image.Image) -> None:
    assert job["output"]["output"]
    assert job["masks"] == job["images"] == []


def look_at_usage(client: Driver, job: Json, picture: Image.Image) -> None:
    assert 0 < job["usage"]["completion_tokens"] <= 96
    timings = job["timings"]["model"]
    assert timings["image_validation_time"] > 0
    assert timings["total_time"] >= sum(seconds for name, seconds in timings.items() if name != "total_time")
    assert parsed(client.get(f"/v1/jobs/{job['request_id']}/timings"))["model"] == timings


def look_at_masks(client: Driver, job: Json, picture: Image.Image) -> None:
    assert [mask["label"] for mask in job["masks"]] == ["the dark part", "the bright part"]
    seen = []
    for index, mask in enumerate(job["masks"]):
        assert (mask["width"], mask["height"]) == picture.size
        opened = Image.open(io.BytesIO(client.get(f"/v1/jobs/{job['request_id']}/masks/{index}").content))
        assert (opened.mode, opened.size) == ("L", picture.size)
        seen.append(np.asarray(opened) > 127)
        assert mask["area_fraction"] == pytest.approx(seen[-1].mean(), abs=1e-6)
    assert (seen[0] ^ seen[1]).all()
    assert [mask["bbox"] for mask in job["masks"]] == [[0, 0, 45, 40], [45, 0, 75, 40]]


def look_at_image(client: Driver, job: Json, picture: Image.Image) -> None:
    [image] = job["images"]
    opened = Image.open(io.BytesIO(client.get(image["url"]).content))
    assert (opened.format, opened.size) == ("PNG", (2 * picture.width, 2 * picture.height))
    assert job["seed"] == 7
    assert job["output"]["caption"]
    assert job["timings"]["model"]["inference"] > 0


CHECKS = {
    LLAVA: look_at_words,
    MINICPM: look_at_words,
    SA2VA: look_at_masks,
    NEMOTRON: look_at_usage,
    FLUX: look_at_image,
}


@pytest.mark.parametrize("worker", [LLAVA], indirect=True)
def test_what_only_the_model_itself_can_refuse_is_a_422(
    client: Driver, fal: StandIn, worker: Child, picture: Image.Image
) -> None:
    refused = submitted(client, LLAVA, input_of(LLAVA, fal, picture) | {"max_tokens": 3000}, "gpu")
    assert (refused["status"], refused["error"]["status"]) == ("failed", 422)
    assert client.result(refused["request_id"]).json()["detail"][0]["loc"] == ["body", "max_tokens"]


@pytest.mark.parametrize("worker", [LLAVA], indirect=True)
def test_those_that_wait_are_generated_together_and_answered_as_if_they_were_alone(
    client: Driver, fal: StandIn, worker: Child, picture: Image.Image
) -> None:
    asked = [input_of(LLAVA, fal, picture) | {"prompt": f"what is number {number}?"} for number in range(5)]
    bodies = [{"model": LLAVA, "input": input, "provider": "gpu"} for input in asked]
    # The others wait for it.
    bodies[0]["input"] |= {"max_tokens": 700}
    jobs = [parsed(client.http.post("/v1/jobs", json=body))["request_id"] for body in bodies]
    answers = [client.ended(job, within=120)["output"]["output"] for job in jobs]
    logs = [[line["line"] for line in parsed(client.get(f"/v1/jobs/{job}/logs"))["logs"]] for job in jobs]
    sizes = [int(line.removeprefix("batch: ")) for lines in logs for line in lines if line.startswith("batch: ")]
    assert len(sizes) == 5
    assert max(sizes) > 1
    alone = [submitted(client, LLAVA, input, "gpu")["output"]["output"] for input in asked[1:]]
    assert answers[1:] == alone


@pytest.mark.parametrize("worker", [FLUX], indirect=True)
def test_progress_shows_and_a_cancel_leaves_the_model_loaded(
    client: Driver, fal: StandIn, worker: Child, picture: Image.Image
) -> None:
    input = input_of(FLUX, fal, picture)
    # 17 x 9 tiles of 50 steps each, which nobody waits for.
    long = input_of(FLUX, fal, picture.resize((200, 110))) | {"upscale_factor": 4, "steps": 50, "creativity": 1.0}
    answer = client.http.post("/v1/jobs", json={"model": FLUX, "input": long, "provider": "gpu"})
    assert answer.status_code == 202, answer.text
    request_id = parsed(answer)["request_id"]

    def under_way() -> Json | None:
        job = client.job(request_id)
        return job if job["progress"] and job["progress"]["of"] else None

    job = eventually(under_way, within=60, every=0.05)
    assert (job["status"], job["progress"]["of"]) == ("in_progress", 17 * 9 * 50)
    assert client.http.post(f"/v1/jobs/{request_id}/cancel").status_code == 202
    assert client.ended(request_id, within=60)["status"] == "cancelled"
    assert submitted(client, FLUX, input, "gpu")["status"] == "completed"
    assert loads(worker) == 1
