"""What can be done in the dashboard, done with a mouse and keys in a real browser."""

import re
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from playwright.async_api import Browser, expect

from service.context import Context
from service.jobs import filing
from service.jobs.lifecycle import Verdict
from tests import making
from tests.api.asking import with_files
from tests.dashboard.browsing import Person
from tests.dashboard.looking import key_of


def at(job_id: UUID) -> str:
    return f"/dashboard/jobs/{job_id}"


async def test_a_job_is_cancelled(person: Person, context: Context, tenant: UUID) -> None:
    job_id = await making.queued(context.db, tenant)
    await person.agree()
    await person.go(at(job_id))
    assert "waits here until a worker takes it" in await person.text()
    await person.press("Cancel")
    assert "was cancelled at" in await person.text('[data-part="state"]')
    assert await making.status(context.db, job_id) == "cancelled"
    assert person.noticed == []


async def test_nothing_is_done_before_it_is_agreed_to(person: Person, context: Context, tenant: UUID) -> None:
    job_id = await making.queued(context.db, tenant)
    asked: list[str] = []

    async def refuse(dialog: Any) -> None:
        asked.append(dialog.message)
        await dialog.dismiss()

    person.page.on("dialog", refuse)
    await person.go(at(job_id))
    await person.page.get_by_role("button", name="Cancel", exact=True).click()
    assert asked == ["Ask for the end of this job?"]
    assert await making.status(context.db, job_id) == "queued"


async def test_a_job_is_ended_whatever_its_provider_says(person: Person, context: Context, tenant: UUID) -> None:
    job_id = (await making.submitted(context.db, tenant)).job_id
    await person.agree()
    await person.go(at(job_id))
    await person.press("End it whatever the provider says")
    assert await making.status(context.db, job_id) == "cancelled"


async def test_a_failed_job_is_retried_once(person: Person, context: Context, tenant: UUID) -> None:
    job_id = (await making.ended(context.db, tenant, making.failed())).job_id
    await person.go(at(job_id))
    await person.press("Retry as a new job")
    assert str(job_id) not in person.page.url
    assert "This is the new job" in await person.text()
    assert str(job_id) in await person.text('[data-part="facts"]')
    await person.go(at(job_id))
    assert "It was retried as" in await person.text('[data-part="state"]')
    assert await person.page.get_by_role("button", name="Retry as a new job").count() == 0


async def test_a_client_is_told_again(person: Person, context: Context, tenant: UUID) -> None:
    job_id = (await making.ended(context.db, tenant, webhook_url="https://hooks.invalid/a")).job_id
    await context.db.execute("UPDATE callbacks SET state = 'given_up', ended_at = now() WHERE job_id = $1", job_id)
    await person.go("/dashboard/webhooks/out?state=given_up")
    await person.page.locator("a.opens").first.click()
    await person.press("Tell the client again")
    assert "pending" in await person.text('[data-part="callback"]')


async def test_many_clients_are_told_again(person: Person, context: Context, tenant: UUID) -> None:
    for _ in range(3):
        await making.ended(context.db, tenant, webhook_url="https://hooks.invalid/a")
    await context.db.execute("UPDATE callbacks SET state = 'given_up', ended_at = now()")
    await person.agree()
    await person.go("/dashboard/webhooks/out")
    await person.page.get_by_text("Tell many once more").click()
    await person.press("Redeliver")
    assert "3 callbacks are told once more" in await person.text()


async def test_a_hold_begins_and_ends(person: Person, context: Context, tenant: UUID) -> None:
    job_id = (await making.ended(context.db, tenant)).job_id
    await person.go(at(job_id))
    await person.press("Hold")
    assert "It is on hold" in await person.text('[data-part="state"]')
    await person.press("End the hold")
    assert "It is on hold" not in await person.text('[data-part="state"]')


