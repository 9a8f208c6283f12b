"""The stand-in keeps fal's protocol, so that what the journeys find is the service's doing."""

import hashlib
import io
import json
from collections.abc import Iterator

import httpx
import pytest
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey
from PIL import Image

from tests.stand_in import Answer, Mask, Run, Script, StandIn, webhooks
from tests.stand_in import script as scripts
from tests.stand_in.outputs import LLAVA, SA2VA
from tests.stand_in.pictures import BUILDING, LANTERN, TRUCK
from tests.stand_in.server import eventually


@pytest.fixture(scope="module")
def fal() -> Iterator[StandIn]:
    with StandIn() as fal:
        yield fal


@pytest.fixture
def client(fal: StandIn) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fal.url, trust_env=False) as client:
        yield client


def submit(client: httpx.Client, tag: str, model: str = LLAVA, hook: str | None = None) -> httpx.Response:
    params = {"fal_webhook": hook} if hook else {}
    return client.post(
        f"/{model}", json={"image_url": "https://a.example/a.png", "prompt": f"tag:{tag}"}, params=params
    )


def verifies(fal: StandIn, post: webhooks.Post) -> bool:
    sent = dict(post.headers)
    parts = [sent[f"x-fal-webhook-{name}"] for name in ("request-id", "user-id", "timestamp")]
    message = "\n".join([*parts, hashlib.sha256(post.body).hexdigest()]).encode()
    try:
        VerifyKey(bytes(fal.key.secret.verify_key)).verify(message, bytes.fromhex(sent["x-fal-webhook-signature"]))
    except BadSignatureError:
        return False
    return True


def held(fal: StandIn, client: httpx.Client, tag: str) -> Run:
    fal.script(tag, Script(holds=True))
    submit(client, tag, hook="http://127.0.0.1:9/hook")
    run = fal.run(tag)
    fal.end(run)
    return run


def test_a_submit_gives_addresses_without_the_sub_path(fal: StandIn, client: httpx.Client) -> None:
    told = submit(client, "addresses", SA2VA).json()
    assert told["status_url"] == f"{fal.url}/fal-ai/sa2va/requests/{told['request_id']}/status"
    assert client.get(told["status_url"]).json()["request_id"] == told["request_id"]


def test_a_result_is_refused_until_the_run_ends(fal: StandIn, client: httpx.Client) -> None:
    fal.script("pending", Script(holds=True))
    told = submit(client, "pending").json()
    assert client.get(told["response_url"]).status_code == 400
    assert client.get(told["status_url"]).json()["status"] == "IN_PROGRESS"
    fal.end(fal.run("pending"))
    assert client.get(told["status_url"]).json()["status"] == "COMPLETED"
    assert client.get(told["response_url"]).json() == {"output": "Leonardo da Vinci", "partial": False}


