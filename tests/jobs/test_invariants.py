"""In whatever order news, workers, watchers and clients come, a job goes forward and ends once."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.context import Context, open_context
from service.db import Row
from service.jobs import due, endings, operations, store
from service.jobs.facts import Answer, Claim, Due
from service.jobs.lifecycle import ENDED, Duty
from service.jobs.watching import TOO_LATE
from service.queue import Nudger
from service.settings import Settings
from tests import making
from tests.servers import delete_all_rows

Result = TypeVar("Result")
RANK = {"queued": 0, "submitted": 1, "in_progress": 2, "completed": 3, "failed": 3, "cancelled": 3}
JOBS = 3
ANSWERS = [making.accepted, making.refused, making.ambiguous]
ENDINGS = [making.completed(), making.completed(making.DOG), making.failed()]
which = st.integers(0, 1_000)


class World:
    """One context on a loop of its own, for all examples."""

    def __init__(self, settings: Settings) -> None:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        opened = self.run(self.stack.enter_async_context(open_context(settings)))
        self.nudger = Nudger(publish=lambda _: None)
        self.context: Context = replace(opened, nudger=self.nudger)

    def run(self, work: Awaitable[Result]) -> Result:
        async def wait() -> Result:
            return await work

        return self.runner.run(wait())

    def close(self) -> None:
        self.run(self.stack.aclose())
        self.nudger.close()
        self.runner.close()


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    world = World(settings)
    yield world
    world.close()


class JobLife(RuleBasedStateMachine):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.run = world, world.run
        self.db = world.context.db
        self.claims: list[Claim] = []  # not answered yet
        self.claimed: list[Claim] = []
        self.answers: list[Answer] = []
        self.looks: list[Due] = []
        self.ranks: dict[UUID, int] = {}
        self.outcomes: dict[UUID, Row] = {}
        self.resubmissions: dict[UUID, int] = {}
        self.stopped: set[tuple[UUID, int]] = set()

    @initialize()
    def register(self) -> None:
        tenant = self.run(making.make_tenant(self.db, "ours"))
        self.jobs = [self.run(making.queued(self.db, tenant, deadline_seconds=3600.0)) for _ in range(JOBS)]

    def teardown(self) -> None:
        self.run(delete_all_rows(self.db.pool))

    @rule()
    def claim(self) -> None:
        claims = self.run(making.claim_all(self.db))
        self.claims += claims
        self.claimed += claims

    @precondition(lambda self: self.claims)
    @rule(which=which, make=st.sampled_from(ANSWERS))
    def answer(self, which: int, make: "making.Callable[..., Answer]") -> None:
        claim = self.claims.pop(which % len(self.claims))
        answer = make(claim, delay=0.0)
        self.answers.append(answer)
        self.run(store.record_answers(self.db, [answer]))

    @precondition(lambda self: self.answers)
    @rule(which=which)
    def repeat_an_answer(self, which: int) -> None:
        self.run(store.record_answers(self.db, [self.answers[which % len(self.answers)]]))

    @precondition(lambda self: self.claimed)
    @rule(which=which, ending=st.sampled_from(ENDINGS), foreign=st.booleans())
    def hear(self, which: int, ending: making.Ending, foreign: bool) -> None:
        claim = self.claimed[which % len(self.claimed)]
        attempt = self.run(making.attempts(self.db, claim.job_id))[claim.attempt - 1]
        known = attempt["provider_request_id"]
        request_id = "foreign" if foreign else known or f"r-{claim.job_id}-{claim.attempt}"
        alive = self.run(making.live(self.db, claim.job_id)) is not None
        evidence = making.heard(ending.body, request_id)
        news = operations.end(self.world.context, claim.job_id, claim.attempt, claim.model, ending, evidence)
        verdict = self.run(news)
        if known not in {None, request_id}:
            assert verdict == "foreign"
        else:
            assert verdict == "applied" if alive else verdict in {"duplicate", "conflict", "late"}

    @rule(which=st.integers(0, JOBS - 1))
    def look(self, which: int) -> None:
        self.run(making.make_due(self.db, self.jobs[which]))
        self.looks += self.run(due.take_due(self.db, 10, 0.0))

    @precondition(lambda self: self.looks)
    @rule(which=which, running=st.booleans())
    def act_on_a_look(self, which: int, running: bool) -> None:
        """It may be an old one: its watcher was slow."""
        job = self.looks[which % len(self.looks)]
        match job.duty:
            case Duty.ANSWER:
                self.run(due.doubt(self.db, job, 0.0))
            case Duty.SETTLE:
                if not job.cancel_requested:
                    self.run(due.submit_again(self.db, job))
            case Duty.CLOSE:
                self.run(endings.close(self.db, job.job_id, operations.CANCELLED if job.cancel_requested else TOO_LATE))
            case _:
                self.run(due.record_progress(self.db, job, running=running, queue_position=None))

    @rule(which=st.integers(0, JOBS - 1))
    def cancel(self, which: int) -> None:
        alive = self.run(making.live(self.db, self.jobs[which])) is not None
        assert self.run(operations.cancel(self.world.context, self.jobs[which])) is alive

    @rule(which=st.integers(0, JOBS - 1))
    def let_the_deadline_pass(self, which: int) -> None:
        self.run(making.pass_deadline(self.db, self.jobs[which]))
        self.run(due.expire(self.db))

    @rule(stopped=st.booleans())
    def end_what_is_past_its_deadline(self, stopped: bool) -> None:
        for job in self.run(due.take_due(self.db, 10, 0.0)):
            if job.past_deadline:
                self.run(endings.close(self.db, job.job_id, TOO_LATE, even_if_submitted=True, stopped=stopped))

    @rule(answered=st.booleans())
    def stop(self, answered: bool) -> None:
        for attempt in self.run(due.take_to_stop(self.db, 10, 0.0)):
            assert self.run(making.live(self.db, attempt.job_id)) is None
            self.run(due.record_stop(self.db, attempt, answered=answered))
            if answered:
                self.stopped.add((attempt.job_id, attempt.attempt))

    @invariant()
    def each_job_is_live_or_has_its_one_outcome(self) -> None:
        for job_id in getattr(self, "jobs", ()):
            live, outcome = self.run(making.live(self.db, job_id)), self.run(making.outcome(self.db, job_id))
            assert (live is None) != (outcome is None)
            status = (live or outcome)["status"]  # type: ignore[index]
            assert RANK[status] >= self.ranks.get(job_id, 0)
            self.ranks[job_id] = RANK[status]
            if outcome is not None:
                assert self.outcomes.setdefault(job_id, outcome) == outcome

    @invariant()
    def an_end_leaves_no_attempt_open_but_those_to_be_stopped(self) -> None:
        to_stop = {(each.job_id, each.attempt) for each in self.run(due.take_to_stop(self.db, 1_000, 0.0))}
        for job_id in getattr(self, "jobs", ()):
            attempts, outcome = self.run(making.attempts(self.db, job_id)), self.run(making.outcome(self.db, job_id))
            count = sum(attempt["resubmitted_at"] is not None for attempt in attempts)
            assert count >= self.resubmissions.get(job_id, 0)
            self.resubmissions[job_id] = count
            for attempt in attempts:
                name, state = (job_id, attempt["number"]), attempt["state"]
                owed = state == "superseded" and attempt["provider_request_id"] is not None
                assert (name in to_stop) == (owed and name not in self.stopped)
                if outcome is None:
                    assert state != "superseded"
                    assert state not in ENDED
                elif state in ENDED:
                    assert (state, attempt["number"]) == (outcome["status"], outcome["attempt"])
                else:
                    assert state in {"superseded", "refused"}
            if outcome is not None and outcome["source"] != "roundtrip":
                assert attempts[outcome["attempt"] - 1]["state"] == outcome["status"]

    @invariant()
    def the_history_tells_the_same(self) -> None:
        for job_id in getattr(self, "jobs", ()):
            history = self.run(
                self.db.fetch("SELECT event, status, at FROM job_events WHERE job_id = $1 ORDER BY id", job_id)
            )
            ranks = [RANK[row["status"]] for row in history]
            assert ranks == sorted(ranks)
            assert [row["at"] for row in history] == sorted(row["at"] for row in history)
            assert history[-1]["status"] == self.run(making.status(self.db, job_id))
            assert sum(row["event"] in ENDED for row in history) <= 1
            verdicts = [row["verdict"] for row in self.run(making.reports(self.db, job_id))]
            assert verdicts.count("applied") <= 1


def test_a_job_goes_forward_and_ends_once(world: World) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: JobLife(world), settings=hypothesis_settings(max_examples=40, stateful_step_count=25)
    )
