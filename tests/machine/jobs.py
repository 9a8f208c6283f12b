"""The machine: every order in which clients, workers, watchers, webhooks and time can come upon several jobs."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.jobs import due, pauses, watching
from tests.machine.account import Account
from tests.machine.checks import check, is_over
from tests.machine.deeds import MAKE, MOST_JOBS, Deeds
from tests.machine.rows import Seen, see_all
from tests.machine.world import (
    CANCEL_ANSWERS,
    ENDS,
    SIGHTS,
    STOP,
    SUBMIT_ANSWERS,
    Script,
    Work,
    name_of,
    said_of,
)

Item = TypeVar("Item")


WORKERS = 3
# How a job goes on alone: what is said to its submission, or what comes in between.
STEPS = ("accepted", "accepted", "lost", "lost", "refused", "cancel", "stranger")
PASTS: tuple[tuple[str, ...], ...] = (
    (),
    ("claimed",),
    ("claimed", "accepted"),
    ("claimed", "accepted", "accepted"),
    ("claimed", "refused"),
    ("claimed", "blocked"),
    ("claimed", "lost"),
    ("claimed", "lost", "given up"),
    ("claimed", "lost", "given up", "claimed"),
    ("claimed", "refused", "claimed", "accepted"),
    ("claimed", "lost", "given up", "claimed", "lost", "given up"),
)
DEADLINES = (None, None, 500.0, 9_000.0)
# A worker's lease, a doubt, a lost request, and all of a deadline and of the time in which a refused job is offered.
TIMES = (0.0, 25.0, 25.0, 70.0, 70.0, 700.0, 4_000.0)
# Often what is meant for one job, seldom what stops or ends everything.
ASKED = (
    "cancel",
    "half a cancel",
    "retry",
    "retry",
    "retry",
    "replay",
    "replay",
    "replay",
    "resume",
    "resume",
    "pause",
    "force",
    "end of the oldest",
)

which = st.integers(0, 11)
times = st.sampled_from(TIMES)
rarely = st.sampled_from((False, False, False, True))
scripts = st.builds(
    Script,
    st.lists(st.sampled_from(SUBMIT_ANSWERS), min_size=1, max_size=2),
    st.sampled_from(SIGHTS),
    st.sampled_from(tuple(CANCEL_ANSWERS)),
)


def pick(items: Sequence[Item], which: int) -> Item | None:
    return items[which % len(items)] if items else None


class JobMachine(Deeds, RuleBasedStateMachine):
    """Draws never depend on rows: two statements that race may end either way, and both have to be right."""

    def one(self, which: int) -> Account:
        """More often one that has not ended."""
        live = [account for account in self.jobs if self.seen[account.id].live is not None]
        account = pick(live if which < 9 and live else self.jobs, which)
        assert account is not None
        return account

    # One after the other.

    @initialize(deadline=st.sampled_from(DEADLINES), pasts=st.lists(st.sampled_from(PASTS), min_size=1, max_size=3))
    def begin(self, deadline: float | None, pasts: list[tuple[str, ...]]) -> None:
        """Each has a past, so that what comes finds jobs that have come far; the third is of another tenant."""
        for past, tenant in zip(pasts, (self.tenant, self.tenant, self.doubtful), strict=False):
            self.run(self.register(self.context, deadline if tenant == self.tenant else None, tenant=tenant))
            self.check()
            for word in past:
                self.run(self.next_step(self.jobs[-1], word))
                self.check()

    @rule(
        deadline=st.sampled_from(DEADLINES),
        key=st.sampled_from((None, "one", "two")),
        prompt=st.sampled_from("ab"),
        twice=st.booleans(),
        more=rarely,
    )
    def a_client_asks(self, deadline: float | None, key: str | None, prompt: str, twice: bool, more: bool) -> None:
        if key not in self.keys and not (more and len(self.accounts) < MOST_JOBS):
            return
        same = [self.register(self.context, deadline, key, prompt) for _ in range(2 if twice and key else 1)]
        self.run(together(*same))

    @rule(which=which, words=st.lists(st.sampled_from(STEPS), min_size=1, max_size=6))
    def a_job_goes_on(self, which: int, words: list[str]) -> None:
        """One job and nothing beside it, so that whatever else happens finds jobs that have come far."""
        account = self.one(which)
        for word in words:
            self.run(self.next_step(account, word))
            self.check()

    async def next_step(self, account: Account, word: str) -> None:
        if word == "cancel" and self.owed(account) in {"answer", "settle"}:
            await self.cancel(self.context, account)
        elif word == "stranger" and self.owed(account) == "report":
            await self.webhook(self.context, account, len(self.seen[account.id].attempts), "r-foreign", "images")
        elif self.owed(account) == "answer":
            for claim in [claim for _, claim in self.in_flight if claim.job_id == account.id][-1:]:
                await self.answered(claim, word if word in MAKE else "accepted")(self.context)
        else:
            self.world.tell(Script(sight="running" if word == "accepted" else "waiting"))
            await self.world.pass_time(70.0, account.id)
            await (self.claim(self.context, 0) if self.owed(account) == "submit" else watching.watch(self.context))

    @rule(worker=st.integers(0, WORKERS - 1), limit=st.sampled_from((1, 8)))
    def a_worker_claims(self, worker: int, limit: int) -> None:
        self.run(self.claim(self.context, worker, limit))

    @rule(script=scripts, seconds=times)
    def a_worker_submits(self, script: Script, seconds: float) -> None:
        self.world.tell(script)
        self.run(self.world.pass_time(seconds))
        self.run(self.submit(self.context))

    @rule(which=which, word=st.sampled_from(tuple(MAKE)), delay=st.sampled_from((0.0, 60.0)), kept=st.booleans())
    def the_provider_answers(self, which: int, word: str, delay: float, kept: bool) -> None:
        """The worker has the answer, and keeps it now or later."""
        if not self.in_flight:
            self.run(self.claim(self.context, which % WORKERS))
        if self.in_flight:
            worker, claim = self.in_flight.pop(which % len(self.in_flight))
            answer = self.answer(claim, word, delay)
            if kept:
                self.run(self.keep(self.context, [answer]))
            else:
                self.held.append((worker, answer))

    @rule(which=which, many=st.integers(1, 4), again=st.booleans())
    def answers_are_kept(self, which: int, many: int, again: bool) -> None:
        """Together, each attempt once; some were kept before, and whoever kept them did not learn of it."""
        batch = {(each.job_id, each.attempt): each for each in (self.kept[-2:] if again else [])}
        for _ in range(min(many, len(self.held))):
            _, answer = self.held.pop(which % len(self.held))
            batch.setdefault((answer.job_id, answer.attempt), answer)
        self.run(self.keep(self.context, list(batch.values())))

    @rule(which=which)
    def the_provider_rejects(self, which: int) -> None:
        if self.in_flight:
            _, claim = self.in_flight.pop(which % len(self.in_flight))
            self.run(self.reject(self.context, claim))

    @rule(worker=st.integers(0, WORKERS - 1))
    def a_worker_dies(self, worker: int) -> None:
        self.in_flight = [each for each in self.in_flight if each[0] != worker]
        self.held = [each for each in self.held if each[0] != worker]

    @rule(
        which=which,
        back=st.sampled_from((0, 0, 0, 1, 1, 2, -1)),
        right=st.sampled_from((True, True, True, False)),
        end=st.sampled_from((*ENDS, "incomplete")),
    )
    def a_webhook_comes(self, which: int, back: int, right: bool, end: str) -> None:
        account = self.one(which)
        if not self.seen[account.id].attempts and back >= 0:
            self.run(self.claim(self.context, which % WORKERS))
            self.check()
        before = self.seen[account.id]
        # Of the last attempt, of those before, and of one that never was.
        number = max(1, len(before.attempts) - back)
        # Any name would do for an attempt without one; what has no end here names it as the provider does.
        request_id = name_of(account.id, number) if right or end == "incomplete" else "r-foreign"
        anothers = self.is_anothers(request_id)
        verdict = self.run(self.webhook(self.context, account, number, request_id, end))
        expected = expected_verdict(before, number, request_id, end, anothers=anothers)
        assert verdict in expected, f"a webhook was called {verdict}, not {sorted(expected)}"

    @rule(what=st.sampled_from(ASKED), which=which, number=which)
    def somebody_wants_something(self, what: str, which: int, number: int) -> None:
        account = self.one(which)
        alive = self.seen[account.id].live is not None
        match what:
            case "cancel":
                asked = self.run(self.cancel(self.context, account))
                assert asked == alive, "a cancel was answered wrongly"
            case "half a cancel":
                self.run(self.cancel_half(self.context, account))
            case "force":
                forced = self.run(self.force(self.context, account))
                assert forced == alive, "a forced end was answered wrongly"
            case "retry" if len(self.accounts) < MOST_JOBS or account.retried_as:
                self.run(self.retry(self.context, account))
            case "replay" if report := pick(self.seen[account.id].reports, number):
                self.run(self.replay(self.context, account, report))
            case "pause":
                self.run(pauses.pause_by_hand(self.db, "fal", "Too dear."))
            case "resume":
                self.run(pauses.resume(self.db, "fal"))
            case "end of the oldest":
                for each in self.jobs:
                    each.aged |= each.job.deadline_seconds is None
                self.run(due.end_the_oldest(self.db, 300.0))

    @rule(seconds=times, which=st.none() | which)
    def time_passes(self, seconds: float, which: int | None) -> None:
        account = None if which is None else self.one(which)
        self.run(self.world.pass_time(seconds, account.id if account else None))

    @rule(script=scripts, seconds=times)
    def the_sweep_comes(self, script: Script, seconds: float) -> None:
        self.world.tell(script)
        self.run(self.world.pass_time(seconds))
        self.run(watching.watch(self.context))

    @rule(expire=st.booleans())
    def a_watcher_takes(self, expire: bool) -> None:
        if expire:
            self.run(due.expire(self.db))
        self.run(self.take(self.context))

    @rule(which=which, script=scripts, again=st.booleans())
    def a_watcher_looks(self, which: int, script: Script, again: bool) -> None:
        """It may have been slow, and another may have looked meanwhile."""
        if not self.looks:
            self.run(self.world.pass_time(130.0))
            self.run(self.take(self.context))
        job = pick(self.looks, which)
        if job is not None:
            if not again:
                self.looks.remove(job)
            self.world.tell(script)
            self.run(watching.look(self.context, job))

    @rule(which=which, script=scripts)
    def a_watcher_stops_what_lost(self, which: int, script: Script) -> None:
        if not self.stops:
            self.stops += self.run(due.take_to_stop(self.db, 10, 60.0))
        elif attempt := pick(self.stops, which):
            self.stops.remove(attempt)
            self.world.tell(script)
            self.run(watching.stop(self.context, attempt))

    # And really at the same time, on connections of their own.

    @rule(
        how=st.sampled_from(("lock", "commit", "commit", "free")),
        numbers=st.lists(st.integers(0, 59), min_size=2, max_size=3),
        which=which,
        script=scripts,
        late=st.booleans(),
    )
    def all_at_once(self, how: str, numbers: list[int], which: int, script: Script, late: bool) -> None:
        account = self.one(which)
        if late:
            self.run(self.world.pass_time(130.0, account.id))
            if self.owed(account) != "submit":
                self.run(self.take(self.context))
            self.check()
        self.world.tell(script)
        possible = self.possible(account, script.submit[0])
        works = [possible[number % len(possible)] for number in numbers]
        if how == "free":
            self.run(together(*(work(self.context) for work in works)))
        elif how == "lock":
            self.run(self.world.behind_a_lock(account.id, works))
        else:
            self.run(self.world.behind_a_commit(works))

    @rule(number=st.integers(0, 59), which=which, script=scripts)
    def a_claim_meets_something(self, number: int, which: int, script: Script) -> None:
        account = self.one(which)
        self.run(self.world.pass_time(130.0, account.id))
        self.world.tell(script)
        possible = self.possible(account, script.submit[0])
        works: list[Work] = [lambda on: self.claim(on, 0), possible[number % len(possible)]]
        self.run(self.world.behind_a_commit(works))

    def possible(self, account: Account, word: str) -> list[Work]:
        """All that may come upon a job as it is; `word` is what the provider says to a submission on its way."""
        seen = self.seen[account.id]
        attempts = len(seen.attempts)
        found: list[Work] = [
            lambda on: self.cancel(on, account),
            lambda on: self.cancel_half(on, account),
            lambda on: self.force(on, account),
        ]
        if self.owed(account) == "submit":
            found += [lambda on: self.claim(on, 0), lambda on: self.claim(on, 1), self.submit]
            found += [lambda on: due.expire(on.db)]
        elif self.owed(account):
            found += [self.take, watching.watch]
        elif len(self.accounts) < MOST_JOBS or account.retried_as:
            found += [lambda on: self.retry(on, account)]
        found += [
            self.posted(account, number, request_id, end)
            for number in sorted({1, attempts} if attempts else ())
            for request_id in (name_of(account.id, number), "r-foreign")
            for end in ("cat", "bad", "incomplete")
            if request_id != "r-foreign" or end != "incomplete"
        ]
        found += [self.answered(claim, word) for _, claim in self.in_flight if claim.job_id == account.id]
        found += [self.said_again(answer) for answer in self.kept[-6:] if answer.job_id == account.id]
        found += [self.looked(job) for job in self.looks[-6:] if job.job_id == account.id]
        if seen.reports:
            found += [lambda on: self.replay(on, account, seen.reports[-1])]
        return found

    # After every step.

    @invariant()
    def check(self) -> None:
        if self.checked:
            return
        for job_id, attempt, word in self.world.heard():
            account = self.accounts[job_id]
            account.asked[attempt] += word in SUBMIT_ANSWERS
            account.refused |= word == "refused"
            account.lost |= word == "missing"
            if word == STOP:
                account.stopped.add(attempt)
            if word == "rejected":
                account.said.add(said_of("bad", attempt))
            elif word in ENDS:
                account.said.add(said_of(word, attempt))
        self.world.steps += 1
        after = self.world.run(see_all(self.db))
        assert after.keys() == self.accounts.keys(), "there are not as many jobs as were registered"
        for job_id, account in self.accounts.items():
            self.holds(check, account, self.seen.get(job_id), after[job_id])
        self.seen = after
        self.checked = True

    def holds(self, claim: Callable[..., None], account: Account, *seen: Seen | None) -> None:
        try:
            claim(account, *seen)
        except AssertionError as error:
            words = "\n  ".join((str(error), *map(str, seen)))
            self.world.failures.append(words)
            raise AssertionError(words) from None

    def teardown(self) -> None:
        try:
            if self.checked:
                self.all_end()
        finally:
            self.world.forget()

    def all_end(self) -> None:
        """All workers and watchers die, new ones come, and the provider is honest: then every job has an end."""
        self.run(pauses.resume(self.db, "fal"))
        self.world.tell(Script(("accepted",), "cat", "over"))
        for _ in range(12):
            self.run(self.world.pass_time(61.0))
            self.run(self.submit(self.context))
            self.run(watching.watch(self.context))
            self.check()
            if all(seen.live is None for seen in self.seen.values()):
                break
        # What was to be stopped when the last of them ended.
        self.run(self.world.pass_time(61.0))
        self.run(watching.watch(self.context))
        self.check()
        for job_id, account in self.accounts.items():
            self.holds(is_over, account, self.seen[job_id])


async def together(*works: Coroutine[Any, Any, object]) -> None:
    await asyncio.gather(*works)


def expected_verdict(before: Seen, number: int, request_id: str, end: str, *, anothers: bool) -> set[str]:
    row = next((row for row in before.attempts if row["number"] == number), None)
    if end == "incomplete":
        return {"incomplete"}
    if row is None:
        return {"unknown"}
    if row["provider_request_id"] not in {None, request_id}:
        return {"foreign"}
    if before.outcome is None:
        return {"foreign" if row["provider_request_id"] is None and anothers else "applied"}
    _, _, status, body = said_of(end, number)
    if before.outcome["source"] == "roundtrip" or before.outcome["attempt"] != number:
        return {"late"}
    same = (before.outcome["http_status"], before.outcome["body"]) == (status, body)
    return {"duplicate" if same else "conflict"}
