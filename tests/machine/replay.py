"""The history of a job told again: from its events alone to where it stands. Knows nothing of the service's code."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

# Which attempts a provider has, or may have, so that an end takes them along.
OPEN = {"submitting", "submitted", "ambiguous", "abandoned"}
ANSWERS = {"accepted": "submitted", "refused": "refused", "blocked": "blocked", "ambiguous": "ambiguous"}
ENDS = {"completed", "failed", "cancelled"}


class Told(Protocol):
    def __getitem__(self, name: str, /) -> object: ...


@dataclass
class History:
    """Where a job stands. A state is a set of words where its history leaves more than one open."""

    status: str = ""
    ended: bool = False
    cancel_requested: bool = False
    started: bool = False
    resubmissions: int = 0
    attempts: dict[int, frozenset[str]] = field(default_factory=dict)
    mentioned: int = 0
    unheard: frozenset[str] = frozenset()
    """What one more attempt may be that the history does not mention; empty: there can be none."""


def replay(events: Iterable[Told]) -> History:
    """Raises AssertionError where one event cannot follow the others."""
    history = History()
    for event in events:
        word, number = str(event["event"]), int(str(event["attempt"]))
        assert not history.ended, f"{word} after the end"
        assert word == "registered" or history.status, f"{word} before the job was registered"
        assert number >= history.mentioned or word in ENDS, f"{word} of the earlier attempt {number}"
        unheard = history.unheard
        if number > history.mentioned:
            assert number == history.mentioned + 1, f"{word} skips from attempt {history.mentioned} to {number}"
            assert history.unheard, f"{word} of a new attempt while the last was under way"
            history.attempts[number], history.mentioned, unheard = frozenset({"submitting"}), number, frozenset()
        _follow(history, word, number)
        assert event["status"] == history.status, f"{word} says {event['status']}, its history {history.status}"
        history.unheard = _unheard(history, unheard)
    assert history.status, "no event"
    return history


def _follow(history: History, word: str, number: int) -> None:
    state = history.attempts.get(number, frozenset())
    match word:
        case "registered":
            assert not history.status, "registered twice"
            history.status = "queued"
        case "accepted" | "refused" | "blocked" | "ambiguous":
            assert state & {"submitting", "ambiguous"}, f"{word} after {sorted(state)}"
            history.attempts[number] = frozenset({ANSWERS[word]})
            if word == "accepted" and history.status == "queued":
                history.status = "submitted"
        case "abandoned":
            assert state == {"ambiguous"}, f"{word} after {sorted(state)}"
            history.attempts[number] = frozenset({word})
            history.resubmissions += 1
        case "started":
            assert state == {"submitted"}, f"{word} after {sorted(state)}"
            assert not history.started, "started twice"
            history.status, history.started = "in_progress", True
        case "cancel_requested":
            history.cancel_requested = True
        case "completed" | "failed" | "cancelled":
            _end(history, word, number)
        case _:
            raise AssertionError(f"nobody knows what {word} means")


def _end(history: History, word: str, number: int) -> None:
    """By news of one attempt, or by ourselves; of the latter an event does not say whether an attempt was stopped."""
    history.status, history.ended = word, True
    for other, state in history.attempts.items():
        history.attempts[other] = frozenset("superseded" if each in OPEN else each for each in state)
    if number:
        by_ourselves = history.attempts[number] if word != "completed" else frozenset()
        history.attempts[number] = by_ourselves | {word}


def _unheard(history: History, before: frozenset[str]) -> frozenset[str]:
    """A claim is no event, so that the attempt it made is unheard of until something is said of it."""
    if history.ended:
        return frozenset({"superseded"}) if before else before
    last = history.attempts.get(history.mentioned, frozenset({"refused"}))
    return frozenset({"submitting"}) if last & {"refused", "blocked", "abandoned"} else frozenset()
