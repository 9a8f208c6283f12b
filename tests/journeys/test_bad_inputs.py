"""Whatever is wrong with a registration, the answer says so, nothing is stored and nothing is submitted.

All of it is sent by a tenant of its own, so that an unchanged list means that nothing was stored. `TAG` in a
body becomes the test's own tag, by which the stand-in would know a submission.
"""

import http.client
import json
import select
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.journeys.driver import Driver, assert_refused, exactly, sample_input
from tests.journeys.running import Service
from tests.stand_in import StandIn
from tests.stand_in.outputs import LLAVA, MINICPM, MODELS, NEMOTRON, SA2VA, UPSCALER

MEGABYTES = 1024 * 1024
PICTURE = "https://pictures.example/tag:TAG.png"
TINY_PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNg"
    "YGBgAAAABQABh6FO1AAAAABJRU5ErkJggg=="
)

WORDS = {
    b"JOB": b'MODEL, "input": INPUT',
    b"MODEL": b'"model": "fal-ai/llava-next"',
    b"PICTURE": b'"image_url": "https://a.example/"',
}
BYTES: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"model=x",
    "half an object": b'{"model": "fal-ai/llava-next", "input": {',
    "two objects": b"{}{}",
    "a list": b"[]",
    "a string": b'"job"',
    "null": b"null",
    "a trailing comma": b'{"model": "fal-ai/llava-next",}',
    "NaN": b'{JOB, "metadata": {"a": NaN}}',
    "Infinity": b'{JOB, "metadata": {"a": -Infinity}}',
    "1e999 in the metadata": b'{JOB, "metadata": {"a": 1e999}}',
    "a huge exponent": b'{JOB, "metadata": {"a": 1e200000}}',
    "a number of 5,000 digits": b'{JOB, "metadata": {"a": ' + b"9" * 5000 + b"}}",
    "a NUL in the metadata": b'{JOB, "metadata": {"a": "\\u0000"}}',
    "a NUL in a metadata key": b'{JOB, "metadata": {"\\u0000": 1}}',
    "a NUL in a tag": b'{JOB, "tags": ["\\u0000"]}',
    "a NUL in the model": b'{"model": "fal-ai/llava-next\\u0000", "input": INPUT}',
    "half a surrogate pair in the metadata": b'{JOB, "metadata": {"a": "\\ud800"}}',
    "half a surrogate pair in a tag": b'{JOB, "tags": ["\\udfff"]}',
    "a NUL in the prompt": b'{MODEL, "input": {PICTURE, "prompt": "tag:TAG \\u0000"}}',
    "half a surrogate pair in the prompt": b'{MODEL, "input": {PICTURE, "prompt": "tag:TAG \\ud800"}}',
    "a raw NUL byte": b"{JOB}\x00",
    "not UTF-8": b'{JOB, "tags": ["\xff"]}',
    "nested 1,000 deep": b'{JOB, "metadata": {"a": ' + b"[" * 1000 + b"]" * 1000 + b"}}",
    "nested 200,000 deep": b"[" * 200_000,
    "objects 100,000 deep": b'{"a":' * 100_000,
}

FIELDS: dict[str, dict[str, Any]] = {
    "no model": {"model": ...},
    "a model that is a number": {"model": 7},
    "a model that is null": {"model": None},
    "an empty model": {"model": ""},
    "no input": {"input": ...},
    "an input that is a list": {"input": []},
    "an input that is text": {"input": "https://a.example/a.png"},
    "an input that is null": {"input": None},
    "an unknown priority": {"priority": "extreme"},
    "a priority that is a number": {"priority": 1},
    "a deadline of no time": {"deadline_seconds": 0},
    "a deadline in the past": {"deadline_seconds": -1},
    "a deadline that is text": {"deadline_seconds": "soon"},
    "a deadline beyond all dates": {"deadline_seconds": 1e18},
    "metadata that is a list": {"metadata": []},
    "metadata that is text": {"metadata": "a"},
    "tags that are text": {"tags": "a"},
    "a tag that is a number": {"tags": [1]},
    "an unknown provider": {"provider": "nowhere"},
    "a webhook URL that is none": {"webhook_url": "hooks"},
    "a webhook URL that is a number": {"webhook_url": 7},
    "a webhook URL by another scheme": {"webhook_url": "ftp://hooks.example/a"},
    "a webhook URL into a file": {"webhook_url": "file:///etc/passwd"},
    "a webhook URL without a host": {"webhook_url": "http:///a"},
    "a webhook URL on loopback": {"webhook_url": "http://127.0.0.1:9/a"},
    "a webhook URL on loopback by name": {"webhook_url": "http://localhost:9/a"},
    "a webhook URL on loopback in disguise": {"webhook_url": "http://2130706433/a"},
    "a webhook URL on loopback of IPv6": {"webhook_url": "http://[::1]/a"},
    "a webhook URL on mapped loopback": {"webhook_url": "http://[::ffff:127.0.0.1]/a"},
    "a webhook URL on a private network": {"webhook_url": "http://10.1.2.3/a"},
    "a webhook URL at the cloud's metadata": {"webhook_url": "http://169.254.169.254/latest"},
}

