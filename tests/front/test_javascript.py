"""npm's `@fal-ai/client`, unmodified, in Node: the calls of fal's own pages."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.front.running import HERE, node
from tests.journeys.driver import new_tag, sample_input
from tests.journeys.running import Service
from tests.stand_in import Outcome, Script, StandIn
from tests.stand_in.outputs import LLAVA, MODELS, SA2VA
from tests.stand_in.pictures import photograph

LARGE_BYTES = 91 * 2**20


def call(service: Service, name: str, **asked: Any) -> Any:
    script = HERE / "javascript" / f"{name}.mjs"
    return node(script, ROUNDTRIP_URL=service.url, ROUNDTRIP_KEY=service.admin_key, ASKED=json.dumps(asked))


def told(output: dict[str, Any]) -> dict[str, Any]:
    """Without what may differ: files move to their copies, and JavaScript's numbers end at 2**53."""
    masks = [mask["file_size"] for mask in output.get("masks", [])]
    return {name: value for name, value in output.items() if name not in {"masks", "image", "seed"}} | {"masks": masks}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mode", ["polling", "streaming"])
def test_subscribe(service: Service, fal: StandIn, model: str, mode: str) -> None:
    tag = new_tag()
    said = call(service, "subscribe", model=model, input=sample_input(model, tag), mode=mode)
    run = fal.run(tag)
    job = service.client().get(f"/v1/jobs/{said['requestId']}").json()
    assert told(said["data"]) == told(job["output"]) == told(run.output)
    assert said["enqueued"] == [said["requestId"]] == [job["request_id"]]
    assert said["statuses"][-1] == "COMPLETED"
    assert said["messages"][-1] == "The request is completed."
    if mode == "streaming":
        assert len(said["messages"]) == len(set(said["messages"]))
    [submit] = fal.submits_of(tag)
    assert json.loads(submit.body) == sample_input(model, tag)


def test_a_request_that_runs_is_told_with_its_logs(service: Service, fal: StandIn) -> None:
    tag = new_tag()
    fal.script(tag, Script(seconds=4, webhooks=None))
    said = call(service, "subscribe", model=LLAVA, input=sample_input(LLAVA, tag), mode="streaming")
    assert said["statuses"] == sorted(said["statuses"], key=["IN_QUEUE", "IN_PROGRESS", "COMPLETED"].index)
    assert "IN_PROGRESS" in said["statuses"]
    assert "The provider is working on the request." in said["messages"]


def test_the_queue_by_hand(service: Service, fal: StandIn) -> None:
    tag = new_tag()
    hook = "https://optional.webhook.url/for/results"
    said = call(service, "queue", model=SA2VA, input=sample_input(SA2VA, tag), webhookUrl=hook, waits=True)
    request_id = said["submitted"]["request_id"]
    job = service.client().get(f"/v1/jobs/{request_id}").json()
    assert (job["webhook_url"], job["priority"], job["status"]) == (hook, "low", "completed")
    assert said["status"]["status"] == "COMPLETED"
    assert (said["result"]["requestId"], len(said["result"]["data"]["masks"])) == (request_id, 3)
    [submit] = fal.submits_of(tag)
    assert (submit.headers["x-fal-queue-priority"], submit.headers["x-fal-runner-hint"]) == ("low", "h-1")


def test_a_result_too_early_and_a_cancel(service: Service, fal: StandIn) -> None:
    tag = new_tag()
    fal.script(tag, Script(holds=True))
    said = call(service, "queue", model=LLAVA, input=sample_input(LLAVA, tag), cancels=True)
    assert said["first"]["status"] == "IN_QUEUE"
    assert isinstance(said["first"]["queue_position"], int)
    assert said["early"] == {"status": 400, "message": "Request is still in progress."}
    assert said["cancelled"] == "done"


def test_run_and_stream(service: Service, fal: StandIn) -> None:
    tag = new_tag()
    said = call(service, "running", model=LLAVA, input=sample_input(LLAVA, tag))
    outputs = [run.output for run in fal.runs_of(tag)]
    assert [said["run"]["data"], said["got"]["data"], said["done"]] == outputs
    assert said["told"] == [outputs[2]]
    ids = [said["run"]["requestId"], said["got"]["requestId"]]
    assert [service.client().get(f"/v1/jobs/{each}").json()["output"] for each in ids] == outputs[:2]


@pytest.mark.parametrize("name", ["subscribe", "run"])
def test_an_input_that_does_not_fit(service: Service, name: str) -> None:
    said = call(service, "failing", call=name, model=LLAVA, input={"prompt": "What?"})
    assert (said["name"], said["status"]) == ("ValidationError", 422)
    assert [problem["loc"] for problem in said["body"]["detail"]] == [["body", "image_url"]]
    assert said["requestId"]


@pytest.mark.parametrize("name", ["subscribe", "run"])
def test_a_failure_of_the_models(service: Service, fal: StandIn, name: str) -> None:
    tag = new_tag()
    body = b'{"detail":[{"loc":["body","image_url"],"msg":"It is too small.","type":"image_too_small"}]}'
    fal.script(tag, Script(outcome=lambda _: Outcome(body, 422)))
    said = call(service, "failing", call=name, model=LLAVA, input=sample_input(LLAVA, tag))
    assert (said["name"], said["status"], said["body"]) == ("ValidationError", 422, json.loads(body))


def test_an_unknown_model(service: Service) -> None:
    said = call(service, "failing", call="subscribe", model="no/such", input={})
    assert (said["status"], said["failed"]) == (404, True)
    assert "There is no model 'no/such'" in said["message"]


def test_uploads(service: Service, fal: StandIn, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(photograph(64, 48))
    tag = new_tag()
    said = call(service, "uploading", model=LLAVA, prompt=f"tag:{tag}", picture=str(picture), largeBytes=LARGE_BYTES)
    with httpx.Client(trust_env=False, timeout=30) as anybody:
        text = anybody.get(said["text"])
        assert (text.content, text.headers["content-type"]) == (b"Hello, World!", "text/plain")
        assert anybody.get(said["unnamed"]).content == bytes([1, 2, 3])
        large = anybody.head(said["large"])
        assert large.headers["content-length"] == str(LARGE_BYTES)
        part = anybody.get(said["large"], headers={"range": f"bytes={LARGE_BYTES - 2}-"})
        assert (part.status_code, part.content) == (206, bytes([7, 7]))
        [submit] = fal.submits_of(tag)
        assert anybody.get(json.loads(submit.body)["image_url"]).content == picture.read_bytes()
