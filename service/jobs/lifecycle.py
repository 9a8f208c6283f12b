"""What a job may become, stated once. Pure: imports nothing of ours.

`guards.py` makes the conditions of statements from `MOVES`; the CHECK constraints in `models.py`
repeat the essential part; `docs/job-states.md` is drawn from it. No other code writes a status.
"""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    QUEUED = "queued"
    SUBMITTED = "submitted"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """What is heard of a job, whoever says it: a client, a submit answer, a webhook, a poll."""

    REGISTERED = "registered"
    ACCEPTED = "accepted"
    STARTED = "started"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Move:
    sources: tuple[Status, ...]
    target: Status


LIVE = (Status.QUEUED, Status.SUBMITTED, Status.IN_PROGRESS)
WAITING = (Status.QUEUED, Status.SUBMITTED)
ENDED = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)

# An end may come in any live state: a fast provider's webhook can outrun its own submit answer.
MOVES: dict[Event, Move] = {
    Event.REGISTERED: Move((), Status.QUEUED),
    Event.ACCEPTED: Move((Status.QUEUED,), Status.SUBMITTED),
    Event.STARTED: Move((Status.QUEUED, Status.SUBMITTED), Status.IN_PROGRESS),
    Event.COMPLETED: Move(LIVE, Status.COMPLETED),
    Event.FAILED: Move(LIVE, Status.FAILED),
    Event.CANCELLED: Move(LIVE, Status.CANCELLED),
}

# fal knows three words; its COMPLETED covers every end.
FAL_STATUS: dict[Status, str] = {
    Status.QUEUED: "IN_QUEUE",
    Status.SUBMITTED: "IN_QUEUE",
    Status.IN_PROGRESS: "IN_PROGRESS",
    Status.COMPLETED: "COMPLETED",
    Status.FAILED: "COMPLETED",
    Status.CANCELLED: "COMPLETED",
}


class AttemptState(StrEnum):
    """One submission to one provider.

    `submitting` is written before the first byte goes out; `ambiguous` means that the answer was
    lost, so that nobody can know yet whether the provider took it; `blocked` that the provider takes
    nothing from this account, which says nothing of the job.
    """

    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    REFUSED = "refused"
    BLOCKED = "blocked"
    AMBIGUOUS = "ambiguous"
    ABANDONED = "abandoned"
    SUPERSEDED = "superseded"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


# A provider has, or may have, an attempt in one of these states.
OPEN_ATTEMPTS = (
    AttemptState.SUBMITTING,
    AttemptState.SUBMITTED,
    AttemptState.AMBIGUOUS,
    AttemptState.ABANDONED,
)


class Duty(StrEnum):
    """What is owed to a live job when its `due_at` comes."""

    SUBMIT = "submit"  # claim it and submit it
    ANSWER = "answer"  # a submission is under way; when due, its worker died
    REPORT = "report"  # the provider has it; when due, its webhook is late: ask
    SETTLE = "settle"  # the submit answer was lost; when due, submit again
    CLOSE = "close"  # no provider has it, and a cancel or its deadline came: end it


class Source(StrEnum):
    """How news of a job reached us."""

    SUBMIT = "submit"  # the answer to its own submission
    WEBHOOK = "webhook"
    STATUS = "status"
    RESULT = "result"
    CANCEL = "cancel"


class Verdict(StrEnum):
    """What was made of a piece of news."""

    APPLIED = "applied"  # it ended the job
    DUPLICATE = "duplicate"  # it says what ended the job before
    CONFLICT = "conflict"  # it says otherwise; kept, never applied
    LATE = "late"  # the job had ended by something else
    FOREIGN = "foreign"  # it is about another request
    UNKNOWN = "unknown"  # there is no such job
    UNREADABLE = "unreadable"
    INCOMPLETE = "incomplete"  # an end, but not which
    NOTED = "noted"  # how far the job is
    INCONCLUSIVE = "inconclusive"  # an answer that proves nothing


class OnDoubt(StrEnum):
    """What a tenant wants done with a job whose submission stayed in doubt."""

    RESUBMIT = "resubmit"  # it may be paid for twice
    FAIL = "fail"  # it may be paid for in vain