FILE_INPUTS: dict[str, Any] = {
    "missing": ...,
    "null": None,
    "a number": 7,
    "a list": ["https://a.example/a.png"],
    "empty": "",
    "words": "not an address",
    "a path": "/etc/passwd",
    "a file": "file:///etc/passwd",
    "by FTP": "ftp://a.example/a.png",
    "a script": "javascript:alert(1)",
    "without a host": "https:///a.png",
    "only a scheme": "https://",
    "data that is not base64": "data:image/png,hello",
    "data with broken base64": "data:image/png;base64,@@@@",
    "data without a comma": "data:image/png;base64",
}

INPUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llava: prompt missing": (LLAVA, {"prompt": ...}),
    "llava: prompt null": (LLAVA, {"prompt": None}),
    "llava: prompt a number": (LLAVA, {"prompt": 7}),
    "llava: max_tokens text": (LLAVA, {"max_tokens": "many"}),
    "llava: max_tokens a fraction": (LLAVA, {"max_tokens": 1.5}),
    "llava: temperature text": (LLAVA, {"temperature": "hot"}),
    "llava: temperature a list": (LLAVA, {"temperature": [0.2]}),
    "llava: top_p text": (LLAVA, {"top_p": "all"}),
    "mini-cpm: image_urls missing": (MINICPM, {"image_urls": ...}),
    "mini-cpm: image_urls text": (MINICPM, {"image_urls": PICTURE}),
    "mini-cpm: image_urls null": (MINICPM, {"image_urls": None}),
    "mini-cpm: a number among image_urls": (MINICPM, {"image_urls": [PICTURE, 7]}),
    "mini-cpm: a path among image_urls": (MINICPM, {"image_urls": [PICTURE, "/etc/passwd"]}),
    "mini-cpm: prompt missing": (MINICPM, {"prompt": ...}),
    "sa2va: prompt missing": (SA2VA, {"prompt": ...}),
    "sa2va: prompt a list": (SA2VA, {"prompt": ["a"]}),
    "nemotron: prompt missing": (NEMOTRON, {"prompt": ...}),
    "nemotron: steps below the blocks": (NEMOTRON, {"num_inference_steps": 8}),
    "nemotron: steps not divisible": (NEMOTRON, {"num_inference_steps": 250}),
    "nemotron: alias not divisible": (NEMOTRON, {"inference_steps": 250}),
    "nemotron: alias below the blocks": (NEMOTRON, {"inference_steps": 15}),
    "nemotron: both names, two values": (NEMOTRON, {"num_inference_steps": 256, "inference_steps": 512}),
    "nemotron: explicit default not divisible": (NEMOTRON, {"max_tokens": 96, "num_inference_steps": 256}),
    "nemotron: explicit steps, odd blocks": (NEMOTRON, {"max_tokens": 65, "block_length": 32, "inference_steps": 256}),
    "nemotron: no steps": (NEMOTRON, {"num_inference_steps": 0}),
    "nemotron: steps below nothing": (NEMOTRON, {"num_inference_steps": -16}),
    "nemotron: steps text": (NEMOTRON, {"num_inference_steps": "all"}),
    "nemotron: block_length nothing": (NEMOTRON, {"block_length": 0}),
    "nemotron: block_length below nothing": (NEMOTRON, {"block_length": -32}),
    "nemotron: threshold text": (NEMOTRON, {"threshold": "high"}),
    "upscaler: factor below": (UPSCALER, {"upscale_factor": 0.99}),
    "upscaler: factor above": (UPSCALER, {"upscale_factor": 4.01}),
    "upscaler: factor text": (UPSCALER, {"upscale_factor": "twice"}),
    "upscaler: creativity below": (UPSCALER, {"creativity": -0.01}),
    "upscaler: creativity above": (UPSCALER, {"creativity": 1.01}),
    "upscaler: guidance below": (UPSCALER, {"guidance": -1}),
    "upscaler: guidance above": (UPSCALER, {"guidance": 20.5}),
    "upscaler: steps below": (UPSCALER, {"steps": 3}),
    "upscaler: steps above": (UPSCALER, {"steps": 51}),
    "upscaler: steps a fraction": (UPSCALER, {"steps": 20.5}),
    "upscaler: seed text": (UPSCALER, {"seed": "lucky"}),
    "upscaler: seed a fraction": (UPSCALER, {"seed": 1.5}),
    "upscaler: checker text": (UPSCALER, {"enable_safety_checker": "perhaps"}),
}

GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "llava: every field": (LLAVA, {"max_tokens": 64, "temperature": 0.2, "top_p": 1}),
    "llava: a data URI": (LLAVA, {"image_url": TINY_PNG, "prompt": "tag:TAG"}),
    "llava: an address without TLS": (LLAVA, {"image_url": "http://a.example/tag:TAG.png?a=1&b=%20"}),
    "mini-cpm: two pictures": (MINICPM, {"image_urls": [PICTURE, TINY_PNG]}),
    "nemotron: as few steps as blocks": (NEMOTRON, {"num_inference_steps": 16}),
    "nemotron: under the other name": (NEMOTRON, {"inference_steps": 32}),
    "nemotron: both names, one value": (NEMOTRON, {"num_inference_steps": 64, "inference_steps": 64}),
    "nemotron: steps omitted, odd blocks": (NEMOTRON, {"max_tokens": 96}),
    "nemotron: blocks rounded up": (NEMOTRON, {"max_tokens": 65, "num_inference_steps": 255}),
    "upscaler: the lowest": (UPSCALER, {"upscale_factor": 1, "creativity": 0, "guidance": 0, "steps": 4, "seed": 0}),
    "upscaler: the highest": (UPSCALER, {"upscale_factor": 4, "creativity": 1, "guidance": 20, "steps": 50}),
    "upscaler: fractions": (UPSCALER, {"upscale_factor": 2.5, "creativity": 0.30, "enable_safety_checker": False}),
}


@pytest.fixture(scope="module")
def hostile(new_tenant: Callable[[str], Driver]) -> Driver:
    return new_tenant("hostile")


@pytest.fixture
def nothing_happens(hostile: Driver, fal: StandIn, tag: str) -> Iterator[None]:
    before = hostile.ids()
    yield
    assert hostile.ids() == before
    assert fal.submits_of(tag) == []


