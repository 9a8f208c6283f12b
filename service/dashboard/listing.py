"""The list of jobs."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service.context import Context
from service.dashboard import asking
from service.dashboard.addresses import encoded
from service.dashboard.pages import HEADERS, NotKnown, Page, Part
from service.dashboard.refreshing import answered
from service.dashboard.scope import Scope, scope_of
from service.dashboard.statuses import counts
from service.db import Database
from service.errors import Invalid
from service.jobs import lists, reads
from service.jobs.cursors import make_cursor
from service.jobs.filters import JobFilter, read_filter
from service.jobs.lifecycle import Status
from service.jobs.lists import MOST_OWNERS

PATH = "/dashboard/jobs"
PAGE = 50
EXCERPT = 140

_PROMPT = re.compile(r'"prompt"\s*:\s*"((?:[^"\\]|\\.)*)')


async def show_jobs(request: Request) -> Response:
    context: Context = request.state.context
    scope = await scope_of(request)
    query = request.query_params.multi_items()
    if (tidy := asking.tidied(query)) != query:
        return RedirectResponse(f"{PATH}?{encoded(tidy)}" if tidy else PATH, 303, HEADERS)
    wanted, problem = None, None
    try:
        wanted = replace(read_filter(asking.filters_of(query)), limit=PAGE)
        if not scope.viewer.may_see_payloads and wanted.asks_what_is_in_jobs:
            wanted, problem = None, "This key does not show what is in a job, and so cannot be used to search for it."
    except Invalid as error:
        problem = error.message
    db = context.db
    parts = [
        Part("statuses", "jobs/statuses.html", partial(counts, db, scope, wanted)),
        Part("list", "jobs/list.html", partial(listed, db, scope, wanted), live=wanted is None or not wanted.cursor),
        Part("words", "jobs/words.html", partial(known_words, context, scope), live=False),
    ]
    facts = {
        "path": PATH,
        "problem": problem,
        "wanted": wanted,
        "chips": asking.chips(PATH, query),
        "filters": asking.filters_of(query),
        "hidden": asking.hidden_measures(query),
        "measures": asking.MEASURES,
        "statuses": list(Status),
        "asked": defaultdict(str, query),
    }
    return await answered(request, Page("jobs.html", "Jobs", "jobs", scope, parts, facts))


async def listed(db: Database, scope: Scope, wanted: JobFilter | None) -> Mapping[str, Any]:
    if wanted is None:
        raise NotKnown("Nothing is listed, as one of the filters cannot be read.")
    if (owners := scope.owners) is None:
        if not scope.names:
            raise NotKnown("The database is away; try again shortly.")
        raise NotKnown(f"There are more than {MOST_OWNERS} tenants: choose one of them above.")
    page = await lists.page(db, owners, wanted)
    excerpts: dict[Any, Any] = {}
    if scope.viewer.may_see_payloads and page.rows:
        found = await reads.excerpts(db, [row["id"] for row in page.rows])
        excerpts = {job_id: (_prompt(row["input"]), _cut(row["text"])) for job_id, row in found.items()}
    return {
        "rows": page.rows,
        "excerpts": excerpts,
        "older": make_cursor(page.older) if page.older else None,
        "newer": make_cursor(page.newer) if page.newer else None,
        "searched_to": page.searched_to,
        "files": {row["id"]: _files(row) for row in page.rows},
    }


def _files(row: Any) -> tuple[int, int]:
    """How many masks and how many images."""
    kinds = [file["kind"] for file in json.loads(row["files"])] if row["files"] else []
    return kinds.count("mask"), kinds.count("image")


def _prompt(text: str | None) -> str | None:
    found = _PROMPT.search(text or "")
    if found is None:
        return None
    try:
        return _cut(str(json.loads(f'"{found[1]}"')))
    except ValueError:
        return _cut(found[1])


def _cut(text: str | None) -> str | None:
    if text is None:
        return None
    line = " ".join(text[: 4 * EXCERPT].split())
    return line if len(line) <= EXCERPT else f"{line[: EXCERPT - 1]}…"


_WORDS = """
SELECT (SELECT array_agg(DISTINCT model) FROM series WHERE {mine} AND model <> '') AS models,
       (SELECT array_agg(DISTINCT provider) FROM series WHERE {mine} AND provider <> '') AS providers,
       (SELECT array_agg(DISTINCT substr(measure, 8)) FROM series WHERE {mine} AND measure LIKE 'errors._%') AS errors,
       (SELECT array_agg(DISTINCT measure) FROM series
        WHERE {mine} AND (measure LIKE 'usage.%' OR measure LIKE 'timings.model.%')) AS measures
"""


async def known_words(context: Context, scope: Scope) -> Mapping[str, Any]:
    """What may be written into the fields: whatever any job was counted by."""
    values = [scope.tenant_id] if scope.tenant_id else []
    row = await context.db.fetchrow(_WORDS.format(mine="tenant_id = $1" if values else "true"), *values)
    assert row is not None
    models = {model.id for model in context.catalog.models} | set(row["models"] or ())
    return {
        "models": sorted(models),
        "providers": sorted({*(each.name for each in context.providers), *(row["providers"] or ())}),
        "errors": sorted(row["errors"] or ()),
        "measures": [*asking.MEASURES, *sorted(row["measures"] or ())],
    }


async def find_job(request: Request) -> Response:
    """From any of a job's IDs to its page; to the list of none, which says so."""
    context: Context = request.state.context
    scope = await scope_of(request)
    asked = request.query_params.get("id", "").strip()
    found = await reads.find(context.db, scope.viewer.tenant_id, asked) if asked and "\0" not in asked else None
    if found is not None:
        return RedirectResponse(f"{PATH}/{found}", 303, HEADERS)
    return RedirectResponse(f"{PATH}?{encoded([('said', 'no-such-job')])}", 303, HEADERS)
