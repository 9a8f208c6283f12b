"""The tasks of Celery: thin, repeatable, and unharmed by a database that is away."""

import asyncio
import importlib
from collections.abc import Iterator
from types import ModuleType
from uuid import UUID

import pytest

from service.context import Context
from service.db import DatabaseAway
from service.queue import TaskName
from service.settings import Settings
from tasks.runtime import Runtime, Worker
from tests import making
from tests.provider import Provider, Reply


@pytest.fixture(scope="module")
def environment(settings: Settings) -> Iterator[None]:
    """What a worker process would be started with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROUNDTRIP_DATABASE_URL", settings.require_database_url())
        patch.setenv("ROUNDTRIP_BROKER_URL", settings.require_broker_url())
        patch.setenv("ROUNDTRIP_FAL_QUEUE_URL", settings.fal_queue_url)
        patch.setenv("ROUNDTRIP_PUBLIC_URL", settings.public_url)
        patch.setenv("ROUNDTRIP_ARTIFACTS_URL", settings.artifacts_location)
        patch.setenv("FAL_KEY", "our-id:our-secret")
        yield


@pytest.fixture(scope="module")
def tasks(environment: None) -> Iterator[ModuleType]:
    app = importlib.import_module("tasks.app")
    yield app
    app.runtime.close()


async def run(task: object) -> None:
    """As a worker's thread does: the task blocks until its work is done."""
    await asyncio.to_thread(task)  # type: ignore[arg-type]


async def test_the_submit_task_submits(tasks: ModuleType, context: Context, tenant: UUID, provider: Provider) -> None:
    job_id = await making.queued(context.db, tenant)
    await run(tasks.submit_jobs)
    assert await making.status(context.db, job_id) == "submitted"
    assert len(provider.submissions) == 1


async def test_the_watch_task_looks(tasks: ModuleType, context: Context, tenant: UUID, provider: Provider) -> None:
    claim = await making.submitted(context.db, tenant)
    await making.make_due(context.db, claim.job_id)
    provider.ended(Reply(200, making.CAT))
    await run(tasks.watch_jobs)
    assert await making.status(context.db, claim.job_id) == "completed"


async def test_the_tidy_task_forgets(tasks: ModuleType, context: Context) -> None:
    await context.db.execute("INSERT INTO waiters VALUES ($1, now() - interval '1 s')", UUID(int=1))
    await run(tasks.tidy)
    assert await making.count(context.db, "waiters") == 0


async def test_a_task_without_work_does_nothing(tasks: ModuleType, context: Context, provider: Provider) -> None:
    for task in (tasks.submit_jobs, tasks.watch_jobs, tasks.copy_files, tasks.sweep, tasks.tidy):
        await run(task)
    assert provider.calls == []


async def test_the_sweep_finds_work_whose_nudge_was_lost(
    tasks: ModuleType, context: Context, tenant: UUID, nudges: list[TaskName]
) -> None:
    claim = await making.submitted(context.db, tenant)
    await making.make_due(context.db, claim.job_id)
    await making.queued(context.db, tenant)
    await tasks._sweep(Worker(context))
    context.nudger.close()
    assert sorted(nudges) == [TaskName.SUBMIT, TaskName.WATCH]


async def test_a_sweep_that_finds_nothing_nudges_nobody(
    tasks: ModuleType, context: Context, nudges: list[TaskName]
) -> None:
    await tasks._sweep(Worker(context))
    context.nudger.close()
    assert nudges == []


async def test_a_database_that_is_away_ends_the_round_only(tasks: ModuleType, context: Context) -> None:
    async def lose(_: Worker) -> None:
        raise DatabaseAway

    await run(lambda: tasks.run(lose))
    await run(tasks.sweep)


async def test_a_bug_is_not_hidden(tasks: ModuleType, context: Context) -> None:
    async def fail(_: Worker) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run(lambda: tasks.run(fail))


def test_every_task_has_its_name_and_every_name_its_task(tasks: ModuleType) -> None:
    assert {name for name in tasks.celery_app.tasks if name.startswith("roundtrip.")} == {
        each.value for each in TaskName
    }


def test_beat_sweeps_and_tidies_and_lets_no_sweep_pile_up(tasks: ModuleType) -> None:
    schedule = tasks.celery_app.conf.beat_schedule
    assert {entry["task"] for entry in schedule.values()} == {TaskName.SWEEP.value, TaskName.TIDY.value}
    assert all(entry["options"]["expires"] for entry in schedule.values())


async def test_the_threads_of_a_process_share_one_context(environment: None, context: Context) -> None:
    runtime, seen = Runtime(), set()

    async def note(worker: Worker) -> None:
        seen.add(id(worker.context))

    await asyncio.gather(*(asyncio.to_thread(runtime.run, note) for _ in range(8)))
    await asyncio.to_thread(runtime.close)
    assert len(seen) == 1


async def test_a_runtime_that_was_closed_can_be_closed_again(environment: None) -> None:
    runtime = Runtime()
    await asyncio.to_thread(runtime.close)
    await asyncio.to_thread(runtime.close)
