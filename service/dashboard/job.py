"""The page of one job."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service.artifacts import keeping
from service.artifacts import records as files
from service.artifacts.links import FileLinks
from service.callbacks import reads as callbacks
from service.context import Context
from service.dashboard.access import Viewer, signed_in
from service.dashboard.addresses import here
from service.dashboard.explaining import Facts, explained
from service.dashboard.layout import laid_out
from service.dashboard.notices import NOTICES
from service.dashboard.pages import HEADERS, NotKnown, Page, Part
from service.dashboard.pictures import LONGEST_TEXT, input_text, shown
from service.dashboard.refreshing import answered
from service.dashboard.scope import scope_of
from service.dashboard.waterfall import waterfall
from service.db import Row
from service.errors import Forbidden, NotFound
from service.jobs import reads
from service.jobs.endings import OURS
from service.jobs.lifecycle import LIVE, AttemptState, Status
from service.jobs.logs import LEVELS, words_of
from service.jobs.pauses import pauses
from service.jobs.routing import GPU
from service.jobs.runs import workers

# A page of evidence; polls of days may have gathered thousands.
MOST_EVIDENCE = 100
MOST_EVENTS = 300


async def job_of(request: Request, viewer: Viewer) -> Row:
    """The job that the path names, whole. Raises NotFound, for another tenant's too."""
    context: Context = request.state.context
    job_id = await reads.find(context.db, viewer.tenant_id, request.path_params["request_id"])
    tenant_id = viewer.tenant_id or (await files.tenant_of(context.db, job_id) if job_id else None)
    row = await reads.get(context.db, tenant_id, job_id) if job_id and tenant_id else None
    if row is None:
        raise NotFound("There is no such job.")
    return row


async def show_job(request: Request) -> Response:
    context: Context = request.state.context
    links: FileLinks = request.state.links
    scope = await scope_of(request)
    viewer = scope.viewer
    row = await job_of(request, viewer)
    if request.path_params["request_id"] != str(row["id"]):
        return RedirectResponse(f"/dashboard/jobs/{row['id']}", 303, HEADERS)
    account = _Account(context, links, viewer, row)
    live = row["status"] in LIVE
    parts = [
        Part("state", "job/state.html", account.state),
        Part("shown", "job/shown.html", account.shown),
        Part("time", "job/time.html", account.time),
        Part("attempts", "job/attempts.html", account.attempts),
        Part("evidence", "job/evidence.html", account.evidence),
        Part("callback", "job/callback.html", account.callback),
        Part("log", "job/log.html", account.log),
        Part("facts", "job/facts.html", account.facts),
        Part("raw", "job/raw.html", account.raw, live=live),
    ]
    hidden = request.query_params.get("hide", "")
    facts = {
        "job": row,
        "tenant": scope.names.get(row["tenant_id"], viewer.tenant),
        "hidden": {int(word) for word in hidden.split(",") if word.isascii() and word.isdecimal() and len(word) < 6},
        "boxes": request.query_params.get("boxes") == "1",
        "notice": NOTICES.get(request.query_params.get("said", "")),
    }
    title = f"{row['model']} {str(row['id'])[-8:]}"
    return await answered(request, Page("job.html", title, "jobs", scope, parts, facts, row["id"]))


