"""Files are served with their type and length until their time is over or newer ones need the room."""

from typing import Any

import pytest

from service.sandbox.files import Files
from tests.sandbox.running import Sandbox

UPSCALER = "fal-ai/flux-vision-upscaler"


def image(sandbox: Sandbox, url: str, **knobs: Any) -> dict[str, Any]:
    return dict(sandbox.run(UPSCALER, image_url=url, upscale_factor=1, sandbox=knobs)["image"])


def test_a_file_has_its_type_and_length(sandbox: Sandbox, shapes_url: str) -> None:
    file = image(sandbox, shapes_url)
    response = sandbox.http.get(file["url"])
    assert response.headers["content-type"] == file["content_type"] == "image/png"
    assert int(response.headers["content-length"]) == len(response.content) == file["file_size"]
    assert file["url"].startswith(f"{sandbox.url}/files/")
    assert file["url"].endswith(file["file_name"])


def test_a_file_can_be_looked_at_without_a_key(sandbox: Sandbox, shapes_url: str) -> None:
    url = image(sandbox, shapes_url)["url"]
    assert sandbox.http.head(url, headers={"authorization": ""}).status_code == 200


def test_a_file_whose_time_is_over_is_not_found(sandbox: Sandbox, shapes_url: str) -> None:
    assert sandbox.http.get(image(sandbox, shapes_url, file_seconds=0)["url"]).status_code == 404


@pytest.mark.parametrize("path", ["", "b/sandbox/unknown.png"])
def test_an_unknown_file_is_not_found(sandbox: Sandbox, path: str) -> None:
    assert sandbox.http.get(f"/files/{path}").status_code == 404


def test_the_oldest_files_make_room_for_new_ones() -> None:
    files = Files("http://a.example", keep_seconds=60, max_bytes=10)
    paths = [files.put(bytes(4), f"{n}.png", "image/png")["url"].partition("/files/")[2] for n in range(3)]
    assert [files.get(path) is not None for path in paths] == [False, True, True]


def test_forgetting_drops_only_what_has_expired() -> None:
    files = Files("http://a.example", keep_seconds=60, max_bytes=10)
    files.put(bytes(6), "old.png", "image/png", keep_seconds=0)
    kept = files.put(bytes(4), "new.png", "image/png")["url"].partition("/files/")[2]
    files.forget()
    files.put(bytes(6), "newer.png", "image/png")
    assert files.get(kept) is not None
