"""What is wrong, as Home tells it: with a link to where it can be seen, if it can be seen somewhere."""

import re
from uuid import UUID

import httpx

from service.condition.refusals import Refusals
from service.context import Context
from tests import making
from tests.condition.test_findings import ALIVE, at_work, late
from tests.dashboard.looking import key_of, signed_in
from tests.dashboard.test_parts import part


async def troubles(person: httpx.AsyncClient) -> list[str]:
    return re.findall(r'<li class="trouble.*?</li>', part(await person.get("/dashboard"), "troubles"), re.DOTALL)


async def test_what_no_page_lists_has_no_link(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    await at_work(context.db, "api", *ALIVE)
    refusals = Refusals()
    refusals.count("signature")
    await refusals.flush(context.db)
    await late(context.db, await making.queued(context.db, tenant))
    async with signed_in(api, key_of(client)) as person:
        stuck, refused = await troubles(person)
    assert 'href="/dashboard/jobs?status=queued"' in stuck
    assert "1 webhook was refused within the hour" in refused
    assert "no page lists them" in refused
    assert "href" not in refused