def with_changes(body: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`...` takes a field away."""
    return {name: value for name, value in {**body, **changes}.items() if value is not ...}


def job(model: str, tag: str, /, **changes: Any) -> bytes:
    body = with_changes({"model": model, "input": sample_input(model, tag)}, changes)
    return json.dumps(body).replace("TAG", tag).encode()


def post(client: Driver, body: bytes, **headers: str) -> httpx.Response:
    return client.http.post("/v1/jobs", content=body, headers={"content-type": "application/json", **headers})


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_registration_are_refused(hostile: Driver, tag: str, name: str) -> None:
    raw = BYTES[name]
    for word, meant in WORDS.items():
        raw = raw.replace(word, meant)
    given = json.dumps(sample_input(LLAVA, tag)).encode()
    assert_refused(post(hostile, raw.replace(b"INPUT", given).replace(b"TAG", tag.encode())))


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_another_encoding_is_refused(hostile: Driver, tag: str, encoding: str) -> None:
    assert_refused(post(hostile, job(LLAVA, tag).decode().encode(encoding)))


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate"])
def test_a_packed_body_is_refused(hostile: Driver, tag: str, encoding: str) -> None:
    assert_refused(post(hostile, job(LLAVA, tag), **{"content-encoding": encoding}), 415)


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_wrong_is_named(hostile: Driver, tag: str, name: str) -> None:
    answer = post(hostile, job(LLAVA, tag, **FIELDS[name]))
    body = assert_refused(answer)
    if answer.status_code == 422:
        assert next(iter(FIELDS[name])) in json.dumps(body["detail"])


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("model", ["fal-ai/none", "fal-ai/sa2va", "../llava-next", "FAL-AI/LLAVA-NEXT"])
def test_an_unknown_model_is_not_found(hostile: Driver, tag: str, model: str) -> None:
    assert_refused(post(hostile, job(LLAVA, tag, model=model)), 404)


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("model", [LLAVA, NEMOTRON, SA2VA, UPSCALER])
@pytest.mark.parametrize("name", FILE_INPUTS)
def test_a_picture_that_is_neither_address_nor_data_is_refused(
    hostile: Driver, tag: str, model: str, name: str
) -> None:
    given = with_changes(sample_input(model, tag), {"image_url": FILE_INPUTS[name]})
    assert_invalid(post(hostile, job(model, tag, input=given)), "image_url")


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("name", INPUTS)
def test_an_input_that_does_not_fit_its_model_is_refused(hostile: Driver, tag: str, name: str) -> None:
    model, changes = INPUTS[name]
    given = with_changes(sample_input(model, tag), changes)
    assert_invalid(post(hostile, job(model, tag, input=given)))


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("field", ["temperature", "max_tokens"])
def test_a_number_that_is_none_is_refused(hostile: Driver, tag: str, field: str, number: str) -> None:
    given = sample_input(LLAVA, tag, **{field: "NUMBER"})
    assert_refused(post(hostile, job(LLAVA, tag, input=given).replace(b'"NUMBER"', number.encode())))


@pytest.mark.usefixtures("nothing_happens")
@pytest.mark.parametrize("model", MODELS)
def test_an_empty_input_is_refused_in_fals_form(hostile: Driver, tag: str, model: str) -> None:
    assert_invalid(post(hostile, job(model, tag, input={})))


@pytest.mark.usefixtures("nothing_happens")
def test_200_megabytes_are_refused_long_before_their_end(hostile: Driver, service: Service) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.putrequest("POST", "/v1/jobs")
    for name, value in (
        ("authorization", f"{hostile.http.headers['authorization']}"),
        ("content-type", "application/json"),
    ):
        connection.putheader(name, value)
    connection.putheader("content-length", str(200 * MEGABYTES))
    connection.endheaders()
    for _ in range(100):
        if select.select([connection.sock], [], [], 0)[0]:
            break
        connection.send(b" " * MEGABYTES)
    else:
        pytest.fail("no answer after half of it")
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.usefixtures("nothing_happens")
def test_a_body_of_unknown_length_is_capped_as_well(hostile: Driver) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"model": "'
        for _ in range(100):
            yield b"x" * MEGABYTES

    with suppress(httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):
        assert hostile.http.post("/v1/jobs", content=chunks()).status_code == 413


@pytest.mark.parametrize("name", GOOD)
def test_an_input_that_fits_is_sent_on_as_it_came(client: Driver, fal: StandIn, tag: str, name: str) -> None:
    model, changes = GOOD[name]
    given = json.loads(json.dumps({**sample_input(model, tag), **changes}).replace("TAG", tag))
    answer = post(client, job(model, tag, input=given))
    assert answer.status_code == 202, answer.text
    assert client.ended(answer.json()["request_id"])["status"] == "completed"
    [submit] = fal.submits_of(tag)
    assert exactly(submit.body) == exactly(json.dumps(given))


@pytest.mark.parametrize("number", [2**63, 10**30, -(10**30)])
def test_a_number_beyond_64_bits_is_refused_or_sent_on_to_the_digit(
    client: Driver, fal: StandIn, tag: str, number: int
) -> None:
    answer = post(client, job(LLAVA, tag, input=sample_input(LLAVA, tag, max_tokens=number)))
    if answer.status_code != 422:
        request_id = answer.json()["request_id"]
        assert client.ended(request_id)["input"]["max_tokens"] == number
        assert json.loads(fal.submits_of(tag)[0].body)["max_tokens"] == number


def test_odd_but_honest_text_is_taken_and_sent_on(client: Driver, fal: StandIn, tag: str) -> None:
    prompt = f"tag:{tag} é é \u202e 🎨 \\ \" \u2028 \x7f <script>alert(1)</script> '; DROP TABLE jobs; --"
    answer = post(client, job(LLAVA, tag, input=sample_input(LLAVA, tag, prompt=prompt), metadata={"é 🎨": prompt}))
    assert client.ended(answer.json()["request_id"])["metadata"] == {"é 🎨": prompt}
    assert json.loads(fal.submits_of(tag)[0].body)["prompt"] == prompt


def assert_invalid(answer: httpx.Response, *fields: str) -> None:
    """422 in fal's form: a list of `{loc, msg, type}`."""
    body = assert_refused(answer, 422)
    assert isinstance(body["detail"], list), body
    for field in fields:
        assert any(field in item["loc"] for item in body["detail"]), body
