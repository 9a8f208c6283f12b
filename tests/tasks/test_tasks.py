"""The tasks of Celery: thin, repeatable, and unharmed by a database that is away."""

import asyncio
import importlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from uuid import UUID

import pytest
from celery.contrib.testing.worker import start_worker

from service.catalog.base import Lifted, LiftedFile
from service.context import Context
from service.db import DatabaseAway
from service.jobs import due, endings, filing, operations, store
from service.jobs.submitting import SLOTS
from service.queue import QUEUE, TaskName
from service.settings import Settings
from tasks.runtime import Runtime, Worker
from tests import making
from tests.provider import Call, Provider, Reply, says


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
    """As a worker's thread does."""
    await asyncio.to_thread(task)  # type: ignore[arg-type]


async def all_done(tasks: ModuleType) -> None:
    """Wait until the pumps of the process have nothing in hand."""

    async def drain(worker: Worker) -> None:
        for pump in (worker.submitting, worker.watching, worker.copying, worker.delivering):
            await pump.drain()

    await run(lambda: tasks.runtime.run(drain))


async def becomes(context: Context, job_id: UUID, status: str) -> None:
    async def holds() -> bool:
        return await making.status(context.db, job_id) == status

    await making.until(holds, within=10)


async def test_the_submit_task_wakes_the_submitting(
    tasks: ModuleType, context: Context, tenant: UUID, provider: Provider
) -> None:
    job_id = await making.queued(context.db, tenant)
    await run(tasks.submit_jobs)
    await becomes(context, job_id, "submitted")
    assert len(provider.submissions) == 1


async def test_a_nudge_needs_no_thread_of_the_pool(
    tasks: ModuleType, context: Context, tenant: UUID, provider: Provider
) -> None:
    """A worker of Celery's own, whose one thread is held all the while."""
    app, held, let_go = tasks.celery_app, threading.Event(), threading.Event()

    @app.task(name="tests.hold")  # type: ignore[untyped-decorator]
    def hold() -> None:
        held.set()
        let_go.wait(30)

    await all_done(tasks)  # This opens what the nudge would else have to open, and that is the pool's to do.
    with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False, shutdown_timeout=30):
        try:
            app.send_task("tests.hold", queue=QUEUE)
            assert await asyncio.to_thread(held.wait, 10)
            job_id = await making.queued(context.db, tenant)
            app.send_task(TaskName.SUBMIT.value, queue=QUEUE)
            await becomes(context, job_id, "submitted")
            assert not let_go.is_set()
        finally:
            let_go.set()


async def test_the_watch_task_wakes_the_looks(
    tasks: ModuleType, context: Context, tenant: UUID, provider: Provider
) -> None:
    claim = await making.submitted(context.db, tenant)
    await making.make_due(context.db, claim.job_id)
    provider.ended(Reply(200, making.CAT))
    await run(tasks.watch_jobs)
    await becomes(context, claim.job_id, "completed")
    await all_done(tasks)


async def test_the_copy_task_wakes_the_copies(
    tasks: ModuleType, context: Context, tenant: UUID, provider: Provider
) -> None:
    claim = await making.submitted(context.db, tenant)
    lifted = Lifted(files=(LiftedFile("mask", 0, f"{provider.url}/files/a.png"),))
    await endings.settle(context.db, claim.job_id, 1, making.completed(), making.heard(), "webhook", lifted)
    provider.result = says(Reply(200, b"no picture"))
    await run(tasks.copy_files)

    async def no_copy_is_owed() -> bool:
        return await making.count(context.db, "copies") == 0

    await making.until(no_copy_is_owed)
    assert await making.count(context.db, "blobs") == 1


async def test_the_deliver_task_wakes_the_callbacks(tasks: ModuleType, context: Context, tenant: UUID) -> None:
    """Here nobody lets callbacks go to the loopback, so that the try is a failed one."""
    await making.ended(context.db, tenant, webhook_url="http://127.0.0.1:9/hook")
    await run(tasks.deliver_callbacks)

    async def one_was_tried() -> bool:
        return await making.count(context.db, "callback_tries") == 1

    await making.until(one_was_tried)


