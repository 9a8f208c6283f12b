"""The operator's page. It shows what the service is doing, and nothing that belongs to a tenant."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from service import __version__
from service.context import Context
from service.db import DatabaseAway, Row
from service.jobs.pauses import pauses

TEMPLATES = Path(__file__).parent / "templates"
templates = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(default=True))

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

_FIGURES = """
SELECT current_setting('server_version') AS version,
       (SELECT count(*) FROM live_jobs WHERE status = 'queued') AS queued,
       (SELECT count(*) FROM live_jobs WHERE status = 'submitted') AS submitted,
       (SELECT count(*) FROM live_jobs WHERE status = 'in_progress') AS in_progress,
       (SELECT count(*) FROM live_jobs WHERE duty = 'settle') AS in_doubt,
       (SELECT count(*) FROM live_jobs WHERE due_at < now() - interval '1 minute') AS overdue,
       (SELECT count(*) FROM copies) AS owed_copies
"""


async def show_overview(request: Request) -> Response:
    """Unknown is shown as unknown, never as zero."""
    context: Context = request.state.context
    figures: Row | None = None
    paused: list[Row] = []
    try:
        figures = await context.db.fetchrow(_FIGURES)
        paused = await pauses(context.db)
    except DatabaseAway:
        figures = None
    page = templates.get_template("overview.html").render(
        figures=figures,
        paused=paused,
        version=__version__,
        provider=context.settings.fal_queue_url,
        models=context.catalog.models,
    )
    return HTMLResponse(page, headers=HEADERS)


async def show_style(request: Request) -> Response:
    return Response(
        (TEMPLATES / "overview.css").read_text(), headers={"x-content-type-options": "nosniff"}, media_type="text/css"
    )