class _Account:
    """What is told of a job, part by part."""

    def __init__(self, context: Context, links: FileLinks, viewer: Viewer, row: Row) -> None:
        self._context, self._links, self._viewer, self._row = context, links, viewer, row
        self._db, self._id = context.db, row["id"]

    async def state(self) -> Mapping[str, Any]:
        row, live = self._row, self._row["status"] in LIVE
        attempts = await reads.attempts_of(self._db, self._id)
        paused = {each["provider"]: each for each in await pauses(self._db)} if live else {}
        callback = None if live or not row["webhook_url"] else await callbacks.callback_of(self._db, self._id)
        facts = Facts(
            job=row,
            live=await reads.live_of(self._db, self._id) if live else None,
            attempt=attempts[-1] if attempts else None,
            pause=paused.get(row["provider"]),
            callback=callback,
            source=None if live else await reads.ended_by(self._db, self._id),
            shows_words=self._viewer.may_see_payloads,
            copies=0 if live else await reads.copies_owed(self._db, self._id),
            heard_late=not live and await reads.heard_late(self._db, self._id),
            gpu_workers=await self._gpu_workers() if row["status"] in {Status.SUBMITTED, Status.IN_PROGRESS} else None,
        )
        return {"row": row, "told": explained(facts), "actions": self._actions()}

    async def _gpu_workers(self) -> int | None:
        if self._row["provider"] != GPU:
            return None
        return next((each["workers"] for each in await workers(self._db) if each["model"] == self._row["model"]), 0)

    def _actions(self) -> list[str]:
        row, viewer = self._row, self._viewer
        if not viewer.may_act:
            return []
        if row["status"] in LIVE:
            return ["cancel", *(["force"] if viewer.is_admin else [])]
        found = []
        if row["status"] != "completed" and row["retried_as"] is None and row["input"]:
            found.append("retry")
        if row["webhook_url"] is not None and row["body"] is not None:
            found.append("redeliver")
        return [*found, "release" if row["held_since"] else "hold"]

    def _insist_payloads(self) -> None:
        if not self._viewer.may_see_payloads:
            raise NotKnown("This key does not show what is in a job: no picture, prompt, output or evidence.")

    async def shown(self) -> Mapping[str, Any]:
        self._insist_payloads()
        return {"shown": shown(self._row, self._links), "row": self._row}

    async def time(self) -> Mapping[str, Any]:
        row = self._row
        begun = row["status"] in LIVE and row["provider"] == GPU and row["started_at"] is not None
        live = await reads.live_of(self._db, self._id) if begun else None
        waits = live is not None and live["run"] is None
        return {"waterfall": waterfall(row, datetime.now(UTC), waits=waits), "row": row}

    async def attempts(self) -> Mapping[str, Any]:
        rows, given_up = await reads.attempts_of(self._db, self._id), dict[int, datetime]()
        if any(row["state"] == AttemptState.ABANDONED for row in rows):
            events = await reads.events_of(self._db, self._id)
            given_up = {row["attempt"]: row["at"] for row in events if row["event"] == AttemptState.ABANDONED}
        shown = [
            dict(row) | {"error": self._account_words(row), "given_up_at": given_up.get(row["number"])} for row in rows
        ]
        return {"attempts": shown, "currency": await self._currency()}

    async def _currency(self) -> str | None:
        row = await self._db.fetchrow("SELECT currency FROM prices LIMIT 1")
        return row["currency"] if row else None

    def _account_words(self, row: Row) -> str | None:
        """What a provider said of the account is for administrators, and of a job for those who may read it."""
        hidden = row["state"] == AttemptState.BLOCKED and not self._viewer.is_admin
        return None if hidden or not self._viewer.may_see_payloads else row["error"]

    async def evidence(self) -> Mapping[str, Any]:
        rows = await reads.evidence_of(self._db, self._id, 0, MOST_EVIDENCE + 1)
        return {"reports": rows[:MOST_EVIDENCE], "more": len(rows) > MOST_EVIDENCE, "job_id": self._id}

    async def callback(self) -> Mapping[str, Any]:
        row = self._row
        if row["webhook_url"] is None:
            return {"url": None, "callback": None, "tries": []}
        found = await callbacks.callback_of(self._db, self._id)
        tries = await callbacks.tries_of(self._db, self._id) if found else []
        body = bytes(found["body"]) if found and found["body"] and self._viewer.may_see_payloads else None
        text = laid_out(body[:LONGEST_TEXT].decode("utf-8", "replace")) if body else None
        return {"url": row["webhook_url"], "callback": found, "tries": tries, "body": text, "size": body and len(body)}

    async def log(self) -> Mapping[str, Any]:
        rows = await reads.events_of(self._db, self._id)
        lines = []
        for row in rows[-MOST_EVENTS:]:
            note = row["note"]
            if self._hides(row["event"]):
                note = None
            level = LEVELS.get(row["event"], "INFO")
            lines.append({"row": row, "words": words_of(row), "note": note, "level": level})
        return {"lines": lines, "more": len(rows) - len(lines)}

    def _hides(self, event: str) -> bool:
        return not self._viewer.may_see_payloads or (event == AttemptState.BLOCKED and not self._viewer.is_admin)

    async def facts(self) -> Mapping[str, Any]:
        usage = laid_out(self._row["usage"]) if self._row["usage"] and self._row["usage"] != "{}" else None
        shows = self._viewer.may_see_payloads and self._row["metadata"] != "{}"
        metadata = laid_out(self._row["metadata"]) if shows else None
        return {
            "row": self._row,
            "currency": await self._currency(),
            "usage": usage,
            "metadata": metadata,
        }

    async def raw(self) -> Mapping[str, Any]:
        self._insist_payloads()
        row = self._row
        given = input_text(row, self._links) if row["input"] else None
        body = bytes(row["body"]) if row["body"] is not None else None
        heading = "Output, as the model gave it"
        if body is not None and row["status"] != Status.COMPLETED:
            ours = await reads.ended_by(self._db, self._id) == OURS
            heading = "Error, in our own words" if ours else "Error, as the provider gave it"
        return {
            "heading": heading,
            "input": laid_out(given[:LONGEST_TEXT]) if given else None,
            "input_size": len(row["input"].encode()) if row["input"] else None,
            "body": laid_out(body[:LONGEST_TEXT].decode("utf-8", "replace")) if body is not None else None,
            "body_size": len(body) if body is not None else None,
            "longest": LONGEST_TEXT,
        }


async def show_picture(request: Request) -> Response:
    """The picture that the job was asked about, from the store; fetched and kept if it lies elsewhere yet."""
    viewer = await signed_in(request, in_use=False)
    row = await job_of(request, viewer)
    if not viewer.may_see_payloads:
        raise Forbidden("This key does not show what is in a job.")
    if not row["input"]:
        raise NotFound("The input of this job was removed, as its tenant wanted.")
    context: Context = request.state.context
    links: FileLinks = request.state.links
    job_id: UUID = row["id"]
    sha256 = await keeping.picture_of(context, links, job_id, row["input"])
    headers = {**HEADERS, "cache-control": "private, max-age=300"}
    return RedirectResponse(here(links.url(sha256, "picture")), 303, headers)
