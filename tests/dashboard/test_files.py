"""The dashboard's own files: kept by browsers for good, under an address that changes when they do."""

import re

import httpx
import pytest

from service.dashboard.files import EDITION, FILES, address


@pytest.mark.parametrize("name", sorted(FILES))
async def test_a_file_may_be_kept_for_good(nobody: httpx.AsyncClient, name: str) -> None:
    answer = await nobody.get(address(name))
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = await nobody.get(address(name), headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_another_edition_is_not_kept(nobody: httpx.AsyncClient) -> None:
    answer = await nobody.get(address("dashboard.css").replace(EDITION, "0123456789abcdef"))
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")


@pytest.mark.parametrize("path", ["/dashboard/static/x/none.js", "/dashboard/static/x/..%2Fpages.py"])
async def test_nothing_else_is_served(nobody: httpx.AsyncClient, path: str) -> None:
    assert (await nobody.get(path)).status_code == 404


def test_nothing_comes_from_elsewhere() -> None:
    for name, file in FILES.items():
        addresses = re.findall(rb"https?://[^\s\"')]+", file.content)
        assert [each for each in addresses if each != b"http://www.w3.org/2000/svg"] == [], name
