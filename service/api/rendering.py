"""Rows of the record as the replies that clients get."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

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
    Mask,
    Provider,
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
from service.jobs.lifecycle import Status
from service.jsontext import NotJSON, Raw, is_json, parse_loosely


class Renderer:
    """Knows the addresses that replies point at."""

    def __init__(self, public_url: str, links: FileLinks) -> None:
        self._public_url = public_url
        self._links = links

    def job(self, row: Facts) -> Job:
        return Job(
            **self._summary(row),
            input=Raw(inputs.shown(row["input"], self._links).encode()),  # type: ignore[arg-type]  # Spliced in.
            output=self._output(row),
        )

    def new_job(self, job: NewJob, created_at: datetime) -> Job:
        """A job as it stands right after its registration."""
        row: dict[str, Any] = dict.fromkeys(reads.COLUMNS)
        row |= {name: getattr(job, name) for name in NewJob.__dataclass_fields__ if name in row}
        deadline = None if job.deadline_seconds is None else created_at + timedelta(seconds=job.deadline_seconds)
        return self.job(
            row | {"status": Status.QUEUED, "created_at": created_at, "attempt": 0, "deadline_at": deadline}
        )

    def summary(self, row: Facts) -> JobSummary:
        return JobSummary(**self._summary(row))

    def result(self, row: Facts) -> bytes:
        return results.body_of(row, self._links)

    def masks(self, row: Facts) -> list[Mask]:
        return [
            Mask(
                label=file["label"],
                area_fraction=file["area_fraction"],
                bbox=file["bbox"],
                **self._file(file),
            )
            for file in results.files_of(row)
            if file["kind"] == "mask"
        ]

    def images(self, row: Facts) -> list[Image]:
        return [Image(**self._file(file)) for file in results.files_of(row) if file["kind"] == "image"]

    def timings(self, row: Facts) -> Timings:
        created, ended, answered, received = (
            row[name] for name in ("created_at", "completed_at", "answered_at", "received_at")
        )
        if answered and received:
            # A webhook may outrun the answer to its submission, and then the submission ends with it.
            answered = min(answered, received)
        return Timings(
            queued_seconds=_between(created, row["claimed_at"]),
            submit_seconds=_between(row["claimed_at"], answered),
            provider_seconds=_between(answered, received),
            webhook_seconds=_between(received, ended),
            total_seconds=_between(created, ended),
            model=json.loads(row["model_timings"]) if row["model_timings"] else {},
        )

    def links(self, job_id: UUID, *, callback: bool) -> Links:
        own = f"{self._public_url}/v1/jobs/{job_id}"
        parts: dict[str, Any] = {part: f"{own}/{part}" for part in Links.__struct_fields__}
        return Links(**{**parts, "self": own, "callback": parts["callback"] if callback else None})

    def _summary(self, row: Facts) -> dict[str, Any]:
        return {
            "request_id": str(row["id"]),
            "model": row["model"],
            "status": row["status"],
            "provider": row["provider"],
            "provider_request_id": row["provider_request_id"],
            "priority": row["priority"],
            "tags": row["tags"],
            "metadata": Raw(row["metadata"].encode()),
            "webhook_url": row["webhook_url"],
            "attempt": row["attempt"],
            "resubmissions": row["resubmissions"] or 0,
            "retry_of": _text(row["retry_of"]),
            "retried_as": _text(row["retried_as"]),
            "created_at": row["created_at"],
            "submitted_at": _submitted_at(row),
            "started_at": row["started_at"],
            "completed_at": row["completed_at"],
            "deadline_at": row["deadline_at"],
            "cancel_requested_at": row["cancel_requested_at"],
            "queue_position": row["queue_position"],
            "error": _error(row),
            "masks": self.masks(row),
            "images": self.images(row),
            "seed": None if row["seed"] is None else int(row["seed"]),
            "usage": Raw((row["usage"] or "{}").encode()),
            "timings": self.timings(row),
            "links": self.links(row["id"], callback=row["webhook_url"] is not None),
        }

    def _output(self, row: Facts) -> Any:
        if row["status"] != "completed":
            return None
        body = self.result(row)
        if is_json(body):
            return Raw(body)
        try:
            # What strict JSON cannot hold (a lone surrogate, NaN) is replaced here; /result has it untouched.
            text = json.dumps(parse_loosely(body), ensure_ascii=False).encode("utf-8", "replace")
            return json.loads(text, parse_constant=str)
        except NotJSON:
            return body.decode("utf-8", "replace")

    def _file(self, file: Mapping[str, Any]) -> dict[str, Any]:
        kept = ("index", "content_type", "file_name", "width", "height", "file_size", "sha256")
        return {name: file[name] for name in kept} | {"url": self._links.url_of(file)}


def attempt(row: Row) -> Attempt:
    return Attempt(**{name: row[name] for name in Attempt.__struct_fields__})


def report(row: Row, own: str) -> Report:
    """`own` is the address of the job's evidence."""
    kept = {name: row[name] for name in Report.__struct_fields__ if name not in {"headers", "url"}}
    return Report(**kept, headers=json.loads(row["headers"]), url=f"{own}/{row['id']}")


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


def event(row: Row) -> Event:
    return Event(**{name: row[name] for name in Event.__struct_fields__})


def _submitted_at(row: Facts) -> datetime | None:
    """When the provider had the job. An answer that came after the end says only that it had it before."""
    if row["provider_request_id"] is None:
        return None
    claimed, answered, ended = row["claimed_at"], row["answered_at"], row["completed_at"]
    late = answered is None or (ended is not None and answered > ended)
    return claimed if late else answered  # type: ignore[no-any-return]


def _error(row: Facts) -> JobError | None:
    if row["error"] is None:
        return None
    return JobError(message=row["error"], type=row["error_type"], status=row["http_status"])


def _between(start: datetime | None, end: datetime | None) -> float | None:
    """Seconds, never below zero."""
    if start is None or end is None:
        return None
    return max(0.0, (end - start).total_seconds())


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
