"""Strangers' bytes in every part of a request to the door: refused in its words, or taken, and never our fault."""

import asyncio
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.routing import Route

from service.front.routes import routes
from tests import making
from tests.front.asking import LLAVA, QUEUE

WORDS = {"app": "fal-ai/x", "model": LLAVA, "request_id": "x", "ticket": "x", "upload": "x", "name": "x", "part": "1"}
WORDS |= {"app:path": "fal-ai/x", "model:path": LLAVA, "part:int": "1"}


def address(route: Route) -> str:
    path = route.path
    for name, word in WORDS.items():
        path = path.replace(f"{{{name}}}", word)
    assert "{" not in path
    return f"/fal{path}"


ADDRESSES = sorted({address(route) for route in routes})
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize("method", METHODS)
async def test_every_method_has_an_answer_with_a_name(client: httpx.AsyncClient, method: str, path: str) -> None:
    response = await client.request(method, path, content=b"\xff\x00{" if method != "HEAD" else None)
    assert 200 <= response.status_code < 500
    assert response.headers["x-fal-request-id"]


@hypothesis_settings(max_examples=200)
@given(
    path=st.sampled_from(ADDRESSES),
    method=st.sampled_from(["POST", "PUT"]),
    body=st.binary(max_size=200),
    query=st.dictionaries(st.sampled_from(["fal_webhook", "logs", "fal_max_queue_length", "storage_type"]), st.text()),
    headers=st.dictionaries(
        st.sampled_from(
            [
                "x-fal-queue-priority",
                "x-fal-request-timeout",
                "x-fal-runner-hint",
                "x-fal-tags",
                "x-fal-file-name",
                "x-fal-target-url",
                "x-fal-object-lifecycle",
                "idempotency-key",
                "content-type",
                "range",
            ]
        ),
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), min_size=1),
    ),
)
async def test_no_bytes_are_answered_with_a_500(
    client: httpx.AsyncClient, path: str, method: str, body: bytes, query: dict[str, str], headers: dict[str, str]
) -> None:
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    query = {name: value.encode("utf-8", "replace").decode() for name, value in query.items()}
    response = await client.request(method, path, content=body, params=query, headers=sent)
    assert 200 <= response.status_code < 500, response.text


async def raw(url: str, request: bytes) -> bytes:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(200), 30)
    writer.close()
    return answer


@pytest.mark.parametrize(
    "head",
    [
        b"POST %s/x HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST %s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST %s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n",
        b"GET %s/x HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b"BREW %s HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_request_that_is_none_ends_with_a_4xx(api: str, head: bytes) -> None:
    assert (await raw(api, head.replace(b"%s", QUEUE.encode()))).startswith(b"HTTP/1.1 4")


async def test_a_body_has_its_limit(client: httpx.AsyncClient) -> None:
    response = await client.post(f"{QUEUE}/{LLAVA}", json=making.PROMPT | {"prompt": "x" * 27_000_000})
    assert response.status_code == 413


@pytest.mark.parametrize("word", ["%00", "%ff", "..%2f..", "%F0%9F%98%80", "'%20OR%201=1", "%e2%80%ae", "%0d%0aX:1"])
@pytest.mark.parametrize(
    "path",
    [
        "/fal/queue/{}/requests/{}",
        "/fal/queue/a/b/requests/{}/status/stream",
        "/fal/cdn/files/{}/x",
        "/fal/nothing/{}",
    ],
)
async def test_a_strange_path_leads_nowhere(client: httpx.AsyncClient, path: str, word: str) -> None:
    response = await client.get(path.replace("{}", word))
    assert response.status_code in {404, 405}
    assert {"detail", "error_type", "message"} <= set(response.json())