@pytest.mark.parametrize("name", ["submit_jobs", "sweep"])
async def test_no_task_waits_for_the_provider(
    tasks: ModuleType, context: Context, tenant: UUID, provider: Provider, name: str
) -> None:
    """Else a provider that hangs would take the threads of the other tasks."""
    let_go, asked = asyncio.Event(), asyncio.Event()

    async def hang(call: Call) -> Reply:
        asked.set()
        await let_go.wait()
        return await provider.accept(call)

    # First, because a pump that was woken takes whatever is queued.
    claim = await making.submitted(context.db, tenant)
    provider.submit = hang
    hanging = await making.queued(context.db, tenant)
    async with asyncio.timeout(9):
        for _ in range(10):
            await run(getattr(tasks, name))
        await asked.wait()
        await making.make_due(context.db, claim.job_id)
        provider.ended(Reply(200, making.CAT))
        await run(getattr(tasks, "watch_jobs" if name == "submit_jobs" else name))
        await becomes(context, claim.job_id, "completed")
        assert await making.status(context.db, hanging) == "queued"
    let_go.set()
    await becomes(context, hanging, "submitted")
    await all_done(tasks)
    assert len(provider.submissions) == 1


async def test_the_tidy_task_forgets(tasks: ModuleType, context: Context) -> None:
    await context.db.execute("INSERT INTO waiters VALUES ($1, now() - interval '1 s')", UUID(int=1))
    await filing.file_report(context.db, UUID(int=1), 1, making.heard(), making.completed())
    await context.db.execute("UPDATE reports SET received_at = now() - interval '1 year'")
    await run(tasks.tidy)
    assert await making.count(context.db, "waiters") == 0
    assert await making.count(context.db, "reports") == 0


async def test_a_task_without_work_does_nothing(tasks: ModuleType, context: Context, provider: Provider) -> None:
    each = (tasks.submit_jobs, tasks.watch_jobs, tasks.copy_files, tasks.deliver_callbacks, tasks.sweep, tasks.tidy)
    for task in each:
        await run(task)
    await all_done(tasks)
    assert provider.calls == []


class Woken:
    """In the place of a pump."""

    def __init__(self) -> None:
        self.times = 0

    def wake(self) -> None:
        self.times += 1


def with_idle_pumps(context: Context) -> Worker:
    worker = Worker(context)
    for name in PUMPS:
        setattr(worker, name, Woken())
    return worker


PUMPS = ("submitting", "watching", "copying", "delivering", "delivering_slowly")


def woken(worker: Worker) -> tuple[int, ...]:
    return tuple(getattr(worker, name).times for name in PUMPS)


@pytest.mark.parametrize(
    ("owed", "which"),
    [
        ("nothing", (0, 0, 0, 0, 0)),
        ("a submission", (1, 0, 0, 0, 0)),
        ("a look", (0, 1, 0, 0, 0)),
        ("a close", (0, 1, 0, 0, 0)),
        ("a stop", (0, 1, 0, 0, 0)),
        ("a copy", (0, 0, 1, 0, 0)),
        ("a callback", (0, 0, 0, 1, 1)),
    ],
)
async def test_the_sweep_wakes_whom_something_is_owed_by(
    tasks: ModuleType, context: Context, tenant: UUID, owed: str, which: tuple[int, ...]
) -> None:
    db = context.db
    if owed == "a submission":
        await making.queued(db, tenant)
    elif owed == "a close":
        await endings.request_cancel(db, await making.queued(db, tenant))
    elif owed == "a callback":
        await making.ended(db, tenant, webhook_url="https://hooks.example/x")
    elif owed != "nothing":
        claim = await making.submitted(db, tenant)
        if owed == "a look":
            await making.make_due(db, claim.job_id)
        elif owed == "a stop":
            await endings.close(db, claim.job_id, operations.CANCELLED, even_if_submitted=True)
        else:
            lifted = Lifted(files=(LiftedFile("mask", 0, "https://example.com/a.png"),))
            await endings.settle(db, claim.job_id, 1, making.completed(), making.heard(), "webhook", lifted)
    worker = with_idle_pumps(context)
    await tasks._sweep(worker)
    assert woken(worker) == which


async def test_a_sweep_carries_out_what_it_finds(
    tasks: ModuleType, context: Context, tenant: UUID, provider: Provider
) -> None:
    claim = await making.submitted(context.db, tenant)
    await making.make_due(context.db, claim.job_id)
    queued = await making.queued(context.db, tenant)
    provider.ended(Reply(200, making.CAT))
    await run(tasks.sweep)
    await becomes(context, queued, "submitted")
    await becomes(context, claim.job_id, "completed")
    await all_done(tasks)


