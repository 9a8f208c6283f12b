"""Why a job is in its state and what happens next, in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from service.callbacks.lifecycle import CallbackState
from service.dashboard.figures import moment, number, seconds, until
from service.db import Row
from service.jobs.lifecycle import LIVE, AttemptState, Duty, Status
from service.jobs.routing import GPU

# A job that is due for so long has nobody who looks.
OVERDUE_SECONDS = 30.0

SOURCES = {
    "webhook": "the provider's webhook",
    "result": "the result, which was asked for",
    "status": "the provider's status, which was asked for",
    "submit": "the answer to its submission",
    "cancel": "the answer to its cancellation",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """`job` is the whole row, `live` what is owed to it; `attempt` is the last one. None: there is none."""

    job: Row
    live: Row | None
    attempt: Row | None
    pause: Row | None
    callback: Row | None
    source: str | None
    copies: int
    shows_words: bool
    # Of its model at work, where it goes to a GPU of one's own.
    gpu_workers: int | None = None
    # Something was heard of it after its end.
    heard_late: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    why: Sequence[str | Markup]
    next: Sequence[str | Markup]


def explained(facts: Facts) -> Explanation:
    if facts.job["status"] in LIVE:
        return Explanation(list(_why_live(facts)), list(_next_live(facts)))
    return Explanation(list(_why_ended(facts)), list(_next_ended(facts)))


def _words(text: str, **values: Any) -> Markup:
    return Markup(text).format(**values)  # noqa: S704  # The text is one of ours, the values are escaped.


def _resubmitted(job: Row) -> str:
    times = "once" if job["resubmissions"] == 1 else f"{job['resubmissions']} times"
    return f"It was submitted again {times} after an answer was lost, and may be paid for twice."


def _why_live(facts: Facts) -> Iterator[str | Markup]:
    job, live, attempt = facts.job, facts.live, facts.attempt
    if live is None:
        yield "It has just changed; the page will follow."
        return
    if job["cancel_requested_at"] is not None:
        yield _words("Its end was asked for at {at}.", at=moment(job["cancel_requested_at"], date=False))
    match live["duty"]:
        case Duty.SUBMIT if facts.pause is not None:
            since = moment(facts.pause["paused_at"])
            yield _words(
                "It waits here, as nothing is submitted to {name} since {since}.", name=job["provider"], since=since
            )
        case Duty.SUBMIT if attempt is not None and attempt["state"] in {AttemptState.REFUSED, AttemptState.BLOCKED}:
            status = f" (HTTP {attempt['http_status']})" if attempt["http_status"] else ""
            yield f"The provider did not take attempt {attempt['number']}{status}, so it waits here."
        case Duty.SUBMIT if attempt is not None:
            yield f"Attempt {attempt['number']} came to nothing, so it waits here to be submitted again."
        case Duty.SUBMIT:
            yield "It is durable, and waits here until a worker takes it."
        case Duty.ANSWER:
            yield f"A worker is submitting it to {job['provider']} right now."
        case Duty.SETTLE:
            yield (
                "The answer to its submission was lost. Whether the provider has it, nobody can know; if it has, its"
                " webhook will tell."
            )
        case Duty.CLOSE:
            yield "No provider has it, and it is about to be ended."
        case _ if job["provider"] == GPU and live["run"] is None:
            yield f"It waits for a GPU worker of {job['model']}{_before(facts)}."
        case _ if job["status"] == Status.IN_PROGRESS:
            yield f"{'A GPU worker' if job['provider'] == GPU else job['provider']} is working on it."
        case _:
            place = live["queue_position"]
            where = "" if place is None else f", with {place:,} before it" if place else ", as the next in its queue"
            yield f"{job['provider']} has accepted it and has it{where}."
    if job["resubmissions"]:
        yield _resubmitted(job)


def _before(facts: Facts) -> str:
    """How a job stands among those that wait for GPU workers."""
    ahead = facts.live["queue_position"] if facts.live else None
    if facts.gpu_workers == 0:
        return ", and none is at work"
    if ahead is None:
        return ""
    return f", with {number(ahead)} of that model before it" if ahead else ", as the next of that model"


def _next_live(facts: Facts) -> Iterator[str | Markup]:
    job, live = facts.job, facts.live
    if live is None:
        return
    due = float(live["due_in"])
    if due < -OVERDUE_SECONDS:
        yield (
            f"Somebody should have looked at it {seconds(-due)} ago. If this lasts, no worker consumes: the page System"
            " shows which of them do."
        )
    match live["duty"]:
        case Duty.SUBMIT if facts.pause is not None:
            if facts.pause["probe_at"] is None:
                yield _words(
                    "An operator paused the provider, and only an operator ends that:"
                    " <code>roundtrip providers resume {name}</code>.",
                    name=job["provider"],
                )
            else:
                yield "One job tries again every half minute. The first that gets through ends the pause for all."
        case Duty.SUBMIT:
            yield f"It is offered to the provider {until(due)}."
        case Duty.ANSWER:
            yield f"If there is no answer {until(due)}, its worker is taken for dead, and its webhook is waited for."
        case Duty.SETTLE:
            yield (
                f"If nothing is heard, it is submitted again {until(due)}, or fails, as its tenant wants jobs in doubt"
                " to be treated."
            )
        case Duty.CLOSE:
            yield "A worker ends it within seconds."
        case _ if job["provider"] == GPU and live["run"] is not None:
            yield "Its worker tells of its end. If nothing is heard of that worker, another one gets the job."
        case _ if job["provider"] == GPU and facts.gpu_workers != 0:
            spill, other = live["spill_seconds"], live["fallback"]
            elsewhere = f" If none has {seconds(spill)} after the offer, {other} gets it." if spill and other else ""
            yield f"The next GPU worker of its model that is free takes it.{elsewhere}"
        case _ if facts.gpu_workers == 0:
            elsewhere = (
                f" or {live['fallback']} takes it" if live["fallback"] else ", it is cancelled or its time is over"
            )
            yield f"It waits until a GPU worker of its model starts{elsewhere}."
        case _:
            yield f"Its webhook is awaited. If it does not come, the provider is asked {until(due)}."
    if live["start_by"] is not None:
        yield _words("It fails if it has not started by {at}.", at=moment(live["start_by"]))
    if job["deadline_at"] is not None:
        yield _words("It fails if it has not ended by {at}.", at=moment(job["deadline_at"]))


def _why_ended(facts: Facts) -> Iterator[str | Markup]:
    job = facts.job
    by = SOURCES.get(facts.source or "", "")
    told = f", as {by} says" if by else ""
    match job["status"]:
        case Status.COMPLETED:
            yield _words("It completed at {at}{told}.", at=moment(job["completed_at"]), told=told)
        case Status.CANCELLED:
            yield _words(
                "It was cancelled at {at}: {error}",
                at=moment(job["completed_at"]),
                error=job["error"] if facts.shows_words else "",
            )
        case _:
            what = job["error_type"] or "an error without a type"
            yield _words(
                "It failed at {at} with {what}, HTTP {status}{told}.",
                at=moment(job["completed_at"]),
                what=what,
                status=job["http_status"],
                told=told,
            )
    if job["resubmissions"]:
        yield _resubmitted(job)


def _next_ended(facts: Facts) -> Iterator[str | Markup]:
    job, callback = facts.job, facts.callback
    if facts.copies:
        files = "1 file is" if facts.copies == 1 else f"{facts.copies} files are"
        yield f"{files} still to be copied into the store; until then the provider's own links hold."
    if callback is not None:
        match callback["state"]:
            case CallbackState.PENDING if callback["leased"]:
                yield "Its client is being told right now."
            case CallbackState.PENDING:
                yield _words("Its client is told next at {at}.", at=moment(callback["due_at"]))
            case CallbackState.GIVEN_UP:
                yield "Its client could not be told, and that was given up: it can be redelivered."
            case CallbackState.GONE:
                yield "Its client's receiver said 410, that it wants no more of this."
            case _:
                yield "Its client has been told."
    if job["retried_as"] is not None:
        yield _words('It was retried as <a href="/dashboard/jobs/{id}">{id}</a>.', id=str(job["retried_as"]))
    elif job["status"] != Status.COMPLETED:
        if facts.heard_late:
            yield "Something was heard of it after its end, perhaps its result: see the evidence before you retry it."
        yield (
            "It can be retried once, as a new job."
            if job["input"]
            else "Its input was removed, so it cannot be retried."
        )
    if job["held_since"] is not None:
        yield "It is on hold: nothing of it is removed."
