"""Who sees what: of another tenant nothing, and without the right to read no payload."""

import re
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest

from service.app import create_app
from service.context import Context
from service.settings import Settings
from tests import making
from tests.conftest import MakeClient
from tests.dashboard.filling import Filled, fill
from tests.dashboard.looking import browser, csrf_of, key_of, signed_in
from tests.servers import Wire
from tests.serving import serving

MARKER = "kept-to-ourselves"

# Pages that any session has, whatever they show; all else names something of a tenant.
OF_EVERYBODY = re.compile(
    r"/dashboard(/jobs|/bulk|/bulk/new|/webhooks/in|/webhooks/out|/find|/sign-in|/static/.*)?(\?.*)?|/(metrics|readyz|openapi.json)"
)


async def crawl(client: httpx.AsyncClient, first: list[str], most: int = 400) -> dict[str, httpx.Response]:
    """All pages that can be reached by links and pictures."""
    found: dict[str, httpx.Response] = {}
    todo = list(first)
    while todo and len(found) < most:
        address = todo.pop()
        if address in found:
            continue
        found[address] = await client.get(address)
        if found[address].headers.get("content-type", "").startswith("text/html"):
            named = re.findall(r'(?:href|src)="(/dashboard[^"#]*)"', found[address].text)
            todo += [unescape(each) for each in named if each not in found and "/static/" not in each]
    return found


async def test_another_tenant_sees_nothing_of_all_this(
    api: str, make_client: MakeClient, context: Context, tenant: UUID
) -> None:
    filled = await fill(context, tenant, MARKER)
    ours = await make_client("ours", ("submit", "read"))
    theirs = await make_client("theirs", ("submit", "read"))
    async with signed_in(api, key_of(ours)) as first, signed_in(api, key_of(theirs)) as second:
        pages = await crawl(first, [page for page in filled.pages if page != "/dashboard/system"])
        assert sum(MARKER in page.text for page in pages.values()) >= 5
        for address in pages:
            answer = await second.get(address)
            # What one asks for oneself is shown.
            assert MARKER not in answer.text or MARKER in address, address
            assert not any(str(job_id) in answer.text for job_id in filled.jobs.values() if str(job_id) not in address)
            if not OF_EVERYBODY.fullmatch(address):
                assert answer.status_code == 404, (address, answer.status_code)


async def test_another_tenant_does_nothing_to_any_of_it(
    api: str, make_client: MakeClient, context: Context, tenant: UUID
) -> None:
    filled = await fill(context, tenant)
    theirs = await make_client("theirs", ("submit", "read"))
    async with signed_in(api, key_of(theirs)) as second:
        for address in forms_of(filled):
            answer = await second.post(address, data={"csrf": csrf_of(second)})
            assert answer.status_code == 404, address
    assert await making.status(context.db, filled.jobs["queued"]) == "queued"


def forms_of(filled: Filled) -> list[str]:
    job = f"/dashboard/jobs/{filled.jobs['queued']}"
    actions = ("cancel", "force", "retry", "redeliver", "hold", "release")
    return [
        *(f"{job}/do/{action}" for action in actions),
        f"/dashboard/jobs/{filled.jobs['hostile']}/evidence/{filled.reports['applied']}/apply",
        f"/dashboard/bulk/{filled.bulk_id}/abort",
    ]


async def test_what_is_asked_of_one_tenant_is_never_told_of_all(
    settings: Settings, client: httpx.AsyncClient, context: Context, tenant: UUID, folder: Path
) -> None:
    """While the database is away nobody can say which tenant is meant."""
    wire = Wire(settings.require_database_url(), folder)
    await wire.mend()
    there = settings.model_copy(update={"database_url": wire.database_url})
    chosen = ["/dashboard?tenant=ours", "/dashboard/jobs?tenant=ours", "/dashboard/bulk/new?tenant=ours&status=failed"]
    async with serving(create_app(there)) as url, signed_in(url, key_of(client)) as person:
        for address in chosen:
            assert (await person.get(address)).status_code == 200
        await wire.cut()
        for address in chosen:
            answer = await person.get(address)
            assert answer.status_code == 503
            assert "all tenants" not in answer.text
            assert (await person.get(address, headers={"accept": "application/json"})).status_code == 503
        everybody = await person.get("/dashboard")
        assert (everybody.status_code, "Unknown." in everybody.text) == (200, True)


