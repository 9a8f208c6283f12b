"""One action on many jobs: previewed with its number and cost, begun, followed, and aborted."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID, uuid4

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service.bulk import beginning, records
from service.bulk.beginning import Asked
from service.bulk.lifecycle import UNDER_WAY, BulkOutcome, BulkVerb
from service.context import Context
from service.dashboard.access import Viewer, acting
from service.dashboard.addresses import encoded
from service.dashboard.asking import filters_of
from service.dashboard.pages import HEADERS, Page, Part
from service.dashboard.refreshing import answered
from service.dashboard.scope import scope_of
from service.db import Database, Row
from service.errors import Forbidden, Invalid, NotFound
from service.jobs.filters import read_filter
from service.queue import TaskName
from service.stats.prices import CURRENCY

PATH = "/dashboard/bulk"
PAGE = 50
LONGEST_KEY = 100

# A preview counts for two seconds at most.
PREVIEW_SECONDS = 6.0


async def show_actions(request: Request) -> Response:
    context: Context = request.state.context
    scope = await scope_of(request)
    before = _id(request.query_params.get("before"))
    parts = [Part("list", "bulk/list.html", partial(_listed, context.db, scope.viewer, before), live=before is None)]
    return await answered(request, Page("bulk.html", "Bulk actions", "bulk", scope, parts, {"path": PATH}))


async def _listed(db: Database, viewer: Viewer, before: UUID | None) -> Mapping[str, Any]:
    rows = await records.newest(db, viewer.tenant_id, before, PAGE + 1)
    shown = [_told(row, viewer) for row in rows[:PAGE]]
    return {"rows": shown, "older": str(rows[PAGE - 1]["id"]) if len(rows) > PAGE else None}


@dataclass(frozen=True, slots=True)
class Told:
    """Of a condition that tells what is in jobs the value is None, for those who may not see that."""

    row: Row
    conditions: list[tuple[str, str | None]]

    @property
    def ended(self) -> int:
        return int(self.row["done"] + self.row["skipped"] + self.row["failed"])

    @property
    def share(self) -> float | None:
        """Of what was expected; None, where that was not counted to its end."""
        expected = self.row["expected"]
        if self.row["state"] == "done":
            return 1.0
        return min(1.0, self.ended / expected) if expected and self.row["expected_is_exact"] else None

    @property
    def is_under_way(self) -> bool:
        return self.row["state"] in UNDER_WAY

    @property
    def whose(self) -> str | None:
        """The tenant; None for all of them."""
        name = self.row["of_tenant_name"]
        return str(name) if name is not None else None


def _told(row: Row, viewer: Viewer) -> Told:
    return Told(
        row,
        [
            (name, value if viewer.may_see_payloads or not read_filter([(name, value)]).asks_what_is_in_jobs else None)
            for name, value in records.conditions_of(row)
        ],
    )


async def show_new(request: Request) -> Response:
    """What an action would do: for each of the two verbs, how many jobs and what they may cost."""
    context: Context = request.state.context
    scope = await scope_of(request)
    if not scope.viewer.may_act:
        raise Forbidden("This key may look, and change nothing.")
    conditions = filters_of(request.query_params.multi_items())
    conditions = [(name, value) for name, value in conditions if name != "cursor"]
    caller = scope.viewer.caller

    async def preview(verb: BulkVerb) -> Mapping[str, Any]:
        asked = Asked(caller.tenant_id, caller.key_id, verb, scope.tenant_id, conditions)
        try:
            found = await beginning.preview(context.db, asked)
        except Invalid as error:
            return {"verb": verb, "problem": error.message.removeprefix("filter.").removeprefix("status: ")}
        return {"problem": None, "verb": verb, "preview": found, "filters": encoded(conditions), "key": str(uuid4())}

    parts = [
        Part(verb.value, "bulk/preview.html", partial(preview, verb), live=False, seconds=PREVIEW_SECONDS)
        for verb in BulkVerb
    ]
    facts = {"conditions": conditions}
    return await answered(request, Page("bulk_new.html", "Retry or cancel many", "bulk", scope, parts, facts))


async def begin(request: Request) -> Response:
    """303 to the action; the same one, however often its form is sent."""
    viewer, form = await acting(request)
    context: Context = request.state.context
    word, key = form.get("verb", ""), form.get("key", "")
    if word not in set(BulkVerb) or not 1 <= len(key) <= LONGEST_KEY or not key.isprintable():
        raise Invalid.at("body", "verb", msg="Must be retry or cancel.", kind="enum")
    of_tenant = viewer.tenant_id
    if of_tenant is None and (name := form.get("of_tenant")):
        of_tenant = await beginning.tenant_meant(context.db, name)
    conditions = parse_qsl(form.get("filters", ""), keep_blank_values=True)
    caller = viewer.caller
    asked = Asked(caller.tenant_id, caller.key_id, BulkVerb(word), of_tenant, conditions)
    action_id, is_new = await beginning.begin(context.db, asked, f"dashboard {key}")
    if is_new:
        context.nudger.nudge(TaskName.BULK)
    return RedirectResponse(f"{PATH}/{action_id}", 303, HEADERS)


async def show_action(request: Request) -> Response:
    context: Context = request.state.context
    scope = await scope_of(request)
    row = await _find(request, scope.viewer)
    word = request.query_params.get("outcome")
    outcome = BulkOutcome(word) if word in set(BulkOutcome) else None
    before = _id(request.query_params.get("before"))
    told = _told(row, scope.viewer)

    async def progress() -> Mapping[str, Any]:
        return {"told": told, "expected_cost": _cost(row), "currency": await _currency(context.db)}

    async def results() -> Mapping[str, Any]:
        found = await records.results(context.db, row["id"], outcome, before, PAGE + 1)
        return {"rows": found[:PAGE], "older": str(found[PAGE - 1]["job_id"]) if len(found) > PAGE else None}

    parts = [
        Part("progress", "bulk/progress.html", progress),
        Part("results", "bulk/results.html", results, live=before is None),
    ]
    facts = {"told": told, "outcome": outcome, "outcomes": list(BulkOutcome), "path": f"{PATH}/{row['id']}"}
    title = f"{str(row['action']).capitalize()} many"
    return await answered(request, Page("bulk_action.html", title, "bulk", scope, parts, facts))


def _cost(row: Row) -> Decimal | None:
    cost: Decimal | None = row["expected_cost"]
    return cost


async def _currency(db: Database) -> str | None:
    row = await db.fetchrow(CURRENCY)
    return str(row["currency"]) if row else None


async def abort(request: Request) -> Response:
    """What was done by then stays done."""
    viewer, _ = await acting(request)
    context: Context = request.state.context
    row = await _find(request, viewer)
    await records.abort(context.db, row["id"])
    context.nudger.nudge(TaskName.BULK)
    return RedirectResponse(f"{PATH}/{row['id']}", 303, HEADERS)


async def _find(request: Request, viewer: Viewer) -> Row:
    action_id = _id(request.path_params["bulk_id"])
    context: Context = request.state.context
    row = await records.get(context.db, viewer.tenant_id, action_id) if action_id else None
    if row is None:
        raise NotFound("There is no such action.")
    return row


def _id(word: str | None) -> UUID | None:
    try:
        return UUID(word) if word else None
    except ValueError:
        return None
