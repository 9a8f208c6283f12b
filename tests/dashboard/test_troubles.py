"""What is wrong, as Home tells it: with a link to where it can be seen, if it can be seen somewhere."""

import re
from uuid import UUID

import httpx

from service.condition.refusals import Refusals
from service.context import Context
from service.jobs import pauses
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


async def test_commands_in_advice_are_code(api: str, client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    await at_work(context.db, "api", *ALIVE)
    job_id = await making.queued(context.db, tenant)
    await pauses.pause_by_hand(context.db, "fal", "A word in `backticks` & <b>.")
    async with signed_in(api, key_of(client)) as person:
        [paused] = await troubles(person)
        assert "When it is mended, <code>roundtrip providers resume fal</code>." in paused
        assert "gets no jobs, as an operator wants it, and 1 job waits" in paused
        told = part(await person.get(f"/dashboard/jobs/{job_id}"), "state")
        assert "<code>roundtrip providers resume fal</code>." in told
