"""The machine turns red when the service is broken: once for each of its promises, broken on purpose."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import run_state_machine_as_test

from service.context import Context
from service.jobs import due, endings, filing, operations, store, watching
from service.jobs.due import ToStop
from service.jobs.lifecycle import Verdict
from tests.machine.jobs import JobMachine
from tests.machine.world import Script, World, name_of
from tests.servers import Addresses

# The same orders each time, and no time spent on making a failure short.
SEARCH = hypothesis_settings(
    max_examples=400, stateful_step_count=40, derandomize=True, database=None, phases=(Phase.generate,)
)

Plant = Callable[[pytest.MonkeyPatch, World], None]


@dataclass(frozen=True)
class Bug:
    plant: Plant
    words: str
    """What a check has to say of it."""
    by: Callable[[JobMachine], None] | None = None
    """An order that meets it, where a search would take too long."""


def without(module: ModuleType, name: str, *changes: tuple[str, str]) -> Plant:
    """A statement, or each of a table of them, with other words in it."""

    def changed(text: str) -> str:
        for old, new in changes:
            assert old in text, f"{name} does not say {old}"
            text = text.replace(old, new)
        return text

    def plant(monkeypatch: pytest.MonkeyPatch, _: World) -> None:
        sound = getattr(module, name)
        broken = {key: changed(text) for key, text in sound.items()} if isinstance(sound, dict) else changed(sound)
        monkeypatch.setattr(module, name, broken)

    return plant


def a_cancel_that_waits_for_nobody(monkeypatch: pytest.MonkeyPatch, _: World) -> None:
    async def cancel(context: Context, job_id: Any) -> bool:
        if await endings.request_cancel(context.db, job_id) is None:
            return False
        await endings.close(context.db, job_id, operations.CANCELLED, even_if_submitted=True)
        return True

    monkeypatch.setattr(operations, "cancel", cancel)


def a_second_end_that_is_written_over_the_first(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    sound = filing.file_report

    async def file_report(db: Any, job_id: Any, attempt: Any, evidence: Any, ending: Any, *verdict: Any) -> Verdict:
        filed = await sound(db, job_id, attempt, evidence, ending, *verdict)
        if filed is Verdict.CONFLICT:
            await db.execute("UPDATE results SET body = $2 WHERE job_id = $1", job_id, ending.body)
        return filed

    world.run(world.db.execute("ALTER TABLE results DISABLE TRIGGER results_are_final"))
    monkeypatch.setattr(filing, "file_report", file_report)


def nothing_is_stopped(monkeypatch: pytest.MonkeyPatch, _: World) -> None:
    async def take_to_stop(*_: object) -> list[ToStop]:
        return []

    monkeypatch.setattr(due, "take_to_stop", take_to_stop)


def nobody_who_died_is_missed(monkeypatch: pytest.MonkeyPatch, _: World) -> None:
    async def worker_died(*_: object) -> None:
        return None

    monkeypatch.setattr(watching, "_worker_died", worker_died)


def a_stranger_comes(machine: JobMachine) -> None:
    machine.a_job_goes_on(0, ["accepted", "accepted"])
    machine.a_webhook_comes(0, 0, False, "cat")


def a_job_is_ended_that_the_provider_has(machine: JobMachine) -> None:
    machine.a_job_goes_on(0, ["accepted", "accepted"])
    machine.somebody_wants_something("force", 0, 0)
    machine.check()
    machine.all_end()


def a_cancel_comes_before_a_refusal(machine: JobMachine) -> None:
    machine.a_job_goes_on(0, ["accepted"])
    machine.somebody_wants_something("half a cancel", 0, 0)
    machine.check()
    machine.a_job_goes_on(0, ["refused"])


def a_cancel_comes_before_an_answer(machine: JobMachine) -> None:
    machine.a_job_goes_on(0, ["accepted"])
    machine.somebody_wants_something("cancel", 0, 0)
    machine.check()


def a_key_comes_again(machine: JobMachine) -> None:
    for _ in range(2):
        machine.a_client_asks(None, "one", "a", False, True)
        machine.check()


def two_claims_meet(machine: JobMachine) -> None:
    machine.run(machine.world.behind_a_commit([lambda on: machine.claim(on, 0), lambda on: machine.claim(on, 1)]))


def a_worker_dies(machine: JobMachine) -> None:
    machine.a_job_goes_on(0, ["accepted"])
    machine.all_end()


BUGS = {
    "an end by a stranger's request": Bug(
        without(
            endings,
            "_SETTLE_STATEMENTS",
            ("$14::text IS NULL OR attempts.provider_request_id = $14 OR", "$14::text IS NULL OR true OR"),
        ),
        "a webhook was called applied|nobody said",
        a_stranger_comes,
    ),
    "an end that leaves the job live": Bug(
        without(
            endings,
            "_SETTLE_STATEMENTS",
            (
                "DELETE FROM live_jobs USING tried, jobs",
                "UPDATE live_jobs SET due_at = live_jobs.due_at FROM tried, jobs",
            ),
        ),
        "not exactly one of a live row and an outcome",
    ),
    "a deadline that ends a job twice": Bug(
        without(
            endings,
            "_CLOSE_UNSUBMITTED",
            ("DELETE FROM live_jobs", "UPDATE live_jobs SET due_at = due_at"),
        ),
        "not exactly one of a live row and an outcome",
    ),
    "an end that leaves others with the provider": Bug(
        without(endings, "_THOROUGH_STATEMENTS", ("ended.attempt > 1 AND", "ended.attempt > 99 AND")), "it left one"
    ),
    "an end that does not look for others": Bug(
        without(endings, "_SETTLE_STATEMENTS", ("OR attempt > 1 AND", "OR attempt > 99 AND")), "it left one"
    ),
    "an end without an event": Bug(
        without(
            endings,
            "_SETTLE_STATEMENTS",
            ("coalesce($8::text, $3::text) FROM ended", "coalesce($8::text, $3::text) FROM ended WHERE false"),
        ),
        "its history ends at",
    ),
    "an end without its evidence": Bug(
        without(
            endings,
            "_SETTLE_STATEMENTS",
            ("FROM ended WHERE $17::bytea IS NOT NULL", "FROM ended WHERE $17::bytea IS NULL"),
        ),
        "are kept|reports are said to have ended it",
    ),
    "an end written over the first": Bug(
        a_second_end_that_is_written_over_the_first, "its outcome changed|nobody said"
    ),
    "a cancel that waits for nobody": Bug(
        a_cancel_that_waits_for_nobody,
        "it was cancelled while its submission was on its way",
        a_cancel_comes_before_an_answer,
    ),
    "a cancel that is forgotten": Bug(
        without(
            store,
            "_RECORD_ANSWERS",
            ("said.duty = 'submit' AND live_jobs.cancel_requested_at IS NOT NULL", "said.duty = ''"),
        ),
        "a cancel was asked for, and it waits to be submitted",
        a_cancel_comes_before_a_refusal,
    ),
    "a claim that owes nothing": Bug(
        without(store, "_CLAIM", ("SET duty = 'answer', attempt", "SET attempt")),
        "submit is owed to what is",
    ),
    "a claim that locks nothing": Bug(
        without(store, "_CLAIM", ("FOR UPDATE SKIP LOCKED", "")),
        "an earlier attempt is still under way",
        two_claims_meet,
    ),
    "an answer that opens what is over": Bug(
        without(
            store,
            "_RECORD_ANSWERS",
            ("SET state = CASE WHEN attempts.state IN ('submitting', 'ambiguous')", "SET state = CASE WHEN true"),
        ),
        "an attempt from|its end is not its attempt's|still under way|it left one",
    ),
    "an answer after which nobody looks": Bug(
        without(store, "_RECORD_ANSWERS", ("now() + make_interval(secs => said.delay)", "now() + interval '9 years'")),
        "nobody looks at it",
    ),
    "a new submission that is not counted": Bug(
        without(store, "_CLAIM", ("SET resubmitted_at = clock_timestamp()", "SET resubmitted_at = NULL::timestamptz")),
        "was given up and not counted",
    ),
    "progress that goes back": Bug(
        without(due, "_PROGRESS", ("ELSE was.status END,", "ELSE 'submitted' END,")),
        "from in_progress to submitted|status",
    ),
    "a start without an event": Bug(
        without(due, "_PROGRESS", ("FROM moved WHERE started\n)", "FROM moved WHERE started AND false\n)")),
        "its history",
    ),
    "a key that is used twice": Bug(
        without(store, "_REGISTER_ONCE", ("FROM first_use", "FROM (SELECT) AS any_use")),
        "a key was taken twice",
        a_key_comes_again,
    ),
    "nothing is stopped": Bug(
        nothing_is_stopped, "an attempt stays superseded for ever", a_job_is_ended_that_the_provider_has
    ),
    "a dead worker that nobody misses": Bug(nobody_who_died_is_missed, "it never ends", a_worker_dies),
}


@pytest.fixture(scope="module")
def one_world(addresses: Addresses) -> Iterator[World]:
    world = World(addresses)
    yield world
    world.close()


@pytest.fixture
def world(one_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(watching, "MOST_RESUBMISSIONS", 2)
    yield one_world
    one_world.run(one_world.db.execute("ALTER TABLE results ENABLE TRIGGER results_are_final"))


def words_of(error: BaseException) -> Iterator[str]:
    yield str(error)
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from words_of(each)


def drive(world: World, by: Callable[[JobMachine], None] | None) -> None:
    if by is None:
        run_state_machine_as_test(lambda: JobMachine(world), settings=SEARCH)  # type: ignore[arg-type]
        return
    machine = JobMachine(world)
    try:
        machine.begin(None, [()])
        machine.check()
        by(machine)
        machine.check()
    finally:
        world.forget()


@pytest.mark.parametrize("name", BUGS)
def test_it_finds(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    BUGS[name].plant(monkeypatch, world)
    with pytest.raises(Exception) as found:  # noqa: PT011  # What is raised is read below.
        drive(world, BUGS[name].by)
    words = "\n".join((*words_of(found.value), *world.failures[-1:]))
    assert re.search(BUGS[name].words, words), words


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if bug.by])
def test_the_sound_service_passes_where_a_broken_one_fails(world: World, name: str) -> None:
    drive(world, BUGS[name].by)


def test_a_claim_that_is_being_committed_is_taken_along_by_an_end(world: World) -> None:
    """News of an earlier attempt waits for the claim's lock, and has begun before the claim's attempt could be seen."""

    def by(machine: JobMachine) -> None:
        machine.a_job_goes_on(0, ["refused", "refused"])
        [account] = machine.jobs
        machine.run(world.pass_time(70.0))
        news = machine.posted(account, 1, name_of(account.id, 1), "cat")
        machine.run(world.behind_a_commit([lambda on: machine.claim(on, 0), news]))
        machine.check()
        machine.run(machine.answered(machine.in_flight[-1][1], "accepted")(machine.context))
        machine.check()
        machine.all_end()

    drive(world, by)


def test_a_watcher_that_was_slow_gives_up_nothing_that_was_answered_meanwhile(world: World) -> None:
    def by(machine: JobMachine) -> None:
        machine.run(machine.register(machine.context, None, tenant=machine.doubtful))
        machine.check()
        machine.run(machine.claim(machine.context, 0))
        machine.the_sweep_comes(Script(), 25.0)
        machine.check()
        machine.time_passes(70.0, None)
        machine.a_watcher_takes(False)
        machine.check()
        for _, claim in list(machine.in_flight):
            machine.run(machine.answered(claim, "accepted")(machine.context))
        machine.check()
        for job in machine.looks:
            machine.run(machine.looked(job)(machine.context))
            machine.check()

    drive(world, by)