async def test_a_report_is_replayed_and_ends_its_job(person: Person, context: Context, tenant: UUID) -> None:
    claim = await making.submitted(context.db, tenant, "theirs-1")
    body = (
        b'{"request_id": "theirs-1", "gateway_request_id": "theirs-1", "status": "OK", "payload": {"output": "A cat."}}'
    )
    heard = making.heard(body, "theirs-1", headers='{"request_id": "theirs-1"}')
    await filing.file_report(context.db, claim.job_id, 1, heard, None, Verdict.UNREADABLE)
    await person.agree()
    await person.go("/dashboard/webhooks/in?verdict=unreadable")
    await person.page.locator("a.opens").first.click()
    assert "Today's code makes of it: applied" in await person.text()
    assert body.decode() in await person.text('[data-part="body"]')
    await person.page.get_by_role("link", name="Hexadecimal").click()
    assert "7b 22 72 65 71" in await person.text('[data-part="body"]')
    await person.press("Apply it: end the job")
    assert "The report was applied" in await person.text()
    assert await making.status(context.db, claim.job_id) == "completed"


async def test_masks_are_switched_and_the_address_remembers(person: Person, context: Context, tenant: UUID) -> None:
    job_id = await with_files(context, tenant)
    await person.go(at(job_id))
    layer, box = person.page.locator('[data-layer="0"]'), person.page.locator('input[data-mask="0"]')
    await expect(layer).to_be_visible()
    await box.uncheck()
    await expect(layer).to_be_hidden()
    assert "hide=0" in person.page.url
    await person.page.reload()
    await expect(layer).to_be_hidden()
    await person.page.locator("body").press("m")
    await expect(layer).to_be_visible()
    await expect(box).to_be_checked()
    await person.page.locator("[data-boxes]").check()
    assert "boxes=1" in person.page.url
    await expect(person.page.locator("[data-layer='0'] .box")).to_be_visible()
    assert person.noticed == []


async def test_the_list_is_filtered_and_turned_page_by_page(person: Person, context: Context, tenant: UUID) -> None:
    for number in range(55):
        await making.queued(context.db, tenant, tags=["few"] if number < 3 else [], metadata=f'{{"n": {number}}}')
    await person.go("/dashboard/jobs")
    rows = person.page.locator("a.opens")
    assert await rows.count() == 50
    await person.page.get_by_role("link", name="Older").click()
    await expect(rows).to_have_count(5)
    await person.page.get_by_role("link", name="Newer").click()
    await expect(rows).to_have_count(50)
    await person.page.locator("body").press("f")
    await person.page.get_by_label("Tag", exact=True).fill("few")
    await person.page.get_by_label("Key of the metadata").fill("n")
    await person.page.get_by_label("Value of the metadata").fill("2")
    await person.press("Show")
    assert person.page.url.endswith("/dashboard/jobs?tag=few&metadata.n=2")
    await expect(rows).to_have_count(1)
    await person.page.get_by_role("link", name="Without metadata.n 2").click()
    await expect(rows).to_have_count(3)
    assert person.noticed == []


@pytest.mark.parametrize(
    ("given", "tidy"),
    [
        ("q=&status=failed", "status=failed"),
        ("measure=total_seconds&measure_min=3&measure_max=", "total_seconds_min=3"),
        ("metadata_key=&metadata_value=x", ""),
        ("measure=cost&measure_min=0.5&measure_max=2&tag=a%26b", "tag=a%26b&cost_min=0.5&cost_max=2"),
    ],
)
async def test_a_form_becomes_the_address_that_means_it(person: Person, given: str, tidy: str) -> None:
    assert await person.go(f"/dashboard/jobs?{given}") == 200
    assert person.page.url.partition("?")[2] == tidy


async def test_a_job_is_found_by_any_of_its_ids(person: Person, context: Context, tenant: UUID) -> None:
    claim = await making.submitted(context.db, tenant, "theirs-1")
    await person.page.locator("body").press("/")
    await person.page.keyboard.type("theirs-1")
    async with person.page.expect_navigation():
        await person.page.keyboard.press("Enter")
    assert person.page.url.endswith(at(claim.job_id))


