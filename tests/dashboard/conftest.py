"""A real browser for the dashboard: Debian's Chromium, and axe-core to look for what keeps people from a page."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, async_playwright

from tests.dashboard.browsing import Person
from tests.dashboard.looking import key_of
from tests.requiring import require

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Browser]:
    require("chromium", AXE)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    require(AXE)
    return AXE.read_text()


@pytest.fixture
async def person(chromium: Browser, api: str, client: httpx.AsyncClient) -> AsyncIterator[Person]:
    """An administrator in front of a wide screen, signed in."""
    person = await Person.open(chromium, api)
    await person.sign_in(key_of(client))
    yield person
    await person.close()
