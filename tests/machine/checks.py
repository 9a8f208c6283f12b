"""What holds of a job after every step, and between any two looks at it. Pure: rows in, AssertionError out."""

from service.db import Row
from service.jobs.lifecycle import ENDED, LIVE, MOVES
from tests.machine.account import Account
from tests.machine.replay import replay
from tests.machine.rows import Seen

GIVEN_UP = ("refused", "blocked", "abandoned")
OF_DUTY = {
    "submit": GIVEN_UP,
    "answer": ("submitting",),
    "settle": ("ambiguous",),
    "report": ("submitted",),
    "close": GIVEN_UP,
}
DUTIES_AFTER: dict[str, set[str]] = {
    "submit": {"answer", "close", "report"},
    "answer": {"report", "settle", "submit", "close"},
    "settle": {"report", "submit", "close"},
    "report": set(),
    # What was given up is accepted after all.
    "close": {"report"},
}
STATES_AFTER: dict[str, set[str]] = {
    "submitting": {"submitted", "refused", "blocked", "ambiguous", "superseded", *ENDED},
    "ambiguous": {"submitted", "refused", "blocked", "abandoned", "superseded", *ENDED},
    "submitted": {"superseded", *ENDED},
    "abandoned": {"submitted", "superseded", *ENDED},
    "refused": set(ENDED),
    "blocked": set(ENDED),
}
STATUSES_AFTER: dict[str, set[str]] = {
    source.value: {move.target.value for move in MOVES.values() if source in move.sources} for source in (*LIVE, *ENDED)
}
OWN_ENDS = {
    "client_cancelled",
    "cancelled_in_doubt",
    "force_cancelled",
    "deadline_exceeded",
    "submission_refused",
    "submission_unknown",
    "provider_lost_request",
}
# No wait that the service sets by itself is longer, and no `Retry-After` is heeded beyond it.
LONGEST_WAIT = 3_700.0
# The time of a job is moved in the tests, and is the only thing of a request that is.
MOVED = {"created_at", "deadline_at"}


def reaches(graph: dict[str, set[str]], source: str, target: str) -> bool:
    """Whether one word may have become the other, in any number of steps."""
    seen, left = {source}, [source]
    while left:
        for word in graph.get(left.pop(), set()) - seen:
            seen.add(word)
            left.append(word)
    return target in seen


def check(account: Account, before: Seen | None, after: Seen) -> None:
    has_one_place(after)
    fits_together(after)
    is_told_by_its_history(after)
    agrees_with_what_was_said(account, after)
    if before is None:
        assert after.status == "queued" or after.outcome, f"it began as {after.status}"
        return
    went_forward(before, after)
    lost_nothing(before, after)
    if before.outcome is not None:
        stayed_as_it_ended(before, after)
    elif after.outcome is not None:
        ended_for_a_reason(account, before, after)


def has_one_place(seen: Seen) -> None:
    """Live or ended, never both and never neither; with its input."""
    assert seen.job["input"] is not None, "its input is gone"
    assert (seen.live is None) != (seen.outcome is None), "it has not exactly one of a live row and an outcome"
    if seen.outcome is not None:
        assert seen.outcome["status"] in ENDED, "its outcome is no end"


def fits_together(seen: Seen) -> None:
    assert [row["number"] for row in seen.attempts] == list(range(1, len(seen.attempts) + 1)), "attempts are missing"
    if seen.live is not None:
        _fits_while_live(seen, seen.live)
    elif seen.outcome is not None:
        _fits_at_the_end(seen, seen.outcome)
    for row in seen.attempts:
        counted, name = row["resubmitted_at"] is not None, row["number"]
        repeated = row["state"] == "abandoned" and name < len(seen.attempts)
        assert counted or not repeated, f"attempt {name} was given up and not counted"
    ids = [row["provider_request_id"] for row in seen.attempts if row["provider_request_id"]]
    assert len(ids) == len(set(ids)), "two attempts have one request ID"