async def test_the_keyboard_is_enough(person: Person, context: Context, tenant: UUID) -> None:
    job_id = await making.queued(context.db, tenant)
    await person.page.locator("body").press("g")
    async with person.page.expect_navigation():
        await person.page.keyboard.press("j")
    await person.page.keyboard.press("j")
    async with person.page.expect_navigation():
        await person.page.keyboard.press("Enter")
    assert person.page.url.endswith(at(job_id))
    await person.page.keyboard.press("?")
    await expect(person.page.get_by_role("dialog")).to_be_visible()
    await person.page.keyboard.press("Escape")
    await expect(person.page.get_by_role("dialog")).to_be_hidden()


async def test_a_tenant_is_chosen(person: Person, context: Context, tenant: UUID) -> None:
    ours = await making.queued(context.db, tenant, tags=["ours"])
    theirs = await making.queued(context.db, await making.make_tenant(context.db, "theirs"), tags=["theirs"])
    await person.go("/dashboard/jobs")
    assert await person.page.locator("a.opens").count() == 2
    async with person.page.expect_navigation():
        await person.page.get_by_label("Tenant").select_option("theirs")
    assert "tenant=theirs" in person.page.url
    links = [await each.get_attribute("href") for each in await person.page.locator("a.opens").all()]
    assert links == [at(theirs)]
    assert at(ours) not in links


async def test_many_are_retried_and_that_is_aborted(person: Person, context: Context, tenant: UUID) -> None:
    for _ in range(3):
        await making.ended(context.db, tenant, making.failed(), tags=["again"])
    await person.agree()
    await person.go("/dashboard/jobs?status=failed&tag=again")
    await person.page.get_by_role("link", name="Retry or cancel these").click()
    await person.press("Retry 3 jobs")
    assert re.search(r"/dashboard/bulk/[0-9a-f-]{36}$", person.page.url)
    assert "0 of 3" in await person.text('[data-part="progress"]')
    await person.press("Abort")
    assert "aborting" in await person.text('[data-part="progress"]')
    assert person.noticed == []


async def test_a_page_follows_what_happens(person: Person, context: Context, tenant: UUID) -> None:
    claim = await making.submitted(context.db, tenant)
    await person.go(at(claim.job_id))
    await expect(person.page.locator("[data-live]")).to_have_class(re.compile("is-on"))
    await person.page.evaluate("window.stayed = true")
    await making.settle(context.db, claim)
    await expect(person.page.locator('[data-part="state"]')).to_contain_text("It completed", timeout=30_000)
    assert await person.page.evaluate("window.stayed") is True
    assert person.noticed == []


async def test_a_hidden_page_asks_nothing_until_it_is_seen(
    person: Person, chromium: Browser, api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    claim = await making.submitted(context.db, tenant)
    witness = await Person.open(chromium, api)
    await witness.sign_in(key_of(client))
    for each in (person, witness):
        await each.go(at(claim.job_id))
        await expect(each.page.locator("[data-live]")).to_have_class(re.compile("is-on"))

    async def hide(hidden: bool) -> None:
        await person.page.evaluate(
            "(hidden) => { Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });"
            " document.dispatchEvent(new Event('visibilitychange')); }",
            hidden,
        )

    await hide(True)
    await expect(person.page.locator("[data-live]")).to_have_text("Paused")
    asked: list[str] = []
    person.page.on("request", lambda request: asked.append(request.url))
    await making.settle(context.db, claim)
    await expect(witness.page.locator('[data-part="state"]')).to_contain_text("It completed", timeout=30_000)
    assert asked == []
    assert "It completed" not in await person.text('[data-part="state"]')
    await hide(False)
    await expect(person.page.locator('[data-part="state"]')).to_contain_text("It completed", timeout=30_000)
    await witness.close()


async def test_signing_out_ends_it(person: Person) -> None:
    await person.press("Sign out")
    await person.go("/dashboard/jobs")
    assert "/dashboard/sign-in?next=" in person.page.url


async def test_what_is_not_there_says_so(person: Person) -> None:
    assert await person.go(at(uuid4())) == 404
    assert "There is no such job." in await person.text()
