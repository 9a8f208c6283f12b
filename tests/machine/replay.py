"""The history of a job told again: from its events alone to where it stands. Knows nothing of the service's code."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

# Which attempts a provider has, or may have, so that an end takes them along.
OPEN = {"submitting", "submitted", "ambiguous", "abandoned"}
ANSWERS = {"accepted": "submitted", "refused": "refused", "blocked": "blocked", "ambiguous": "ambiguous"}
OVER = {"refused", "blocked", "abandoned"}
ENDS = {"completed", "failed", "cancelled"}


class Told(Protocol):
    def __getitem__(self, name: str, /) -> object: ...


@dataclass
class History:
    """Where a job stands, and the state of each of its attempts by its number."""

    status: str = ""
    ended: bool = False
    cancel_requested: bool = False
    started: bool = False
    resubmissions: int = 0
    attempts: dict[int, str] = field(default_factory=dict)


def replay(events: Iterable[Told]) -> History:
    """Raises AssertionError where one event cannot follow the others."""
    history = History()
    for event in events:
        word, number = str(event["event"]), int(str(event["attempt"]))
        assert not history.ended, f"{word} after the end"
        assert word == "registered" or history.status, f"{word} before the job was registered"
        last = len(history.attempts)
        assert number == last + (word == "submitting") or word in ENDS, f"{word} of attempt {number} after {last}"
        _follow(history, word, number)
        assert event["status"] == history.status, f"{word} says {event['status']}, its history {history.status}"
    assert history.status, "no event"
    return history


def _follow(history: History, word: str, number: int) -> None:
    state = history.attempts.get(number)
    match word:
        case "registered":
            assert not history.status, "registered twice"
            history.status = "queued"
        case "submitting":
            before = history.attempts.get(number - 1, "refused")
            assert before in OVER, f"a new attempt after {before}"
            history.attempts[number] = word
            history.resubmissions += before == "abandoned"
        case "accepted" | "refused" | "blocked" | "ambiguous":
            given_up = word == "accepted" and state == "abandoned"
            assert given_up or state in {"submitting", "ambiguous"}, f"{word} after {state}"
            history.attempts[number] = ANSWERS[word]
            if word == "accepted" and history.status == "queued":
                history.status = "submitted"
        case "abandoned":
            assert state == "ambiguous", f"{word} after {state}"
            history.attempts[number] = word
        case "started":
            assert state == "submitted", f"{word} after {state}"
            assert not history.started, "started twice"
            history.status, history.started = "in_progress", True
        case "cancel_requested":
            history.cancel_requested = True
        case "deadline_set":
            pass
        case "completed" | "failed" | "cancelled":
            _end(history, word, number)
        case _:
            raise AssertionError(f"nobody knows what {word} means")


def _end(history: History, word: str, number: int) -> None:
    """By news of one attempt, or by ourselves: attempt 0."""
    history.status, history.ended = word, True
    for other, state in history.attempts.items():
        if state in OPEN:
            history.attempts[other] = "superseded"
    if number:
        history.attempts[number] = word
