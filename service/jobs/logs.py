"""What happened to a job as fal's log lines."""

from collections.abc import Container, Iterable
from datetime import datetime
from typing import Any

from service.db import Row
from service.jobs.lifecycle import AttemptState, Event
from service.jobs.routing import GPU
from service.keys import Caller

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
    "rerouted": "The request goes to another provider.",
}
# Of an attempt that goes to GPU workers of one's own.
OF_GPU: dict[str, str] = {
    Event.ACCEPTED: "The request waits for a GPU worker.",
    Event.STARTED: "A GPU worker is working on the request.",
    AttemptState.SUBMITTING: "The request is offered to GPU workers.",
}
LEVELS: dict[str, str] = {
    Event.FAILED: "ERROR",
    AttemptState.REFUSED: "WARN",
    AttemptState.BLOCKED: "WARN",
    AttemptState.AMBIGUOUS: "WARN",
    AttemptState.ABANDONED: "WARN",
}
# What the note of these says, the words above say better.
WITHOUT_NOTE: set[str] = {Event.COMPLETED, Event.CANCELLED, Event.REGISTERED, Event.ACCEPTED, Event.STARTED}


def log_lines(events: Iterable[Row], said: Iterable[Row], caller: Caller) -> list[dict[str, Any]]:
    """What happened and what GPU workers `said`, by the time.

    What the provider said of the account is for administrators.
    """
    without = WITHOUT_NOTE if caller.may("admin") else WITHOUT_NOTE | {AttemptState.BLOCKED}
    lines = [(event["at"], 0, log_line(event, without)) for event in events]
    lines += [(line["at"], 1, _line(line["line"], "INFO", line["at"])) for line in said]
    return [line for _, _, line in sorted(lines, key=lambda each: each[:2])]


def words_of(event: Row) -> str:
    """What an event means, in a sentence."""
    name = event["event"]
    words = OF_GPU.get(name) if event["provider"] == GPU else None
    return words or WORDS.get(name) or f"{name.replace('_', ' ').capitalize()}."


def log_line(event: Row, without_note: Container[str]) -> dict[str, Any]:
    name, words = event["event"], words_of(event)
    note = event["note"] if name not in without_note else None
    return _line(f"{words} {note}" if note else words, LEVELS.get(name, "INFO"), event["at"])


def _line(message: str, level: str, at: datetime) -> dict[str, Any]:
    return {
        "message": message,
        "level": level,
        "source": "USER",
        "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "labels": {},
    }
