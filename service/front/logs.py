"""What happened to a job as fal's log lines."""

from collections.abc import Iterable
from typing import Any

from service.db import Row
from service.jobs.lifecycle import AttemptState, Event

WORDS: dict[str, str] = {
    Event.REGISTERED: "The request is queued.",
    Event.ACCEPTED: "The provider has the request.",
    Event.STARTED: "The provider is working on the request.",
    Event.COMPLETED: "The request is completed.",
    Event.FAILED: "The request failed.",
    Event.CANCELLED: "The request was cancelled.",
    AttemptState.SUBMITTING: "The request is offered to the provider.",
    AttemptState.REFUSED: "The provider did not take the request; it is offered again.",
    AttemptState.BLOCKED: "The provider takes nothing for now; the request waits.",
    AttemptState.AMBIGUOUS: "The provider's answer was lost; it is waited for.",
    AttemptState.ABANDONED: "The provider's answer did not come; the request is submitted again.",
}
LEVELS: dict[str, str] = {
    Event.FAILED: "ERROR",
    AttemptState.REFUSED: "WARN",
    AttemptState.BLOCKED: "WARN",
    AttemptState.AMBIGUOUS: "WARN",
    AttemptState.ABANDONED: "WARN",
}
# What the note of these says, the words above say better.
WITHOUT_NOTE = {Event.COMPLETED, Event.CANCELLED, Event.REGISTERED, Event.ACCEPTED, Event.STARTED}


def log_lines(events: Iterable[Row]) -> list[dict[str, Any]]:
    return [log_line(event) for event in events]


def log_line(event: Row) -> dict[str, Any]:
    name = event["event"]
    words = WORDS.get(name, f"{name.replace('_', ' ').capitalize()}.")
    note = event["note"] if name not in WITHOUT_NOTE else None
    return {
        "message": f"{words} {note}" if note else words,
        "level": LEVELS.get(name, "INFO"),
        "source": "USER",
        "timestamp": event["at"].isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "labels": {},
    }
