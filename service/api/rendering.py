"""Rows of the record as the replies that clients get."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from service.api.shapes import (
    Attempt,
    Callback,
    CallbackTry,
    Event,
    Image,
    Job,
    JobError,
    JobSummary,
    Links,
    LogLine,
    Mask,
    MaskLinks,
    Progress,
    Provider,
    Removed,
    Report,
    Timings,
)
from service.artifacts import inputs, results
from service.artifacts.links import FileLinks
from service.artifacts.results import Facts
from service.callbacks.lifecycle import CallbackState
from service.db import Row
from service.jobs import reads
from service.jobs.facts import NewJob
from service.jobs.lifecycle import AttemptState, Status
from service.jobs.phases import phases_of, submitted_at
from service.jsontext import NotJSON, Raw, encode, is_json, parse_loosely


class Renderer:
    """Knows the addresses that replies point at."""

    def __init__(self, public_url: str, links: FileLinks) -> None:
        self._public_url = public_url
        self._links = links

    async def job(self, row: Facts, *, payloads: bool = True) -> Job:
        """Without `payloads`, what is in a job is null: input, output, files, tags, metadata, words that quote them."""
        return await results.made_of(row, partial(self._job, row, payloads=payloads))

    def _job(self, row: Facts, *, payloads: bool) -> Job:
        shown = inputs.shown(row["input"] or "null", self._links).encode() if payloads else b"null"
        return Job(
            **self._summary(row, payloads=payloads),
            input=Raw(shown),  # type: ignore[arg-type]  # JSON text, spliced in as it is.
            output=self._output(row) if payloads else None,
            cost_of_others=None if row["cost_of_others"] is None else decimal(row["cost_of_others"]),
            held_since=row["held_since"],
            removed=_removed(row),
        )

    def new_job(self, job: NewJob, created_at: datetime, *, payloads: bool = True) -> Job:
        """A job as it stands right after its registration."""
        row: dict[str, Any] = dict.fromkeys(reads.COLUMNS)
        row |= {name: getattr(job, name) for name in NewJob.__dataclass_fields__ if name in row}
        deadline = None if job.deadline_seconds is None else created_at + timedelta(seconds=job.deadline_seconds)
        return self._job(
            row | {"status": Status.QUEUED, "created_at": created_at, "attempt": 0, "deadline_at": deadline},
            payloads=payloads,
        )

    def summary(self, row: Facts, *, payloads: bool = True) -> JobSummary:
        return JobSummary(**self._summary(row, payloads=payloads))

    async def result(self, row: Facts) -> bytes:
        """Raises Gone."""
        return await results.made_of(row, partial(results.body_of, row, self._links))

    def masks(self, row: Facts, *, payloads: bool = True) -> list[Mask]:
        return [
            Mask(
                label=file["label"] if payloads else None,
                area_fraction=file["area_fraction"] if payloads else None,
                bbox=file["bbox"] if payloads else None,
                links=self._mask_links(row["id"], file["index"]),
                **self._file(file, payloads=payloads),
            )
            for file in results.files_of(row)
            if file["kind"] == "mask"
        ]

    def images(self, row: Facts, *, payloads: bool = True) -> list[Image]:
        return [
            Image(**self._file(file, payloads=payloads)) for file in results.files_of(row) if file["kind"] == "image"
        ]

    def timings(self, row: Facts) -> Timings:
        return Timings(**phases_of(row), model=json.loads(row["model_timings"]) if row["model_timings"] else {})

    def links(self, job_id: UUID, *, callback: bool) -> Links:
        own = f"{self._public_url}/v1/jobs/{job_id}"
        parts: dict[str, Any] = {part: f"{own}/{part}" for part in Links.__struct_fields__}
        return Links(**{**parts, "self": own, "callback": parts["callback"] if callback else None})

    def _summary(self, row: Facts, *, payloads: bool) -> dict[str, Any]:
        return {
            "request_id": str(row["id"]),
            "model": row["model"],
            "status": row["status"],
            "provider": row["provider"],
            "provider_request_id": row["provider_request_id"],
            "provider_reason": row["reason"],
            "priority": row["priority"],
            "tags": row["tags"] if payloads else None,
            "metadata": Raw(row["metadata"].encode()) if payloads else None,
            "webhook_url": row["webhook_url"] if payloads or not row["webhook_url"] else origin_of(row["webhook_url"]),
            "attempt": row["attempt"],
            "resubmissions": row["resubmissions"] or 0,
            "retry_of": _text(row["retry_of"]),
            "retried_as": _text(row["retried_as"]),
            "created_at": row["created_at"],
            "submitted_at": submitted_at(row),
            "started_at": row["started_at"],
            "completed_at": row["completed_at"],
            "deadline_at": row["deadline_at"],
            "cancel_requested_at": row["cancel_requested_at"],
            "queue_position": row["queue_position"],
            "progress": msgspec.json.decode(row["progress"], type=Progress) if row["progress"] else None,
            "error": _error(row, payloads=payloads),
            "masks": self.masks(row, payloads=payloads),
            "images": self.images(row, payloads=payloads),
            "seed": None if row["seed"] is None else int(row["seed"]),
            "usage": Raw((row["usage"] or "{}").encode()),
            "billable_units": None if row["billable_units"] is None else float(row["billable_units"]),
            "cost": None if row["cost"] is None else decimal(row["cost"]),
            "timings": self.timings(row),
            "links": self.links(row["id"], callback=row["webhook_url"] is not None),
        }

    def _output(self, row: Facts) -> Any:
        if row["status"] != "completed" or row["body"] is None:
            return None
        body = results.body_of(row, self._links)
        if is_json(body):
            return Raw(body)
        try:
            # What strict JSON cannot hold (a lone surrogate, NaN) is replaced here; /result has it untouched.
            text = json.dumps(parse_loosely(body), ensure_ascii=False).encode("utf-8", "replace")
            return Raw(encode(json.loads(text, parse_constant=str)))
        except NotJSON:
            return Raw(encode(body.decode("utf-8", "replace")))

    def _mask_links(self, job_id: UUID, index: int) -> MaskLinks:
        png = f"{self._public_url}/v1/jobs/{job_id}/masks/{index}"
        made = {kind: f"{png}/{kind}" for kind in MaskLinks.__struct_fields__ if kind != "png"}
        return MaskLinks(png=png, **made)

    def _file(self, file: Mapping[str, Any], *, payloads: bool) -> dict[str, Any]:
        if not payloads:
            measures = ("index", "content_type", "width", "height", "file_size")
            return dict.fromkeys(_FILE_FIELDS) | {name: file[name] for name in measures}
        kept = ("index", "content_type", "file_name", "width", "height", "file_size", "sha256")
        expires, source, said = file["source_expires_at"], file["source_url"], file["copy_error"]
        shown = {
            "url": self._links.url_of(file),
            "copy_error": None if file["sha256"] else said,
            "remark": said if file["sha256"] else None,
            "source_url": None if source[:5].lower() == "data:" else source or None,
            "source_expires_at": expires and datetime.fromisoformat(expires),
        }
        if file["removed_at"] is not None:
            shown |= {"url": None, "sha256": file["removed_sha256"]}
        return {name: file[name] for name in kept} | shown


_FILE_FIELDS = tuple(Image.__struct_fields__)


def attempt(row: Row, *, words: bool, payloads: bool = True) -> Attempt:
    """`words`: what the provider said of the account, too."""
    cost = None if row["cost"] is None else decimal(row["cost"])
    shown = Attempt(**{name: row[name] for name in Attempt.__struct_fields__ if name != "cost"}, cost=cost)
    if (shown.state == AttemptState.BLOCKED and not words) or not payloads:
        shown.error = None
    return shown


def log_line(row: Row) -> LogLine:
    return LogLine(**{name: row[name] for name in LogLine.__struct_fields__})


def report(row: Row, own: str, *, payloads: bool = True) -> Report:
    """`own` is the address of the job's evidence."""
    kept = {name: row[name] for name in Report.__struct_fields__ if name not in {"headers", "url"}}
    return Report(**kept, headers=json.loads(row["headers"]) if payloads else {}, url=f"{own}/{row['id']}")


