"""Stored files over HTTP: whole, in part, not again; and never as anything that a browser would run."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.responses import Response

from service.artifacts.serving import RangeNotSatisfiable, clean_name, content_disposition, file_response, parse_range
from service.artifacts.storage import Storage
from service.errors import Unavailable

CONTENT = bytes(range(256)) * 4
MISSING = "0" * 64


async def chunks_of(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def serve(
    tmp_path: Path,
    content: bytes = CONTENT,
    kind: str = "image/png",
    name: str = "mask.png",
    method: str = "GET",
    **asked: str,
) -> tuple[Response, bytes]:
    storage = Storage.open(tmp_path.as_uri())
    stored = await storage.put(chunks_of(content), 10_000)
    headers = Headers({name.replace("_", "-"): value.replace("ETAG", stored.sha256) for name, value in asked.items()})
    response = await file_response(storage, stored.sha256, kind, name, stored.size, headers, method)
    sent: list[bytes] = []

    async def send(message: dict[str, bytes]) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> dict[str, str]:
        return {"type": "http.request"}

    await response({"type": "http", "method": method, "asgi": {"spec_version": "2.4"}}, receive, send)  # type: ignore[arg-type]
    return response, b"".join(sent)


async def test_a_picture_is_shown_and_a_browser_may_keep_it(tmp_path: Path) -> None:
    response, body = await serve(tmp_path)
    assert (response.status_code, body) == (200, CONTENT)
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-length"] == "1024"
    assert response.headers["content-disposition"] == 'inline; filename="mask.png"'
    assert response.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert re.fullmatch(r'"[0-9a-f]{64}"', response.headers["etag"])


OCTETS = "application/octet-stream"


@pytest.mark.parametrize(
    ("kind", "served"),
    [
        ("text/html", OCTETS),
        ("image/svg+xml", OCTETS),
        ("application/xhtml+xml", OCTETS),
        ("text/javascript", OCTETS),
        (OCTETS, OCTETS),
        ("text/plain", "text/plain"),
        ("image/bmp", "image/bmp"),
        ("application/pdf", "application/pdf"),
        ("video/mp4", "video/mp4"),
    ],
)
async def test_everything_else_is_saved_and_not_shown(tmp_path: Path, kind: str, served: str) -> None:
    response, _ = await serve(tmp_path, kind=kind, name="page.html")
    assert response.headers["content-type"] == served
    assert response.headers["content-disposition"] == 'attachment; filename="page.html"'


@pytest.mark.parametrize("asked", ["bytes=0-", "bytes=0-1", "bytes=9999-", "nothing"])
async def test_every_answer_forbids_sniffing_and_running(tmp_path: Path, asked: str) -> None:
    response, _ = await serve(tmp_path, range=asked)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"] == "sandbox; default-src 'none'"


async def test_head_tells_the_size_without_the_bytes(tmp_path: Path) -> None:
    response, body = await serve(tmp_path, method="HEAD", range="bytes=0-1")
    assert (response.status_code, response.headers["content-length"], body) == (200, "1024", b"")


async def test_an_empty_file_is_served(tmp_path: Path) -> None:
    response, body = await serve(tmp_path, content=b"", range="bytes=0-")
    assert (response.status_code, response.headers["content-length"], body) == (200, "0", b"")


async def test_a_part_is_served(tmp_path: Path) -> None:
    response, body = await serve(tmp_path, range="bytes=10-19")
    assert (response.status_code, body) == (206, CONTENT[10:20])
    assert response.headers["content-range"] == "bytes 10-19/1024"
    assert response.headers["content-length"] == "10"


async def test_a_part_beyond_the_end_is_not_satisfiable(tmp_path: Path) -> None:
    response, body = await serve(tmp_path, range="bytes=1024-")
    assert (response.status_code, response.headers["content-range"], body) == (416, "bytes */1024", b"")


@pytest.mark.parametrize("known", ['"ETAG"', 'W/"ETAG"', '"other", "ETAG"', "*"])
async def test_a_file_that_is_known_is_not_sent_again(tmp_path: Path, known: str) -> None:
    response, body = await serve(tmp_path, if_none_match=known)
    assert (response.status_code, body) == (304, b"")
    assert "content-length" not in response.headers


@pytest.mark.parametrize(
    ("condition", "status"),
    [('"ETAG"', 206), ('W/"ETAG"', 200), ('"other"', 200), ("Fri, 20 Nov 2026 12:00:00 GMT", 200)],
)
async def test_a_part_is_served_only_of_the_file_that_was_meant(tmp_path: Path, condition: str, status: int) -> None:
    response, _ = await serve(tmp_path, range="bytes=0-0", if_range=condition)
    assert response.status_code == status


async def test_a_lost_blob_is_our_fault_and_said_before_the_first_header(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path.as_uri())
    with pytest.raises(Unavailable):
        await file_response(storage, MISSING, "image/png", "x", 10, Headers(), "GET")


@given(st.integers(0, 50), st.integers(0, 60), st.integers(1, 60))
def test_a_range_means_what_slicing_means(first: int, last: int, size: int) -> None:
    whole = list(range(size))
    for header, meant in [
        (f"bytes={first}-{last}", whole[first : last + 1]),
        (f"bytes={first}-", whole[first:]),
        (f"bytes=-{last}", whole[-last:] if last else []),
    ]:
        try:
            found = parse_range(header, size)
        except RangeNotSatisfiable:
            assert meant == []
        else:
            backwards = header == f"bytes={first}-{last}" and last < first
            assert found is None if backwards else found is not None and whole[slice(*found)] == meant


@given(st.text(max_size=30), st.integers(0, 10_000))
def test_any_other_range_means_the_whole_file(text: str, size: int) -> None:
    for header in (text, f"bytes={text}"):
        try:
            found = parse_range(header, size)
        except RangeNotSatisfiable:
            continue
        assert found is None or 0 <= found[0] < found[1] <= size


@pytest.mark.parametrize(
    "header", ["bytes=0-1,3-4", "items=0-1", "bytes=a-b", "bytes=-", "bytes=" + "9" * 5000 + "-", "bytes=٣-٤"]
)
def test_what_cannot_be_read_as_one_range_is_ignored(header: str) -> None:
    assert parse_range(header, 100) is None


@pytest.mark.parametrize(
    ("given", "cleaned"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\win.ini", "win.ini"),
        ("a\r\nSet-Cookie: x=y.png", "aSet-Cookie_ x=y.png"),
        ("photo\u202egnp.exe", "photognp.exe"),
        ("zero\u200bwidth\x00.png", "zerowidth.png"),
        (".htaccess", "htaccess"),
        ("..", "file"),
        ("", "file"),
        ("nul.png", "_nul.png"),
        ("x" * 300 + ".png", "x" * 124 + ".png"),
        ("\udcff.png", "png"),
        ("Müller 写真.png", "Müller 写真.png"),
    ],
)
def test_a_name_keeps_only_what_is_harmless(given: str, cleaned: str) -> None:
    assert clean_name(given) == cleaned


@given(st.text(max_size=300))
def test_any_name_makes_one_header_that_reads_back(name: str) -> None:
    header = content_disposition("attachment", name)
    assert header.isascii()
    assert header.isprintable()
    found = re.fullmatch(r"attachment; filename=\"([^\"\\]*)\"(?:; filename\*=UTF-8''([A-Za-z0-9%._~-]+))?", header)
    assert found is not None
    assert (unquote(found[2]) if found[2] else found[1]) == clean_name(name)
    assert 1 <= len(clean_name(name)) <= 128
