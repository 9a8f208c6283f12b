"""Every page in a real browser, light and dark, wide and narrow: nothing runs, nothing sticks out, all can be used."""

from typing import Literal

import httpx
import pytest
from playwright.async_api import Browser

from service.context import Context
from tests.dashboard.browsing import NARROW, WIDE, Person
from tests.dashboard.filling import fill
from tests.dashboard.looking import key_of
from tests.making import make_tenant


@pytest.mark.timeout(400)
@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_can_be_used_by_everybody(
    chromium: Browser,
    axe: str,
    api: str,
    client: httpx.AsyncClient,
    context: Context,
    scheme: Literal["light", "dark"],
    width: int,
) -> None:
    filled = await fill(context, await make_tenant(context.db, "ours"))
    await make_tenant(context.db, "a second one, so that there is a choice")
    person = await Person.open(chromium, api, width=width, scheme=scheme)
    assert await person.go("/dashboard/sign-in") == 200
    assert await person.faults(axe) == []
    await person.sign_in(key_of(client))
    for path in filled.pages:
        status = await person.go(path)
        assert status == (404 if path.endswith("/nothing") else 200), path
        assert await person.page.locator("h1").count() == 1, path
        assert await person.overflows() is False, path
        assert await person.faults(axe) == [], path
        assert await person.violations() == [], path
        assert await person.page.evaluate("window.ran") == [], path
    await person.close()
    # An answer of 404 is one that was asked for.
    assert [each for each in person.noticed if "404" not in each] == []


async def test_a_page_says_that_nothing_is_there_yet(person: Person, axe: str) -> None:
    for path, words in {
        "/dashboard": "No job ended",
        "/dashboard/jobs": "There are no jobs yet",
        "/dashboard/webhooks/in": "Nothing was heard",
        "/dashboard/webhooks/out": "There are none",
        "/dashboard/bulk": "There was none yet",
    }.items():
        assert await person.go(path) == 200
        assert words in await person.text()
        assert await person.faults(axe) == []
    assert person.noticed == []


async def test_the_switch_of_colours_is_remembered(person: Person) -> None:
    async def ground() -> str:
        return str(await person.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = await ground()
    await person.press("Dark")
    dark = await ground()
    assert dark != light
    await person.go("/dashboard/jobs")
    assert await ground() == dark
    await person.press("As the system")
    assert await ground() == light
    assert person.noticed == []


async def test_these_tests_see_what_they_look_for(person: Person, axe: str) -> None:
    """A picture without words, a style in the page, a script of it, and something that is too wide."""
    await person.page.evaluate(
        """document.querySelector("main").insertAdjacentHTML("beforeend",
        '<img src="/dashboard/static/x/icon.svg"><p style="color: red">x</p><pre>' + "x".repeat(500) + "</pre>");
        const script = document.createElement("script");
        script.textContent = "window.ran.push('it')";
        document.body.append(script);"""
    )
    assert any(fault.startswith("image-alt") for fault in await person.faults(axe))
    assert {each.split()[0] for each in await person.violations()} == {"style-src-attr", "script-src-elem"}
    assert await person.page.evaluate("window.ran") == []
    assert await person.overflows()
    assert len(person.noticed) == 2
