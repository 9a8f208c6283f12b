"""How a page is made: templates that take all text for text, headers that let nothing foreign run, and its parts.

Each part is loaded for itself, within its own time: one that is slow or fails says so, and the rest is shown.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from service import __version__
from service.dashboard import charts, figures, files
from service.dashboard.access import NotSignedIn
from service.dashboard.addresses import changed
from service.dashboard.scope import TENANT, Scope
from service.errors import ServiceError
from service.marks import visible

log = structlog.get_logger()

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
    "vary": "accept, cookie",
}

PART_SECONDS = 1.5
LIVE_SECONDS = 4.0

THEMES = ("light", "dark")
THEME_COOKIE = "roundtrip-theme"


def _shown(value: Any) -> Any:
    """What stands between braces in a template: text with what is unseen in it made visible."""
    if value is None:
        return figures.UNKNOWN
    if isinstance(value, Markup) or hasattr(value, "__html__"):
        return value
    return visible(value if isinstance(value, str) else str(value))


templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    finalize=_shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.globals.update(static=files.address, version=__version__, charts=charts, changed=changed)
templates.filters.update(
    number=figures.number,
    short=figures.short,
    seconds=figures.seconds,
    percent=figures.percent,
    size=figures.size,
    money=figures.money,
    fine_money=figures.fine_money,
    moment=figures.moment,
    when=figures.when,
    slashed=figures.slashed,
    coded=figures.coded,
    until=figures.until,
)


class NotKnown(Exception):
    """A part cannot be told, and why."""


@dataclass(frozen=True)
class Part:
    """Something of a page: `template` is given what `load` finds, as `it`. Live parts are looked at again."""

    name: str
    template: str
    load: Callable[[], Awaitable[Any]]
    live: bool = True
    seconds: float = PART_SECONDS


@dataclass(frozen=True)
class Page:
    """`job_id`: whoever looks is told at once when that job changes."""

    template: str
    title: str
    section: str
    scope: Scope
    parts: Sequence[Part] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    job_id: UUID | None = None
    status: int = 200

    @property
    def is_live(self) -> bool:
        return any(part.live for part in self.parts)


async def told(request: Request, page: Page, part: Part) -> Markup:
    """A part as HTML; what nobody knows is said in its place."""
    common = common_facts(request, page)
    try:
        async with asyncio.timeout(part.seconds):
            it = await part.load()
        return _html(part.template, common, it=it)
    except TimeoutError:
        words = f"It took longer than {part.seconds:g} s."
    except NotKnown as error:
        words = str(error)
    except ServiceError as error:
        words = error.message
    except Exception:  # The rest of the page is shown.
        log.exception("a part of a page could not be told", part=part.name)
        words = "Something went wrong on our side."
    return _html("unknown.html", common, words=words)


def _html(template: str, common: Mapping[str, Any], **values: Any) -> Markup:
    return Markup(templates.get_template(template).render(common, **values))  # noqa: S704  # It escapes what it is given.


async def shown(request: Request, page: Page) -> Response:
    found = await asyncio.gather(*(told(request, page, part) for part in page.parts))
    parts = {part.name: html for part, html in zip(page.parts, found, strict=True)}
    return html_of(request, page, parts=parts)


def html_of(request: Request, page: Page, **facts: Any) -> Response:
    text = templates.get_template(page.template).render(common_facts(request, page), **facts)
    return HTMLResponse(text, page.status, HEADERS)


def common_facts(request: Request, page: Page) -> dict[str, Any]:
    return {
        **page.facts,
        "page": page,
        "scope": page.scope,
        "viewer": page.scope.viewer,
        "here": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        "query": request.query_params.multi_items(),
        "carried": [(TENANT, page.scope.tenant)] if page.scope.tenant else [],
        "theme": theme_of(request),
    }


def theme_of(request: Request) -> str | None:
    """What the browser remembers; None: as its system has it."""
    theme = request.cookies.get(THEME_COOKIE)
    return theme if theme in THEMES else None


View = Callable[[Request], Awaitable[Response]]


def as_page(view: View) -> View:
    """What goes wrong is told as a page, with the status that it has at every door."""

    @wraps(view)
    async def shown_to_people(request: Request) -> Response:
        try:
            return await view(request)
        except NotSignedIn:
            raise
        except ServiceError as error:
            text = templates.get_template("error.html").render(error=error, theme=theme_of(request))
            return HTMLResponse(text, error.status, {**HEADERS, **error.headers})

    return shown_to_people