def callback(url: str, row: Row | None, tries: Sequence[Row]) -> Callback:
    """`row` is None while the job has not ended."""
    if row is None:
        return Callback(url, "waiting", None, None, None, None, [])
    pending = row["state"] == CallbackState.PENDING
    return Callback(
        url=url,
        state=row["state"],
        format=row["format"],
        next_try_at=row["due_at"] if pending and not row["leased"] else None,
        held_until=row["open_until"] if pending else None,
        ended_at=row["ended_at"],
        tries=[
            CallbackTry(number, each["at"], each["seconds"], each["http_status"], each["error"])
            for number, each in enumerate(tries, 1)
        ],
    )


def provider(name: str, pause: Row | None, *, words: bool) -> Provider:
    if pause is None:
        return Provider(name, "open", None, None, None, None)
    reason, status = (pause["reason"], pause["http_status"]) if words else (None, None)
    return Provider(name, "paused", reason, status, pause["paused_at"], pause["probe_at"])


def event(row: Row, *, words: bool, payloads: bool = True) -> Event:
    """`words`: what the provider said of the account, too."""
    shown = Event(**{name: row[name] for name in Event.__struct_fields__})
    if (shown.event == AttemptState.BLOCKED and not words) or not payloads:
        shown.note = None
    return shown


def decimal(value: Decimal) -> str:
    """All digits, never with an exponent."""
    return format(value, "f")


NOT_SHOWN = "The words of an error may quote what is in the job, which this key may not see."


def origin_of(url: str) -> str:
    """Where an address leads, without what may be secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _error(row: Facts, *, payloads: bool) -> JobError | None:
    if row["error"] is None:
        return None
    return JobError(message=row["error"] if payloads else NOT_SHOWN, type=row["error_type"], status=row["http_status"])


def _removed(row: Facts) -> dict[str, Removed]:
    parts = json.loads(row["removed"]) if row["removed"] else {}
    return {part: msgspec.convert(each, Removed) for part, each in parts.items()}


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
