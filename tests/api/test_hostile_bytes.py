"""What no client should send: refused in the one form of errors, and nothing of it is stored."""

import gzip
import json

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.api import registering
from service.db import Database
from tests import making
from tests.api.asking import JOB, is_problem

START = '{"model": "fal-ai/llava-next", "input": {"image_url": "https://a.example/x", "prompt": '


def job(prompt: str, more: str = "") -> bytes:
    return f"{START}{prompt}}}{more}}}".encode()


GOOD = json.dumps(JOB)
HOSTILE = {
    "empty": b"",
    "white space": b" \n",
    "no JSON": b"hello",
    "half of it": GOOD[:-1].encode(),
    "something behind it": f"{GOOD} x".encode(),
    "a list": b"[]",
    "a number": b"1",
    "a string": b'"x"',
    "null": b"null",
    "NUL": job(r'"a\u0000b"'),
    "a bare NUL": job('"a\0b"'),
    "NUL in a key": job('"x", "a\\u0000": 1'),
    "a lone surrogate": job(r'"\ud800"'),
    "a lone surrogate in a key": job(r'"x", "\udfff": 1'),
    "NUL in a tag": job('"x"', r', "tags": ["\u0000"]'),
    "a lone surrogate in a tag": job('"x"', r', "tags": ["\ud800"]'),
    "NUL in metadata": job('"x"', r', "metadata": {"a": ["\u0000"]}'),
    "NUL in a metadata key": job('"x"', r', "metadata": {"\u0000": 1}'),
    "a surrogate in metadata": job('"x"', r', "metadata": {"a": "\ud800"}'),
    "NUL in the model": GOOD.replace("llava", "\\u0000").encode(),
    "NUL in the webhook": job('"x"', r', "webhook_url": "https://a.example/\u0000"'),
    "NaN": job("NaN"),
    "NaN elsewhere": job('"x", "y": NaN'),
    "Infinity": job('"x", "y": -Infinity'),
    "1e999": job('"x", "y": 1e999'),
    "1e400 in metadata": job('"x"', ', "metadata": {"a": 1e400}'),
    "1e-20000 in metadata": job('"x"', ', "metadata": {"a": 1e-20000}'),
    "a zero of 20,000 digits in metadata": job('"x"', ', "metadata": {"a": [{"b": 0e-20000}]}'),
    "NaN as a deadline": job('"x"', ', "deadline_seconds": NaN'),
    "depth": job("[" * 70 + "]" * 70),
    "depth of objects": job('{"a":' * 70 + "1" + "}" * 70),
    "great depth": job("[" * 100_000 + "]" * 100_000),
    "endless depth": b"[" * 1_000_000,
    "depth in metadata": job('"x"', ', "metadata": {"a": ' + "[" * 70 + "]" * 70 + "}"),
    "no UTF-8": job('"x"').replace(b'"x"', b'"\xff"'),
    "no UTF-8 in a key": job('"x", "y": 1').replace(b'"y"', b'"\xc3"'),
    "BOM": b"\xef\xbb\xbf" + GOOD.encode(),
    "UTF-16": GOOD.encode("utf-16"),
    "UTF-32": GOOD.encode("utf-32"),
    "Latin-1": job('"é"').decode().encode("latin-1"),
    "gzip": gzip.compress(GOOD.encode()),
    "too many values": job('"x", "y": [' + "{}," * 1_000_000 + "1]"),
    "a comment": f"{GOOD} // hi".encode(),
    "single quotes": GOOD.replace('"', "'").encode(),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("batch", [False, True])
async def test_it_is_refused_and_not_stored(client: httpx.AsyncClient, db: Database, name: str, batch: bool) -> None:
    body = b'{"jobs": [' + HOSTILE[name] + b"]}" if batch else HOSTILE[name]
    response = await client.post("/v1/jobs/batch" if batch else "/v1/jobs", content=body)
    if batch and response.status_code == 202:
        assert {entry["status"] for entry in response.json()["jobs"]} <= {400, 404, 422}
    else:
        assert is_problem(response, response.status_code)
        assert response.status_code in {400, 404, 422}
    assert await making.count(db, "jobs") == 0


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/batch", "/v1/files"])
@pytest.mark.parametrize("encoding", ["gzip", "br", "identity", ""])
async def test_an_encoded_body_is_refused(client: httpx.AsyncClient, db: Database, path: str, encoding: str) -> None:
    response = await client.post(path, content=GOOD, headers={"content-encoding": encoding})
    assert is_problem(response, 415)
    assert await making.count(db, "jobs") == 0


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_is_refused(
    client: httpx.AsyncClient, db: Database, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setattr(registering, "LARGEST_REQUEST", 1_000)

    async def pieces():  # type: ignore[no-untyped-def]
        for _ in range(100):
            yield b" " * 100

    response = await client.post("/v1/jobs", content=pieces() if chunked else b" " * 1_001)
    assert is_problem(response, 413)
    assert await making.count(db, "jobs") == 0


@hypothesis_settings(max_examples=60)
@given(body=st.binary() | st.text().map(lambda text: job(json.dumps(text))))
async def test_no_bytes_are_answered_with_a_500(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/v1/jobs", content=body)
    assert response.status_code == 202 or is_problem(response, response.status_code)
    assert response.status_code < 500


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
fields = dict.fromkeys(("webhook_url", "provider", "priority", "deadline_seconds", "metadata", "tags"), values)


@hypothesis_settings(max_examples=60)
@given(content=st.fixed_dictionaries({"model": st.just(JOB["model"]) | values, "input": st.just(JOB["input"]) | values},
                                     optional=fields))  # fmt: skip
async def test_no_request_is_answered_with_a_500(client: httpx.AsyncClient, content: object) -> None:
    response = await client.post("/v1/jobs", content=json.dumps(content))
    assert response.status_code == 202 or is_problem(response, response.status_code)
    assert response.status_code < 500


PATHS = [
    "%00",
    "%ff",
    "..%2f..",
    "%F0%9F%98%80",
    "x" * 5_000,
    "'%20OR%201=1",
    "%e2%80%ae",
    "{}",
    "NaN",
    "0",
    "-1",
    "%0d%0aX:1",
]


@pytest.mark.parametrize("word", PATHS)
@pytest.mark.parametrize("path", ["/v1/jobs/{}", "/v1/jobs/{}/masks/0", "/v1/models/{}", "/files/{}/x", "/files/x/{}"])
async def test_a_strange_path_is_not_found(client: httpx.AsyncClient, path: str, word: str) -> None:
    assert is_problem(await client.get(path.format(word)), 404)


@pytest.mark.parametrize("index", ["-1", "x", "1.0", "99999999999999999999", "32768", "%00"])
async def test_a_strange_number_of_a_mask_is_not_found(
    client: httpx.AsyncClient, db: Database, tenant: making.UUID, index: str
) -> None:
    claim = await making.ended(db, tenant)
    assert is_problem(await client.get(f"/v1/jobs/{claim.job_id}/masks/{index}"), 404)


@pytest.mark.parametrize("path", ["/v1", "/v2/jobs", "/nothing", "/v1/jobs/a/b/c/d"])
async def test_a_path_that_is_none_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    assert is_problem(await client.get(path), 404)


@pytest.mark.parametrize(("method", "path"), [("PUT", "/v1/jobs"), ("PATCH", "/v1/jobs/x"), ("POST", "/v1/models")])
async def test_a_method_that_is_none_is_refused(client: httpx.AsyncClient, method: str, path: str) -> None:
    assert is_problem(await client.request(method, path), 405)
