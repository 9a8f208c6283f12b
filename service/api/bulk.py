"""Actions on many jobs: previewed, begun, looked at, and aborted."""

from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from service.api.rendering import decimal
from service.api.shapes import (
    BulkAction,
    BulkLinks,
    BulkModel,
    BulkPage,
    BulkPreview,
    BulkRequest,
    BulkResult,
    BulkResultPage,
)
from service.bodies import read_body
from service.bulk import asking, beginning, records
from service.bulk.beginning import Asked
from service.bulk.lifecycle import BulkOutcome, BulkVerb
from service.context import Context
from service.db import Row
from service.errors import Forbidden, Invalid, NotFound
from service.jobs.cursors import moment_of
from service.jobs.filters import DEFAULT_PAGE, LARGEST_PAGE
from service.keys import Caller
from service.queue import TaskName
from service.requests import answer, authenticate, fit, idempotency_key, read_json

LARGEST_REQUEST = 64 * 1024


async def preview_action(request: Request) -> Response:
    """How many jobs, and what they may cost."""
    context: Context = request.state.context
    asked = await _asked(request)
    found = await beginning.preview(context.db, asked)
    return answer(
        BulkPreview(
            action=asked.verb.value,
            jobs=found.jobs,
            skipped=found.skipped,
            is_exact=found.is_exact,
            cost=None if found.cost is None else decimal(found.cost),
            cost_is_whole=found.cost_is_whole,
            currency=found.currency,
            models=[
                BulkModel(share.model, share.jobs, None if share.cost is None else decimal(share.cost))
                for share in found.models
            ],
        )
    )


async def begin_action(request: Request) -> Response:
    """202 with the action; 200 when the Idempotency-Key had begun it before."""
    context: Context = request.state.context
    asked = await _asked(request)
    key = idempotency_key(request)
    if key is None:
        words = "An action on many jobs needs one, so that a request that is sent twice begins it once."
        raise Invalid.at("header", "idempotency-key", msg=words, kind="missing")
    action_id, is_new = await beginning.begin(context.db, asked, key)
    if is_new:
        context.nudger.nudge(TaskName.BULK)
    row = await records.get(context.db, None, action_id)
    assert row is not None
    return answer(shown(context, row), 202 if is_new else 200)


async def _asked(request: Request) -> Asked:
    """Who finds jobs by what is in them may read them, too. Raises Forbidden or Invalid."""
    caller = await authenticate(request, "submit")
    if not caller.may("read"):
        raise Forbidden("This key does not have the scope 'read'.")
    context: Context = request.state.context
    asked = fit(BulkRequest, read_json(request, await read_body(request, LARGEST_REQUEST)), "body")
    of_tenant: UUID | None = caller.tenant_id
    if asked.tenant not in {None, caller.tenant}:
        if not caller.may("admin"):
            raise Forbidden("Only administrators act on the jobs of others.")
        of_tenant = await beginning.tenant_meant(context.db, asked.tenant or "")
    conditions = asking.pairs_of(asked.filter, "body", "filter")
    return Asked(caller.tenant_id, caller.key_id, BulkVerb(asked.action), of_tenant, conditions)


async def list_actions(request: Request) -> Response:
    """Those of the tenant; for administrators, of all."""
    caller = await authenticate(request, "read")
    context: Context = request.state.context
    limit, before = _page(request)
    rows = await records.newest(context.db, _whose(caller), before, limit + 1)
    more = str(rows[limit - 1]["id"]) if len(rows) > limit else None
    return answer(BulkPage([shown(context, row) for row in rows[:limit]], more))


async def show_action(request: Request) -> Response:
    context: Context = request.state.context
    return answer(shown(context, await _find(request, await authenticate(request, "read"))))


async def list_results(request: Request) -> Response:
    """What came of each job; `?outcome=` has those of one kind."""
    context: Context = request.state.context
    row = await _find(request, await authenticate(request, "read"))
    word = request.query_params.get("outcome")
    if word is not None and word not in set(BulkOutcome):
        known = ", ".join(BulkOutcome)
        raise Invalid.at("query", "outcome", msg=f"Must be one of {known}.", kind="enum")
    limit, before = _page(request)
    outcome = BulkOutcome(word) if word else None
    rows = await records.results(context.db, row["id"], outcome, before, limit + 1)
    results = [
        BulkResult(
            str(each["job_id"]),
            each["outcome"],
            each["reason"],
            None if each["outcome"] == BulkOutcome.PLANNED or each["new_job_id"] is None else str(each["new_job_id"]),
        )
        for each in rows[:limit]
    ]
    return answer(BulkResultPage(results, results[-1].request_id if len(rows) > limit else None))


async def abort_action(request: Request) -> Response:
    """202 when it was under way: nothing more is begun. 200 when it was over."""
    context: Context = request.state.context
    caller = await authenticate(request, "submit")
    row = await _find(request, caller)
    await records.abort(context.db, row["id"])
    context.nudger.nudge(TaskName.BULK)
    after = await _find(request, caller)
    return answer(shown(context, after), 200 if after["ended_at"] else 202)


async def _find(request: Request, caller: Caller) -> Row:
    context: Context = request.state.context
    try:
        action_id = UUID(request.path_params["bulk_id"])
    except ValueError:
        raise NotFound("There is no such action.") from None
    row = await records.get(context.db, _whose(caller), action_id)
    if row is None:
        raise NotFound("There is no such action.")
    return row


def _whose(caller: Caller) -> UUID | None:
    return None if caller.may("admin") else caller.tenant_id


def _page(request: Request) -> tuple[int, UUID | None]:
    word, cursor = request.query_params.get("limit", str(DEFAULT_PAGE)), request.query_params.get("cursor")
    if not (word.isascii() and word.isdecimal() and len(word) < 5 and 1 <= int(word) <= LARGEST_PAGE):
        raise Invalid.at("query", "limit", msg=f"Must be a whole number from 1 to {LARGEST_PAGE}.", kind="int_parsing")
    try:
        return int(word), UUID(cursor) if cursor else None
    except ValueError:
        raise Invalid.at("query", "cursor", msg="Not a cursor of this service.") from None


def shown(context: Context, row: Row) -> BulkAction:
    own = f"{context.settings.public_url}/v1/bulk-actions/{row['id']}"
    conditions: dict[str, Any] = {}
    for name, value in records.conditions_of(row):
        if name in conditions:
            known = conditions[name]
            conditions[name] = [*(known if isinstance(known, list) else [known]), value]
        else:
            conditions[name] = value
    return BulkAction(
        id=str(row["id"]),
        action=row["action"],
        filter=conditions,
        tenant="*" if row["of_tenant"] is None else row["of_tenant_name"],
        state=row["state"],
        created_at=row["created_at"],
        ended_at=row["ended_at"],
        expected_jobs=row["expected"],
        expected_is_exact=row["expected_is_exact"],
        expected_cost=None if row["expected_cost"] is None else decimal(row["expected_cost"]),
        done=row["done"],
        skipped=row["skipped"],
        failed=row["failed"],
        walked_to=moment_of(row["walked_to"]) if row["walked_to"] else None,
        error=row["error"],
        links=BulkLinks(own, f"{own}/results", f"{own}/abort"),
    )
