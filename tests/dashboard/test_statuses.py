"""How many jobs a list is of: as far as anybody knows, and said so."""

import re
from uuid import UUID

import httpx
import pytest

from service.context import Context
from service.dashboard import statuses
from tests import making
from tests.dashboard.looking import key_of, signed_in

UNKNOWN = "How many these filters mean is not known."


async def said(person: httpx.AsyncClient, query: str) -> dict[str, str]:
    """By the names of the tabs."""
    page = (await person.get(f"/dashboard/jobs?{query}")).text
    found = re.search(r'<nav [^>]*data-part="statuses">(.*?)</nav>', page, re.DOTALL)
    assert found is not None
    tabs = re.findall(r"<a [^>]*>(?:<i></i>)?([\w ]+?)(?: <span[^>]*>([^<]*)</span>)?</a>", found[1])
    assert (UNKNOWN in found[1]) == (not dict(tabs)["All"])
    return {name: words for name, words in tabs if words}


async def test_what_the_tallies_do_not_know_is_counted_itself(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await making.ended(context.db, tenant, making.failed(), tags=["few"])
    await making.queued(context.db, tenant, tags=["few"])
    await making.queued(context.db, tenant)
    async with signed_in(api, key_of(client)) as person:
        assert (await said(person, ""))["All"] == "≈ 5"
        exact = {"All": "4", "Queued": "1", "Submitted": "0", "In progress": "0"}
        ended = {"Completed": "0", "Failed": "3", "Cancelled": "0"}
        assert await said(person, "tag=few") == exact | ended
        # Which status and which page is shown makes no difference.
        assert await said(person, "tag=few&status=failed") == exact | ended
        monkeypatch.setattr(statuses, "MOST_FOUND", 2)
        assert await said(person, "tag=few") == {"All": "≥ 2", "Queued": "≥ 1", "Failed": "≥ 1"}


@pytest.mark.parametrize("query", ["q=cat", "total_seconds_min=99999", "status=nonsense"])
async def test_what_was_not_found_is_not_zero(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    for _ in range(3):
        await making.ended(context.db, tenant)
    monkeypatch.setattr(statuses, "LONGEST_SEARCH", 2)
    async with signed_in(api, key_of(client)) as person:
        assert await said(person, query) == {}
