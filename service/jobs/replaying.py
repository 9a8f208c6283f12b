"""A recorded report once more: what today's code makes of it and, if that is wanted, does with it."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx

from service.catalog import Catalog
from service.catalog.base import Lifted
from service.catalog.text import storable
from service.db import Database, Row
from service.jobs import endings, filing, operations
from service.jobs.facts import Ending, Evidence
from service.jobs.guards import TEXT_EXCERPT
from service.jobs.lifecycle import Source, Verdict
from service.jsontext import encode
from service.providers.base import Ended, Rejected
from service.providers.fal import (
    Incomplete,
    Unreadable,
    ending_of,
    read_envelope,
    read_result,
    read_submit_answer,
)


@dataclass(frozen=True, slots=True)
class Replay:
    """`ending` is None when the report ends nothing; `verdict` is today's, the report has its own."""

    report: Row
    ending: Ending | None
    lifted: Lifted
    verdict: Verdict
    differing: tuple[str, ...]
    """The names of the facts that today's code would keep otherwise, if this report ended its job."""


class NoSuchReport(LookupError):
    pass


class ReportRemoved(NoSuchReport):
    """Its bytes are no longer kept."""


async def replay(
    db: Database, catalog: Catalog, report_id: int, *, user_id: str | None = None, apply: bool = False
) -> Replay:
    """Raises NoSuchReport or ReportRemoved. What has ended stays as it is: only a live job can be ended by its report.

    Its signature was checked when it came; `user_id` is the account that alone counts now, if one is set.
    """
    report = await db.fetchrow(
        "SELECT reports.*, jobs.model FROM reports LEFT JOIN jobs ON jobs.id = reports.job_id WHERE reports.id = $1",
        report_id,
    )
    if report is None:
        raise NoSuchReport(report_id)
    if report["removed_size"] is not None:
        raise ReportRemoved(report_id)
    headers: dict[str, Any] = json.loads(report["headers"])
    from_fal = report["source"] == Source.WEBHOOK and "provider" not in headers
    strange = from_fal and user_id not in {None, headers.get("user_id")}
    said = Verdict.FOREIGN if strange else read(report, headers)
    if isinstance(said, Verdict):
        return Replay(report, None, Lifted(), said, ())
    request_id, lifted = headers.get("request_id"), operations.lift(catalog, report["model"] or "", said)
    place = report["job_id"], report["attempt"]
    verdict = await filing.judge(db, *place, request_id, said)
    if verdict is Verdict.APPLIED and apply:
        kept = encode({**headers, "replay_of": report_id}).decode()
        evidence = Evidence(Source(report["source"]), report["body"], kept, report["http_status"], request_id)
        row = await endings.settle(db, *place, said, evidence, evidence.source, lifted)
        verdict = Verdict.APPLIED if row else await filing.judge(db, *place, request_id, said)
    return Replay(report, said, lifted, verdict, await _differing(db, report, lifted, verdict))


def read(report: Row, headers: dict[str, Any]) -> Ending | Verdict:
    """The end that a report tells of, or why it tells of none."""
    match report["source"]:
        case Source.WEBHOOK:
            return _read_webhook(report["body"], headers)
        case Source.RESULT:
            seen = read_result(_response(report, headers), "", None)
            return seen.ending if isinstance(seen, Ended) else Verdict.INCONCLUSIVE
        case Source.SUBMIT:
            answer = read_submit_answer(_response(report, headers))
            return answer.ending if isinstance(answer, Rejected) else Verdict.INCONCLUSIVE
    return Verdict.NOTED


def _read_webhook(body: bytes, headers: dict[str, Any]) -> Ending | Verdict:
    try:
        envelope = read_envelope(body)
        if envelope.request_id != headers.get("request_id"):
            return Verdict.FOREIGN
        return ending_of(envelope)
    except Unreadable:
        return Verdict.UNREADABLE
    except Incomplete:
        return Verdict.INCOMPLETE


def _response(report: Row, headers: dict[str, Any]) -> httpx.Response:
    kept = {name: value for name, value in headers.items() if isinstance(value, str)}
    return httpx.Response(report["http_status"], headers=kept, content=report["body"])


async def _differing(db: Database, report: Row, lifted: Lifted, verdict: Verdict) -> tuple[str, ...]:
    if verdict is not Verdict.DUPLICATE:
        return ()
    outcome = await db.fetchrow(
        "SELECT * FROM outcomes JOIN results USING (job_id) WHERE job_id = $1", report["job_id"]
    )
    files = await db.fetch("SELECT kind, index, label FROM artifacts WHERE job_id = $1", report["job_id"])
    if outcome is None:
        return ()
    same = {
        "text": outcome["text"] == storable(lifted.text, TEXT_EXCERPT),
        "seed": outcome["seed"] == lifted.seed,
        "usage": json.loads(outcome["usage"]) == lifted.usage,
        "timings": json.loads(outcome["model_timings"]) == lifted.timings,
        "files": {tuple(file) for file in files}
        == {(file.kind, file.index, storable(file.label)) for file in lifted.files},
    }
    return tuple(name for name, equal in same.items() if not equal)


async def recorded(db: Database, job_id: UUID | None, verdict: str | None, limit: int) -> list[Row]:
    """The newest reports, without their bytes."""
    return await db.fetch(
        "SELECT id, job_id, attempt, source, received_at, verdict, coalesce(removed_size, length(body)) AS size"
        " FROM reports WHERE ($1::uuid IS NULL OR job_id = $1) AND ($2::text IS NULL OR verdict = $2)"
        " ORDER BY id DESC LIMIT $3",
        job_id,
        verdict,
        limit,
    )