async def test_callbacks_of_no_state_are_not_told_again(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    await making.ended(context.db, tenant, webhook_url="https://hooks.invalid/a")
    await context.db.execute("UPDATE callbacks SET state = 'delivered', ended_at = now()")
    async with signed_in(api, key_of(client)) as person:
        for state in ({}, {"state": ""}, {"state": "lost"}):
            form = {"csrf": csrf_of(person), "since": "2026-01-01T00:00", **state}
            assert (await person.post("/dashboard/webhooks/out/redeliver", data=form)).status_code == 422
    assert await making.count(context.db, "callbacks WHERE state = 'delivered'") == 1


@pytest.mark.parametrize("csrf", ["", "x"])
async def test_a_form_that_was_not_made_here_changes_nothing(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID, csrf: str
) -> None:
    filled = await fill(context, tenant)
    async with signed_in(api, key_of(client)) as browser:
        for address in forms_of(filled):
            assert (await browser.post(address, data={"csrf": csrf})).status_code == 403, address
    assert await making.status(context.db, filled.jobs["queued"]) == "queued"


async def test_who_may_see_figures_only_sees_no_payload(
    api: str, make_client: MakeClient, context: Context, tenant: UUID
) -> None:
    filled = await fill(context, tenant, MARKER)
    looking = await make_client("ours", ("metrics",))
    async with signed_in(api, key_of(looking)) as person:
        pages = await crawl(person, [page for page in filled.pages if page != "/dashboard/system"])
        assert any(str(filled.jobs["hostile"]) in page.text for page in pages.values())
        for address, page in pages.items():
            assert MARKER not in page.text, address
            assert "window.ran" not in page.text, address
        for query in ("q=kept", "tag=shop", "mask_label=x", "metadata.a=b", "mask_area_min=0"):
            assert "cannot be used to search for it" in (await person.get(f"/dashboard/jobs?{query}")).text
        job = f"/dashboard/jobs/{filled.jobs['hostile']}"
        for address in (f"{job}/picture", f"{job}/evidence/{filled.reports['applied']}/bytes"):
            assert (await person.get(address)).status_code == 403
        for address in forms_of(filled):
            assert (await person.post(address, data={"csrf": csrf_of(person)})).status_code == 403, address


async def test_who_may_read_only_is_offered_no_action(
    api: str, make_client: MakeClient, context: Context, tenant: UUID
) -> None:
    filled = await fill(context, tenant)
    reading = await make_client("ours", ("read",))
    async with signed_in(api, key_of(reading)) as person:
        for page in filled.pages:
            text = (await person.get(page)).text
            forms = re.findall(r'<form method="post" action="([^"]+)"', text)
            assert set(forms) <= {"/dashboard/theme", "/dashboard/sign-out"}, page
        for address in forms_of(filled):
            assert (await person.post(address, data={"csrf": csrf_of(person)})).status_code == 403, address


async def test_machines_and_tables_are_for_administrators(api: str, make_client: MakeClient) -> None:
    async with signed_in(api, key_of(await make_client("ours", ("submit", "read")))) as person:
        assert (await person.get("/dashboard/system")).status_code == 403
        assert "/dashboard/system" not in (await person.get("/dashboard")).text


async def test_who_comes_to_no_page_is_shown_the_way(api: str, make_client: MakeClient) -> None:
    async with browser(api) as visitor:
        assert (await visitor.get("/")).headers["location"] == "/dashboard"
        asked = await visitor.get("/dashboard/nowhere/at/all")
        assert urlsplit(asked.headers["location"]).path == "/dashboard/sign-in"
    async with signed_in(api, key_of(await make_client("ours", ("read",)))) as person:
        answer = await person.get("/dashboard/nowhere/at/all")
        assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert "Nothing here" in answer.text
        assert 'href="/dashboard"' in answer.text


async def test_without_a_session_every_page_asks_for_one(api: str, context: Context, tenant: UUID) -> None:
    filled = await fill(context, tenant, MARKER)
    async with browser(api) as visitor:
        for page in filled.pages:
            answer = await visitor.get(page)
            assert answer.status_code == 303, page
            assert urlsplit(answer.headers["location"]).path == "/dashboard/sign-in"
        for address in forms_of(filled):
            assert (await visitor.post(address, data={"csrf": "x"})).status_code in {401, 403}


async def test_every_page_lets_nothing_foreign_run(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    filled = await fill(context, tenant)
    async with signed_in(api, key_of(client)) as person:
        for page in ["/dashboard/sign-in?next=x", *filled.pages]:
            answer = await person.get(page)
            if answer.status_code == 303:
                continue
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert not re.search(r"<script(?! type=\"module\" src=\"/dashboard/static/)|<style|\sstyle=", answer.text)
