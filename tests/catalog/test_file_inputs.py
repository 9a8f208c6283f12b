"""What counts as a file in an input: an http(s) URL or a base64 data URI."""

import base64
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalog import Catalog, check_input
from service.errors import Invalid

SA2VA = Catalog().find("fal-ai/sa2va/8b/image")
MINICPM = Catalog().find("fal-ai/mini-cpm")

FILES = [
    "http://example.com",
    "https://example.com/dog.png",
    "HTTPS://EXAMPLE.COM/DOG.PNG",
    "https://example.com:8443/a/b?c=d&e=%20#f",
    "https://example.com?signature=a/b+c=",
    "http://localhost:8000/files/1",
    "http://127.0.0.1/x",
    "http://[::1]:8000/x",
    "https://пример.рф/кот.png",
    "https://example.com/a@b",
    "https://example.com/" + "a" * 2028,
    "data:;base64,AAAA",
    "data:image/png;base64,iVBORw0KGgo=",
    "data:image/svg+xml;charset=utf-8;base64,PHN2Zy8+",
    "DATA:IMAGE/PNG;BASE64,AA==",
]

URL_PARSING = [
    "http://",
    "https:///dog.png",
    "https://?a=b",
    "http://:80/",
    "http://host:/",
    "http://host:65536/",
    "http://host:99999999/",
    "http://host:port/",
    "http://[::1/",
    "http://[host]/",
    "https://exa mple.com/",
    "https://example.com/a b",
    "https://example.com/a\u00a0b",
    "https://example.com/a\u2028b",
    "https://example.com/a\n",
    "https://example.com/\x7f",
    "https://example.com/\x85",
    "https://user@example.com/",
    "https://user:password@example.com/",
    "https://@example.com/",
    "https://example.com\\@evil.example/",
]

DATA_URI_PARSING = [
    "data:",
    "data:,",
    "data:image/png",
    "data:image/png,AAAA",
    "data:image/png;base64",
    "data:image/png;base64,",
    "data:image/png;base64,=",
    "data:image/png;base64,====",
    "data:image/png;base64,A",
    "data:image/png;base64,AA",
    "data:image/png;base64,AA=",
    "data:image/png;base64,A===",
    "data:image/png;base64,AAAA=",
    "data:image/png;base64,AAAA====",
    "data:image/png;base64,AA==AAAA",
    "data:image/png;base64,AA-_",
    "data:image/png;base64,AAAA\n",
    "data:image/png;base64,AA AA",
    "data:image/png;base64,ÀÀÀÀ",
    "data:image;base64,AAAA",
    "data:image/p ng;base64,AAAA",
]

URL_SCHEME = [
    "",
    "dog.png",
    "/dog.png",
    "//example.com/dog.png",
    "file:///etc/passwd",
    "ftp://example.com/dog.png",
    "gs://bucket/dog.png",
    "https:example.com",
    "https:/example.com",
    " https://example.com/",
    "javascript:alert(1)",
    "iVBORw0KGgo=",
]


def refusal_type(url: object) -> str:
    with pytest.raises(Invalid) as refusal:
        check_input(SA2VA, {"prompt": "Hello", "image_url": url})
    (problem,) = refusal.value.detail
    assert problem["loc"] == ["body", "input", "image_url"]
    return str(problem["type"])


@pytest.mark.parametrize("url", FILES)
def test_a_url_or_a_data_uri_is_a_file(url: str) -> None:
    check_input(SA2VA, {"prompt": "Hello", "image_url": url})


@pytest.mark.parametrize("url", URL_PARSING)
def test_a_malformed_url_is_refused(url: str) -> None:
    assert refusal_type(url) == "url_parsing"


@pytest.mark.parametrize("url", DATA_URI_PARSING)
def test_a_malformed_data_uri_is_refused(url: str) -> None:
    assert refusal_type(url) == "data_uri_parsing"


@pytest.mark.parametrize("url", URL_SCHEME)
def test_anything_else_is_refused(url: str) -> None:
    assert refusal_type(url) == "url_scheme"


@pytest.mark.parametrize("url", [None, 1, True, {"url": "https://example.com"}, ["https://example.com"]])
def test_a_file_that_is_no_string_is_refused(url: object) -> None:
    assert refusal_type(url) == "string_type"


def test_a_url_of_2049_characters_is_refused() -> None:
    assert refusal_type("https://example.com/" + "a" * 2029) == "url_too_long"


def test_a_file_in_a_list_is_refused_at_its_index() -> None:
    with pytest.raises(Invalid) as refusal:
        check_input(MINICPM, {"prompt": "Hello", "image_urls": [FILES[0], "dog.png", FILES[1], "cat.png"]})
    assert [problem["loc"][-2:] for problem in refusal.value.detail] == [["image_urls", 1], ["image_urls", 3]]


@given(st.binary(min_size=1))
def test_whatever_base64_encodes_is_a_file(content: bytes) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    check_input(SA2VA, {"prompt": "Hello", "image_url": uri})


@given(st.text("AB+/= \n-", max_size=12))
def test_a_data_uri_is_a_file_exactly_if_its_base64_is_canonical_in_form(payload: str) -> None:
    body = payload.rstrip("=")
    padding = len(payload) - len(body)
    strict = bool(body) and set(body) <= set("AB+/") and padding <= 2 and len(payload) % 4 == 0
    try:
        check_input(SA2VA, {"prompt": "Hello", "image_url": f"data:image/png;base64,{payload}"})
    except Invalid:
        assert not strict
    else:
        assert strict


@pytest.mark.parametrize("end", ["AAAA", "AAA!", "AAA", "é"])
@pytest.mark.parametrize("start", ["data:image/png;base64,", "data:", "data:image/png;a=b;a=", "http://"])
def test_megabytes_of_a_hostile_uri_are_judged(start: str, end: str) -> None:
    # What backtracks over them would take minutes, and the suite's time limit would end it.
    uri = start + "A" * 5_000_000 + end
    good = uri == "data:image/png;base64," + "A" * 5_000_004 or (start == "data:image/png;base64," and end == "AAAA")
    with nullcontext() if good else pytest.raises(Invalid):
        check_input(SA2VA, {"prompt": "Hello", "image_url": uri})