def _fits_while_live(seen: Seen, live: Row) -> None:
    assert live["attempt"] == len(seen.attempts), "the attempt under way is not the last one"
    assert seen.now is not None or live["duty"] in {"submit", "close"}, f"{live['duty']} is owed to no attempt"
    if seen.now is not None:
        assert seen.now["state"] in OF_DUTY[live["duty"]], f"{live['duty']} is owed to what is {seen.now['state']}"
    for row in seen.attempts:
        assert row["number"] == live["attempt"] or row["state"] in GIVEN_UP, "an earlier attempt is still under way"
        assert row["ended_at"] is None, "an attempt has ended and its job has not"
        named = row["provider_request_id"] is not None
        assert named or row["state"] != "submitted", "an attempt was submitted and has no request ID"
    assert (live["duty"] == "report") == (live["status"] != "queued"), f"{live['status']}, but {live['duty']} is owed"
    assert (live["started_at"] is None) == (live["status"] != "in_progress"), "its start and its status differ"
    # Somebody comes, and in time.
    assert live["due_in"] < LONGEST_WAIT, f"nobody looks at it for {live['due_in']} s"
    if live["deadline_at"] is not None and live["duty"] in {"report", "settle"}:
        assert live["due_at"] <= live["deadline_at"] or live["due_in"] < 60, "nobody looks at it at its deadline"
    if live["cancel_requested_at"] is not None:
        assert live["duty"] != "submit", "a cancel was asked for, and it waits to be submitted"


def _fits_at_the_end(seen: Seen, outcome: Row) -> None:
    for row in seen.attempts:
        state, own = row["state"], row["number"] == outcome["attempt"]
        assert state in {"superseded", *GIVEN_UP[:2]} or (state == outcome["status"] and own), f"it left one {state}"
        to_stop = state == "superseded" and row["provider_request_id"] is not None
        assert row["ended_at"] is not None or to_stop or state in GIVEN_UP[:2], "an attempt can never end"
    if outcome["source"] != "roundtrip":
        assert seen.attempts[outcome["attempt"] - 1]["state"] == outcome["status"], "its end is not its attempt's"


def is_told_by_its_history(seen: Seen) -> None:
    history = replay(seen.events)
    assert history.status == seen.status, f"its history ends at {history.status}, it is {seen.status}"
    row = seen.live or seen.outcome
    assert row is not None
    asked = row["cancel_requested_at"] is not None
    assert history.cancel_requested == asked, "its history differs about a cancel"
    assert history.started == (row["started_at"] is not None), "its history differs about its start"
    counted = sum(each["resubmitted_at"] is not None for each in seen.attempts)
    assert history.resubmissions == counted, f"{history.resubmissions} were given up, {counted} are counted"
    states = {each["number"]: each["state"] for each in seen.attempts}
    assert history.attempts == states, f"its history says {history.attempts}, and they are {states}"
    times = [event["at"] for event in seen.events]
    assert times == sorted(times), "its history is not in the order of time"


def agrees_with_what_was_said(account: Account, seen: Seen) -> None:
    words = [event["event"] for event in seen.events]
    cancels = words.count("cancel_requested")
    told = account.cancels <= cancels <= account.cancels + account.forced
    assert told, f"{account.cancels} cancels were answered with yes, {cancels} are kept"
    assert account.applied <= 1, f"{account.applied} were told that they ended it"
    assert not account.applied or seen.outcome, "somebody was told that he ended it, and it goes on"
    numbers = {row["number"] for row in seen.attempts}
    assert set(account.asked) <= numbers, "the provider was asked without an attempt"
    assert max(account.asked.values(), default=1) == 1, "the provider was asked twice with one attempt"
    kept = sum(row["source"] == "webhook" for row in seen.reports)
    assert kept == account.webhooks, f"{account.webhooks} webhooks were taken, {kept} are kept"
    applied = [row for row in seen.reports if row["verdict"] == "applied"]
    settled = seen.outcome is not None and seen.outcome["source"] != "roundtrip"
    assert len(applied) == settled, f"{len(applied)} reports are said to have ended it"
    if seen.outcome is not None and settled:
        assert applied[0]["attempt"] == seen.outcome["attempt"], "its evidence is of another attempt"


def went_forward(before: Seen, after: Seen) -> None:
    assert reaches(STATUSES_AFTER, before.status, after.status), f"from {before.status} to {after.status}"
    for old, new in zip(before.attempts, after.attempts, strict=False):
        assert reaches(STATES_AFTER, old["state"], new["state"]), f"an attempt from {old['state']} to {new['state']}"
        for name in ("provider_request_id", "resubmitted_at"):
            assert old[name] in {None, new[name]}, f"{name} of an attempt was {old[name]}, is {new[name]}"
    if before.live is None or after.live is None:
        return
    more = after.live["attempt"] - before.live["attempt"]
    assert more >= 0, "an attempt was taken back"
    if not more:
        old_duty, duty = before.live["duty"], after.live["duty"]
        assert reaches(DUTIES_AFTER, old_duty, duty), f"{old_duty} was owed, and then {duty}"
    assert not more or before.live["cancel_requested_at"] is None, "it was submitted after a cancel"