async def test_a_database_that_is_away_ends_neither_a_sweep_nor_a_pump(
    tasks: ModuleType, context: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(*_: object) -> None:
        raise DatabaseAway

    with monkeypatch.context() as patch:
        for module, name in ((due, "anything_due"), (due, "tidy"), (due, "expire"), (store, "claim")):
            patch.setattr(module, name, lose)
        for task in (tasks.sweep, tasks.tidy, tasks.submit_jobs, tasks.watch_jobs):
            await run(task)
        await asyncio.sleep(0.1)
    job_id = await making.queued(context.db, tenant)
    await run(tasks.sweep)
    await becomes(context, job_id, "submitted")


@pytest.mark.parametrize(("module", "name", "task"), [(due, "anything_due", "sweep"), (due, "tidy", "tidy")])
async def test_a_bug_is_not_hidden(
    tasks: ModuleType, context: Context, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, task: str
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, name, fail)
    with pytest.raises(ZeroDivisionError):
        await run(getattr(tasks, task))


async def test_a_runtime_that_is_stopped_takes_nothing_more_and_ends_what_it_has(
    environment: None, context: Context, tenant: UUID, provider: Provider
) -> None:
    """SIGTERM with a backlog of 3,000."""
    let_go, full = asyncio.Event(), asyncio.Event()

    async def hold(call: Call) -> Reply:
        if len(provider.submissions) == SLOTS:
            full.set()
        await let_go.wait()
        return await provider.accept(call)

    provider.submit = hold
    first = await making.queued(context.db, tenant)
    for table in ("jobs", "inputs", "live_jobs"):
        await context.db.execute(COPY_OF[table], first, 2_999)
    runtime = Runtime()

    async def submit(worker: Worker) -> None:
        worker.submitting.wake()

    await asyncio.to_thread(runtime.run, submit)
    async with asyncio.timeout(20):
        await full.wait()
    await asyncio.to_thread(runtime.stop)
    closing = asyncio.create_task(asyncio.to_thread(runtime.close))
    await asyncio.sleep(0.2)
    assert not closing.done()
    let_go.set()
    await closing
    rows = await context.db.fetch("SELECT status, duty, count(*) FROM live_jobs GROUP BY status, duty")
    assert {tuple(row) for row in rows} == {("queued", "submit", 3_000 - SLOTS), ("submitted", "report", SLOTS)}
    assert len(provider.submissions) == SLOTS


COPY_OF = {
    "jobs": """
        INSERT INTO jobs (id, tenant_id, model, provider, priority, metadata, tags)
        SELECT md5(n::text)::uuid, tenant_id, model, provider, priority, metadata, tags
        FROM jobs, generate_series(1, $2) AS n WHERE id = $1
    """,
    "inputs": """
        INSERT INTO inputs (job_id, body)
        SELECT md5(n::text)::uuid, body FROM inputs, generate_series(1, $2) AS n WHERE job_id = $1
    """,
    "live_jobs": """
        INSERT INTO live_jobs (job_id, tenant_id, status, duty, rank)
        SELECT md5(n::text)::uuid, tenant_id, status, duty, rank
        FROM live_jobs, generate_series(1, $2) AS n WHERE job_id = $1
    """,
}


def test_every_task_has_its_name_and_every_name_its_task(tasks: ModuleType) -> None:
    assert {name for name in tasks.celery_app.tasks if name.startswith("roundtrip.")} == {
        each.value for each in TaskName
    }


def test_beat_sweeps_and_tidies_and_lets_no_sweep_pile_up(tasks: ModuleType) -> None:
    schedule = importlib.import_module("tasks.beat").celery_app.conf.beat_schedule
    assert {entry["task"] for entry in schedule.values()} == {TaskName.SWEEP.value, TaskName.TIDY.value}
    assert {entry["task"] for entry in schedule.values()} <= set(tasks.celery_app.tasks)
    assert all(entry["options"]["expires"] for entry in schedule.values())


def test_beat_does_not_load_what_the_workers_do(environment: None) -> None:
    """It would keep as much memory as a worker."""
    heavy = ("sqlalchemy", "asyncpg", "httpx", "service.db", "service.jobs.store", "tasks.app")
    question = f"import sys, service.cli, tasks.beat, tasks.clock; sys.exit(sum(n in sys.modules for n in {heavy}))"
    assert subprocess.run([sys.executable, "-c", question], check=False).returncode == 0


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