def test_submit_answers_come_in_the_scripted_order(fal: StandIn, client: httpx.Client) -> None:
    fal.script("order", Script(submits=(scripts.refusal(429, "1"), scripts.page(502), scripts.invalid(b"{}"))))
    answers = [submit(client, "order") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [429, 502, 422, 200]
    assert answers[0].headers["retry-after"] == "1"
    assert "html" in answers[1].headers["content-type"]
    assert [s.run is not None for s in fal.submits_of("order")] == [False, False, False, True]


def test_a_closed_submit_is_taken_but_never_answered(fal: StandIn, client: httpx.Client) -> None:
    fal.script("closed", Script(submits=(scripts.CLOSED,)))
    with pytest.raises(httpx.RemoteProtocolError):
        submit(client, "closed")
    assert len(fal.runs_of("closed")) == 1


def test_a_held_submit_outlasts_its_client(fal: StandIn, client: httpx.Client) -> None:
    fal.script("held", Script(submits=(scripts.HELD,)))
    with pytest.raises(httpx.ReadTimeout):
        client.post(f"/{LLAVA}", json={"prompt": "tag:held"}, timeout=0.2)
    assert len(fal.runs_of("held")) == 1


def test_every_submit_is_recorded_whole(fal: StandIn, client: httpx.Client) -> None:
    submit(client, "record", hook="http://127.0.0.1:9/hook?a=1&b=2")
    [recorded] = fal.submits_of("record")
    assert recorded.webhook_url == "http://127.0.0.1:9/hook?a=1&b=2"
    assert json.loads(recorded.body)["prompt"] == "tag:record"
    assert recorded.headers["content-type"] == "application/json"
    eventually(lambda: fal.deliveries_of("record"))
    assert fal.deliveries_of("record")[0].status == 0


def test_only_the_good_webhooks_verify(fal: StandIn, client: httpx.Client) -> None:
    run = held(fal, client, "signatures")
    bad = (webhooks.by_a_stranger, webhooks.with_flipped_bit, webhooks.emptied)
    assert verifies(fal, webhooks.good(fal, run))
    assert verifies(fal, webhooks.null_payload(fal, run))
    assert not any(verifies(fal, forge(fal, run)) for forge in bad)


def test_a_rotated_key_no_longer_signs(fal: StandIn, client: httpx.Client) -> None:
    run = held(fal, client, "rotated")
    before = webhooks.good(fal, run)
    old = fal.rotate()
    assert not verifies(fal, before)
    assert not verifies(fal, webhooks.good_by(old)(fal, run))
    assert verifies(fal, webhooks.good(fal, run))


def test_keys_come_padded_and_unpadded_and_among_strangers(fal: StandIn, client: httpx.Client) -> None:
    keys = client.get("/.well-known/jwks.json").json()["keys"]
    assert sorted(len(key["x"]) for key in keys if key["kid"].startswith("key-")) == [43, 44]
    assert {key["kty"] for key in keys} == {"OKP", "RSA"}


def test_keys_can_be_away(fal: StandIn, client: httpx.Client) -> None:
    fal.keys_away = True
    assert client.get("/.well-known/jwks.json").status_code == 503
    fal.keys_away = False


def test_files_are_gone_some_time_after_they_were_disclosed(fal: StandIn, client: httpx.Client) -> None:
    fal.script("expiry", Script(holds=True, file_seconds=0.2))
    told = submit(client, "expiry", SA2VA).json()
    fal.end(fal.run("expiry"))
    url = client.get(told["response_url"]).json()["masks"][0]["url"]
    assert client.get(url).content == TRUCK.png()
    eventually(lambda: client.get(url).status_code == 404, within=30)


@pytest.mark.parametrize("word", ["requested", "removed", "ignored"])
def test_a_cancel_does_what_the_script_says(fal: StandIn, client: httpx.Client, word: str) -> None:
    fal.script(f"cancel-{word}", Script(holds=True, cancel=word))  # type: ignore[arg-type]
    told = submit(client, f"cancel-{word}").json()
    assert client.put(told["cancel_url"]).status_code == (200 if word == "removed" else 202)
    assert fal.run(f"cancel-{word}").ended is (word != "ignored")


@pytest.mark.parametrize("mask", [TRUCK, BUILDING, LANTERN, Mask("nothing", (9, 7), ())])
def test_a_mask_is_drawn_as_its_figures_say(mask: Mask) -> None:
    with Image.open(io.BytesIO(mask.png())) as picture:
        pixels = picture.convert("L")
    lit = [(x, y) for y in range(pixels.height) for x in range(pixels.width) if pixels.getpixel((x, y))]
    assert pixels.size == mask.size
    assert len(lit) / (pixels.width * pixels.height) == pytest.approx(mask.area_fraction)
    assert (mask.bbox is None) is (not lit)
    if mask.bbox is not None:
        xs, ys = [x for x, _ in lit], [y for _, y in lit]
        assert [min(xs), min(ys), max(xs) + 1, max(ys) + 1] == mask.bbox


def test_status_words_and_answers_can_be_scripted(fal: StandIn, client: httpx.Client) -> None:
    sick = Answer("http", 500, b"oops")
    fal.script("words", Script(webhooks=(), statuses=(sick,), progress=("IN_QUEUE", "IN_PROGRESS")))
    told = submit(client, "words").json()
    assert client.get(told["status_url"]).status_code == 500
    words = [client.get(told["status_url"]).json()["status"] for _ in range(3)]
    assert words == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