def lost_nothing(before: Seen, after: Seen) -> None:
    for name in ("events", "reports"):
        old = [_words_of(row) for row in getattr(before, name)]
        kept = [_words_of(row) for row in getattr(after, name)[: len(old)]]
        assert kept == old, f"{name} that were there have changed"
    assert len(after.attempts) >= len(before.attempts), "an attempt has gone"
    for name in set(before.job.keys()) - MOVED:
        assert after.job[name] == before.job[name], f"its request changed: {name}"
    for name in ("cancel_requested_at", "started_at"):
        old, new = before.live or before.outcome, after.live or after.outcome
        assert old is not None
        assert new is not None
        assert old[name] in {None, new[name]}, f"{name} changed"


def stayed_as_it_ended(before: Seen, after: Seen) -> None:
    assert after.outcome == before.outcome, "its outcome changed"
    assert after.files == before.files, "its files changed"
    assert len(after.attempts) == len(before.attempts), "it was submitted after its end"
    assert len(after.events) == len(before.events), "something happened to it after its end"
    for old, new in zip(before.attempts, after.attempts, strict=True):
        assert new["state"] == old["state"], f"an attempt was {old['state']} at its end and is {new['state']}"


def _words_of(row: Row) -> dict[str, object]:
    """All but how often it was heard."""
    return {name: value for name, value in row.items() if name not in {"times", "last_received_at"}}


def ended_for_a_reason(account: Account, before: Seen, after: Seen) -> None:
    outcome = after.outcome
    assert outcome is not None
    if outcome["source"] != "roundtrip":
        end = (outcome["attempt"], outcome["status"], outcome["http_status"], outcome["body"])
        assert end in account.said, f"nobody said {end}"
        return
    why = outcome["error_type"]
    assert why in OWN_ENDS, f"nobody knows why: {why}"
    deadline = outcome["completed_at"] if account.aged else after.job["deadline_at"]
    last = _last_before_the_end(after)
    match why:
        case "client_cancelled":
            assert outcome["cancel_requested_at"] is not None, "it was cancelled, and nobody asked for it"
            assert last != "submitting", "it was cancelled while its submission was on its way"
            proven = last != "submitted" or (after.now is not None and after.now["state"] == "cancelled")
            assert proven or account.lost, "it was cancelled while the provider had it"
        case "cancelled_in_doubt":
            assert outcome["cancel_requested_at"] is not None, "it was cancelled, and nobody asked for it"
            assert last == "ambiguous", f"it was cancelled as in doubt while its last attempt was {last}"
        case "force_cancelled":
            assert account.forced, "nobody forced its end"
        case "deadline_exceeded":
            assert deadline is not None, "it had no deadline"
            assert deadline <= outcome["completed_at"], "it ended before its deadline"
            assert last != "submitting", "its deadline ended it while its submission was on its way"
        case "submission_refused":
            assert account.refused, "nobody refused it"
            assert last == "refused", f"it was given up as refused while its last attempt was {last}"
        case "submission_unknown":
            assert last == "ambiguous", f"it was given up as unanswered while its last attempt was {last}"
            again = any(row["resubmitted_at"] is not None for row in after.attempts)
            assert again or account.fails_in_doubt, "it was given up without another try"
        case "provider_lost_request":
            assert account.lost, "the provider never said that it does not know it"
            assert last == "submitted", f"it was given up as lost while its last attempt was {last}"


def _last_before_the_end(seen: Seen) -> str:
    """What its last attempt was, as its history tells it; empty: there was none."""
    return replay(seen.events[:-1]).attempts.get(len(seen.attempts), "")


def is_over(account: Account, seen: Seen) -> None:
    """When all has been done that is owed: nothing is open, and of nothing that lost the provider was not told."""
    assert seen.status in ENDED, "it never ends"
    for row in seen.attempts:
        assert row["ended_at"] is not None or row["state"] in GIVEN_UP, f"an attempt stays {row['state']} for ever"
        if row["state"] == "superseded" and row["provider_request_id"] is not None:
            assert row["number"] in account.stopped, "the provider goes on with an attempt that lost"
