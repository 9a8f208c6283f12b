"""Webhooks in and out: what providers said and what was made of it, and what clients were told."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service.callbacks import again, lists
from service.callbacks.lifecycle import CallbackState
from service.callbacks.lists import NEWEST, Place
from service.context import Context
from service.dashboard.access import acting
from service.dashboard.job import job_of
from service.dashboard.layout import laid_out
from service.dashboard.pages import HEADERS, NotKnown, Page, Part
from service.dashboard.refreshing import answered
from service.dashboard.scope import Scope, scope_of
from service.db import Database
from service.errors import Forbidden, Invalid, NotFound
from service.jobs import hearsay, reads
from service.jobs.hearsay import LATEST_ID
from service.jobs.lifecycle import LIVE, Source, Verdict
from service.jobs.lists import MOST_OWNERS
from service.jobs.replaying import NoSuchReport, ReportRemoved, replay
from service.moments import in_utc
from service.queue import TaskName

PAGE = 50
LONGEST_SHOWN = 64 * 1024

# What each verdict means, for those who see it for the first time.
MEANINGS = {
    Verdict.APPLIED: "it ended its job",
    Verdict.DUPLICATE: "it says what had ended the job before",
    Verdict.CONFLICT: "it says otherwise than what had ended the job; kept, never applied",
    Verdict.LATE: "the job had ended by something else",
    Verdict.FOREIGN: "it is about another request",
    Verdict.UNKNOWN: "there is no such job",
    Verdict.UNREADABLE: "it could not be read",
    Verdict.INCOMPLETE: "it tells of an end, but not of which",
    Verdict.NOTED: "it says how far the job is",
    Verdict.INCONCLUSIVE: "it proves nothing",
}


def _one_of(kind: type[Any], word: str | None) -> Any:
    """The member that a word names. None: no word, or none that is known."""
    return kind(word) if word in {each.value for each in kind} else None


async def show_heard(request: Request) -> Response:
    context: Context = request.state.context
    scope = await scope_of(request)
    query = request.query_params
    verdict, source = _one_of(Verdict, query.get("verdict")), _one_of(Source, query.get("source"))
    word = query.get("before", "")
    before = int(word) if word.isascii() and word.isdecimal() and len(word) < 19 else LATEST_ID
    parts = [
        Part("verdicts", "webhooks/verdicts.html", partial(_verdicts, context.db, scope)),
        Part(
            "list",
            "webhooks/heard.html",
            partial(hearsay.heard, context.db, scope.tenant_id, verdict, source, before, PAGE),
            live=before == LATEST_ID,
        ),
    ]
    facts = {
        "path": "/dashboard/webhooks/in",
        "verdict": verdict,
        "source": source,
        "sources": list(Source),
        "meanings": MEANINGS,
    }
    return await answered(request, Page("heard.html", "Webhooks in", "in", scope, parts, facts))


async def _verdicts(db: Database, scope: Scope) -> Mapping[str, Any]:
    counts, since = await hearsay.verdicts(db, scope.tenant_id)
    return {"counts": counts, "since": since, "walked": hearsay.LONGEST_WALK}


async def show_told(request: Request) -> Response:
    context: Context = request.state.context
    scope = await scope_of(request)
    query = request.query_params
    state = _one_of(CallbackState, query.get("state"))
    before = _place(query.get("before", ""))
    parts = [
        Part("receivers", "webhooks/receivers.html", partial(_receivers, context.db, scope)),
        Part(
            "list",
            "webhooks/told.html",
            partial(_told, context.db, scope, state, before),
            live=before == NEWEST,
        ),
    ]
    number = query.get("told", "")
    facts = {
        "path": "/dashboard/webhooks/out",
        "state": state,
        "states": list(CallbackState),
        "day_ago": f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%dT%H:%M}",
        "redelivered": int(number) if number.isascii() and number.isdecimal() and len(number) < 12 else None,
    }
    return await answered(request, Page("told.html", "Webhooks out", "out", scope, parts, facts))


async def _receivers(db: Database, scope: Scope) -> Mapping[str, Any]:
    return {"rows": await lists.failing(db, scope.tenant_id), "most": lists.MOST_COUNTED}


async def _told(db: Database, scope: Scope, state: CallbackState | None, before: Place) -> Mapping[str, Any]:
    if (owners := scope.owners) is None:
        if not scope.names:
            raise NotKnown("The database is away; try again shortly.")
        raise NotKnown(f"There are more than {MOST_OWNERS} tenants: choose one of them above.")
    found = await lists.told(db, owners, state, before, PAGE)
    older = f"{found.older[0].isoformat()}~{found.older[1]}" if found.older else None
    return {"rows": found.rows, "older": older, "searched_to": found.searched_to}


def _place(word: str) -> Place:
    """As `_told` names it; the newest, where it cannot be read."""
    moment, _, job_id = word.rpartition("~")
    try:
        # A plus sign that was not percent-encoded arrives as a space.
        return in_utc(datetime.fromisoformat(moment.replace(" ", "+"))), UUID(job_id)
    except (ValueError, OverflowError):
        return NEWEST


async def redeliver(request: Request) -> Response:
    """Tell all callbacks of a state and a time once more."""
    viewer, form = await acting(request)
    context: Context = request.state.context
    tenant_id = viewer.tenant_id
    try:
        if tenant_id is None and (word := form.get("of_tenant")):
            tenant_id = UUID(word)
    except ValueError:
        raise NotFound("There is no such tenant.") from None
    if (state := _one_of(CallbackState, form.get("state"))) is None:
        raise Invalid.at("body", "state", msg=f"Must be one of {', '.join(CallbackState)}.", kind="enum")
    try:
        since = in_utc(datetime.fromisoformat(form.get("since", "")))
    except (ValueError, OverflowError):
        raise Invalid.at("body", "since", msg="Must be a time.") from None
    number = await again.redeliver_many(context.db, tenant_id, since, None, state)
    context.nudger.nudge(TaskName.DELIVER)
    return RedirectResponse(f"/dashboard/webhooks/out?told={number}", 303, HEADERS)


async def show_report(request: Request) -> Response:
    """One piece of evidence, with its exact bytes as text or in hexadecimal."""
    context: Context = request.state.context
    scope = await scope_of(request)
    job = await job_of(request, scope.viewer)
    report = await reads.report_of(context.db, job["id"], request.path_params["report_id"])
    if report is None:
        raise NotFound("The job has no such report.")

    async def body() -> Mapping[str, Any]:
        if not scope.viewer.may_see_payloads:
            raise NotKnown("This key does not show what is in a job.")
        content = bytes(await reads.report_body(context.db, job["id"], report["id"]) or b"")[:LONGEST_SHOWN]
        return {
            "text": content.decode("utf-8", "backslashreplace"),
            "laid_out": laid_out(content.decode("utf-8", "backslashreplace")),
            "hex": hexadecimal(content),
            "cut": report["size"] > LONGEST_SHOWN,
        }

    async def today() -> Mapping[str, Any]:
        if not scope.viewer.may_see_payloads:
            raise NotKnown("This key does not show what is in a job.")
        try:
            replayed = await replay(context.db, context.catalog, report["id"], user_id=context.settings.fal_user_id)
        except ReportRemoved:
            raise NotKnown("Its bytes were removed, as its tenant wanted.") from None
        except NoSuchReport:
            raise NotKnown("It is not there any more.") from None
        return {"replay": replayed, "is_live": job["status"] in LIVE}

    parts = [
        Part("body", "webhooks/body.html", body, live=False),
        Part("today", "webhooks/today.html", today, live=False),
    ]
    view = request.query_params.get("view", "text")
    facts = {
        "job": job,
        "report": report,
        "headers": laid_out(report["headers"]),
        "meanings": MEANINGS,
        "view": view if view in {"text", "laid-out", "hex"} else "text",
    }
    title = f"{report['source']} {report['id']}"
    return await answered(request, Page("report.html", title, "in", scope, parts, facts))


async def download_report(request: Request) -> Response:
    """The exact bytes. They are a stranger's, so nothing that looks at them may run them."""
    context: Context = request.state.context
    scope = await scope_of(request)
    job = await job_of(request, scope.viewer)
    if not scope.viewer.may_see_payloads:
        raise Forbidden("This key does not show what is in a job.")
    report_id: int = request.path_params["report_id"]
    body = await reads.report_body(context.db, job["id"], report_id) if report_id <= reads.LARGEST_ID else None
    if body is None:
        raise NotFound("The job has no such report.")
    headers = {**HEADERS, "content-disposition": f'attachment; filename="report-{report_id}"'}
    return Response(body, headers=headers, media_type="application/octet-stream")


def hexadecimal(content: bytes) -> str:
    """Sixteen bytes a line: where they stand, what they are, and the visible ones as text."""
    lines = []
    for start in range(0, len(content), 16):
        part = content[start : start + 16]
        pairs = " ".join(f"{byte:02x}" for byte in part)
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
        lines.append(f"{start:08x}  {pairs:<47}  {text}")
    return "\n".join(lines)
