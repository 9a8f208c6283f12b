"""Somebody in front of a browser, and all that went wrong in it."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page

WIDE, NARROW = 1360, 390

# A browser notes where a page breaks its policy; the page's own scripts could not tell.
_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
window.ran = [];
"""


@dataclass
class Person:
    """`noticed` has what was written to the console, thrown, or asked by a dialog that no test expected."""

    context: BrowserContext
    page: Page
    url: str
    noticed: list[str] = field(default_factory=list)

    @classmethod
    async def open(
        cls, browser: Browser, url: str, *, width: int = WIDE, scheme: Literal["light", "dark"] = "light"
    ) -> "Person":
        context = await browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        await context.add_init_script(_WATCH)
        person = cls(context, await context.new_page(), url)
        person.page.on("console", person._heard)
        person.page.on("pageerror", lambda error: person.noticed.append(f"thrown: {error}"))
        return person

    def _heard(self, message: ConsoleMessage) -> None:
        # A picture whose host does not exist cannot be shown, and a browser says so.
        if message.type in {"error", "warning"} and "/picture" not in str(message.location):
            self.noticed.append(f"{message.type}: {message.text} {message.location}")

    async def close(self) -> None:
        await self.context.close()

    async def sign_in(self, key: str) -> None:
        await self.page.goto(f"{self.url}/dashboard/sign-in")
        await self.page.fill("#key", key)
        await self.page.get_by_role("button", name="Sign in").click()
        await self.page.wait_for_url(f"{self.url}/dashboard")

    async def go(self, path: str) -> int:
        answer = await self.page.goto(f"{self.url}{path}")
        assert answer is not None
        return answer.status

    async def agree(self) -> None:
        """To whatever a page asks from now on."""
        self.page.on("dialog", lambda dialog: dialog.accept())

    async def press(self, name: str) -> None:
        """A button, and wait for the page that it leads to."""
        async with self.page.expect_navigation():
            await self.page.get_by_role("button", name=name, exact=True).click()

    async def violations(self) -> list[str]:
        found: list[str] = await self.page.evaluate("window.violations")
        return found

    async def overflows(self) -> bool:
        """Whether the page has to be moved sideways."""
        return bool(await self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"))

    async def faults(self, axe: str) -> list[str]:
        """What axe-core takes for serious or worse."""
        await self.page.evaluate(axe)
        found: dict[str, Any] = await self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{each['id']}: {json.dumps([node['html'][:160] for node in each['nodes'][:3]])}"
            for each in found["violations"]
            if each["impact"] in {"serious", "critical"}
        ]

    async def text(self, selector: str = "body") -> str:
        return await self.page.inner_text(selector)
