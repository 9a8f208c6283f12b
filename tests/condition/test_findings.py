"""What is wrong is found when it is, and not when it is not: each finding with the cause that it is for."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from service.bulk import records as bulk
from service.callbacks.delivering import Deliverer
from service.condition import database, findings, parts
from service.condition.findings import Condition, Finding, Severity, Surroundings, look
from service.condition.looking import CHECKS, condition_of
from service.condition.naming import Process, as_header, from_header
from service.condition.processes import LOST_SECONDS, STAMP_SECONDS, Shown, Stamper, shown, stamp, tidy
from service.condition.progress import Progress
from service.condition.refusals import Refusals
from service.context import Context
from service.db import Database, DatabaseAway, open_database
from service.gpu.queues import request_id_of
from service.jobs import pauses, runs, store
from service.jobs.lifecycle import Duty
from service.jobs.submitting import Submitter
from service.local.directory import DataDirectory
from service.local.postgres import ENVIRONMENT
from service.local.programs import postgres_programs
from service.local.servers import supervised
from service.migrate import upgrade
from service.queue import Nudger, TaskName
from tests import making
from tests.api.asking import is_problem
from tests.conftest import MakeClient
from tests.provider import Provider
from tests.servers import Addresses, Wire
from tests.webhooks.posting import Poster

URL = "https://roundtrip.example"
ALIVE = ("worker", "beat")

# At the beginning of a segment of the log of commits, which PostgreSQL then makes itself.
AGE = 1_526 * 2**20


async def at_work(db: Database, *kinds: str) -> None:
    """Processes that were seen just now."""
    for kind in kinds:
        await stamp(db, [Process(kind)], Progress())


async def found_of(db: Database, tenant_id: UUID | None = None, **changes: Any) -> dict[str, Finding]:
    condition = await condition_of(Surroundings(db, tenant_id, URL, **changes))
    assert condition.unknown == []
    return {each.kind: each for each in condition.findings}


async def seen(db: Database, kind: str = "worker") -> list[Shown]:
    """The API of the tests writes of itself, too."""
    return [each for each in await shown(db) if each.kind == kind]


async def late(db: Database, job_id: UUID, seconds: float = 3_600) -> None:
    await db.execute(
        "UPDATE live_jobs SET due_at = now() - make_interval(secs => $2) WHERE job_id = $1", job_id, seconds
    )


@pytest.fixture
async def theirs(db: Database) -> UUID:
    return await making.make_tenant(db, "theirs")


async def test_of_a_service_that_works_nothing_is_told(context: Context, tenant: UUID) -> None:
    db = context.db
    await at_work(db, "api", *ALIVE)
    await making.ended(db, tenant, webhook_url="https://hooks.example/x")
    await making.submitted(db, tenant)
    await making.queued(db, tenant)
    assert await found_of(db) == {}
    assert await found_of(db, tenant) == {}


async def test_jobs_that_nobody_submits_are_told_with_their_age(db: Database, tenant: UUID, theirs: UUID) -> None:
    await at_work(db, *ALIVE)
    for _ in range(2):
        await late(db, await making.queued(db, tenant))
    await late(db, await making.queued(db, tenant, priority="low"), 7_200)
    found = await found_of(db)
    assert found.keys() == {"stuck_submit"}
    finding = found["stuck_submit"]
    assert (finding.severity, finding.words) == (Severity.CRITICAL, "3 jobs are not being submitted.")
    assert (finding.count, finding.count_is_exact, finding.filter) == (3, True, {"status": "queued"})
    assert finding.since is not None
    assert 7_190 < (datetime.now(UTC) - finding.since).total_seconds() < 7_300
    assert (await found_of(db, tenant)).keys() == {"stuck_submit"}
    assert await found_of(db, theirs) == {}


async def test_a_model_without_a_gpu_worker_is_told_of_while_jobs_wait_for_one(
    db: Database, tenant: UUID, theirs: UUID
) -> None:
    await at_work(db, *ALIVE)
    for _ in range(2):
        await making.queued(db, tenant, provider="gpu")
    for claim in await store.claim(db, 10, 20.0, "gpu"):
        await store.record_answers(db, [making.accepted(claim, request_id_of(claim.job_id, claim.attempt))])
    finding = (await found_of(db))["no_gpu_worker"]
    assert finding.words == f"2 jobs wait for a GPU worker of {making.MODEL}: none is at work."
    assert (finding.severity, finding.count, finding.count_is_exact) == (Severity.WARNING, 2, True)
    assert finding.filter == {"status": "submitted", "provider": "gpu", "model": making.MODEL}
    assert (await found_of(db, tenant)).keys() == {"no_gpu_worker"}
    assert await found_of(db, theirs) == {}
    await runs.hello(db, "w-1", "k-1", making.MODEL, "cuda:0", "loading")
    assert await found_of(db) == {}


async def test_a_provider_that_takes_nothing_is_told_with_its_reason(db: Database, tenant: UUID, theirs: UUID) -> None:
    await at_work(db, *ALIVE)
    for number in range(3):
        job_id = await making.queued(db, tenant)
        [claim] = await making.claim_all(db)
        await store.record_answers(db, [making.refused(claim, delay=60.0 if number else 1.0)])
        assert job_id == claim.job_id
    found = await found_of(db)
    assert found.keys() == {"refused_submissions"}
    finding = found["refused_submissions"]
    assert finding.words == "2 jobs are not taken by the provider fal: Busy."
    assert (finding.severity, finding.count, finding.count_is_exact) == (Severity.WARNING, 2, True)
    assert finding.filter == {"status": "queued", "provider": "fal"}
    assert (await found_of(db, tenant))["refused_submissions"].words == "2 jobs are not taken by the provider fal."
    assert await found_of(db, theirs) == {}
    await pauses.pause(db, "fal", "Locked.", 403)
    assert (await found_of(db)).keys() == {"paused_provider"}


async def test_a_queue_that_moves_is_long_and_not_stuck(db: Database, tenant: UUID) -> None:
    await at_work(db, *ALIVE)
    await db.execute("UPDATE processes SET progressed_at = now() WHERE kind = 'worker'")
    job_id = await making.queued(db, tenant)
    await late(db, job_id, 120)
    assert (await found_of(db))["stuck_submit"].severity is Severity.NOTICE
    await late(db, job_id, 3_600)
    finding = (await found_of(db))["stuck_submit"]
    assert (finding.severity, finding.words) == (
        Severity.WARNING,
        "1 job waits for the submission while others are submitted.",
    )


@pytest.mark.parametrize("duty", [Duty.ANSWER, Duty.REPORT, Duty.SETTLE, Duty.CLOSE])
async def test_what_is_owed_and_not_done_is_told_for_each_duty(
    db: Database, tenant: UUID, theirs: UUID, duty: Duty
) -> None:
    await at_work(db, *ALIVE)
    claim = await making.submitted(db, tenant)
    await db.execute("UPDATE live_jobs SET duty = $2 WHERE job_id = $1", claim.job_id, duty.value)
    await late(db, claim.job_id)
    finding = (await found_of(db))[f"stuck_{duty}"]
    assert (finding.severity, finding.count) == (Severity.CRITICAL, 1)
    assert "1 job" in finding.words
    assert f"stuck_{duty}" in await found_of(db, tenant)
    assert await found_of(db, theirs) == {}


async def test_counts_end_and_say_so(db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("findings", "jobs", "deliveries"):
        monkeypatch.setattr(f"service.condition.{module}.MOST_COUNTED", 2)
    await at_work(db, *ALIVE)
    for _ in range(5):
        await late(db, await making.queued(db, tenant))
    finding = (await found_of(db))["stuck_submit"]
    assert (finding.count, finding.count_is_exact) == (2, False)
    assert finding.words.startswith("More than 2 jobs")


async def test_a_job_in_doubt_is_told(context: Context, tenant: UUID, theirs: UUID) -> None:
    await at_work(context.db, *ALIVE)
    claim = await making.claimed(context.db, tenant)
    await store.record_answers(context.db, [making.ambiguous(claim)])
    finding = (await found_of(context.db))["in_doubt"]
    assert (finding.severity, finding.count, finding.count_is_exact) == (Severity.NOTICE, 1, True)
    assert "in_doubt" in await found_of(context.db, tenant)
    assert await found_of(context.db, theirs) == {}


async def end_by(db: Database, tenant: UUID, source: str, number: int) -> None:
    from service.catalog.base import Lifted
    from service.jobs import endings

    for _ in range(number):
        claim = await making.submitted(db, tenant)
        said = making.heard(source=source)
        assert await endings.settle(db, claim.job_id, claim.attempt, making.completed(), said, source, Lifted())


async def test_ends_that_no_webhook_told_are_told(db: Database, tenant: UUID, theirs: UUID) -> None:
    await at_work(db, *ALIVE)
    await end_by(db, tenant, "result", 2)
    assert await found_of(db) == {}
    await end_by(db, tenant, "result", 1)
    finding = (await found_of(db))["overdue_webhooks"]
    assert (finding.severity, finding.count) == (Severity.CRITICAL, 3)
    assert finding.words.startswith("None of the newest jobs")
    assert URL in finding.advice
    await end_by(db, tenant, "webhook", 2)
    finding = (await found_of(db, tenant))["overdue_webhooks"]
    assert finding.severity is Severity.WARNING
    assert finding.words.startswith("2 of 5 of the newest jobs")
    assert await found_of(db, theirs) == {}


async def test_models_of_which_half_the_jobs_fail_are_told(db: Database, tenant: UUID, theirs: UUID) -> None:
    await at_work(db, *ALIVE)
    for _ in range(4):
        await making.ended(db, tenant, making.failed())
    assert await found_of(db) == {}
    await making.ended(db, tenant, making.failed())
    finding = (await found_of(db))["failing_model"]
    assert (finding.severity, finding.count) == (Severity.WARNING, 5)
    assert finding.words.startswith(f"5 of the last 5 jobs of {making.MODEL} failed")
    assert finding.filter == {"status": "failed", "model": making.MODEL}
    for _ in range(5):
        await making.ended(db, tenant)
    assert (await found_of(db, tenant))["failing_model"].words.startswith("5 of the last 10 jobs")
    assert await found_of(db, theirs) == {}
    await making.ended(db, tenant)
    assert await found_of(db) == {}


async def test_jobs_that_the_provider_has_for_long_are_told(db: Database, tenant: UUID, theirs: UUID) -> None:
    await at_work(db, *ALIVE)
    claim = await making.submitted(db, tenant)
    assert await found_of(db) == {}
    await db.execute("UPDATE attempts SET answered_at = now() - interval '1 hour' WHERE job_id = $1", claim.job_id)
    assert (await found_of(db))["long_runs"].count == 1
    assert "long_runs" in await found_of(db, tenant)
    assert await found_of(db, theirs) == {}


async def test_jobs_that_wait_for_a_gpu_worker_are_not_with_the_provider(
    db: Database, tenant: UUID, theirs: UUID
) -> None:
    await at_work(db, *ALIVE)
    await making.queued(db, tenant, provider="gpu")
    [claim] = await store.claim(db, 1, 20.0, "gpu")
    request_id = request_id_of(claim.job_id, claim.attempt)
    await store.record_answers(db, [making.accepted(claim, request_id)])
    await db.execute("UPDATE attempts SET answered_at = now() - interval '1 hour'")
    # That no worker is at work says it all.
    assert (await found_of(db)).keys() == {"no_gpu_worker"}
    await runs.hello(db, "w-1", "k-1", making.MODEL, "cuda:0", "busy")
    found = await found_of(db)
    assert found.keys() == {"long_waits"}
    assert found["long_waits"].words == "1 job has waited for a GPU worker for longer than 10 minutes."
    assert found["long_waits"].filter == {"status": "submitted", "provider": "gpu"}
    assert (await found_of(db, tenant)).keys() == {"long_waits"}
    assert await found_of(db, theirs) == {}
    assert isinstance(await runs.start(db, claim.job_id, 1, "gpu", "w-1", "k-1", request_id), runs.Started)
    found = await found_of(db)
    assert found.keys() == {"long_runs"}
    assert found["long_runs"].words == "The provider has 1 job for longer than 10 minutes."
    # What waits for another worker, after its first one crashed, is not among those that its filter shows.
    await db.execute("UPDATE runs SET heartbeat_at = now() - interval '1 hour'")
    assert await runs.crash(db, claim.job_id, 1)
    assert (await found_of(db)).keys() == {"long_runs"}


async def test_a_pause_is_told_and_what_waits_for_it_is_not_told_twice(
    db: Database, tenant: UUID, theirs: UUID
) -> None:
    await at_work(db, *ALIVE)
    await late(db, await making.queued(db, tenant))
    await pauses.pause(db, "fal", "User is locked. Reason: Exhausted balance.", 403)
    found = await found_of(db)
    assert found.keys() == {"paused_provider"}
    finding = found["paused_provider"]
    assert (finding.severity, finding.count) == (Severity.CRITICAL, 1)
    assert finding.words == "The provider fal gets no jobs, and 1 job waits: User is locked. Reason: Exhausted balance."
    # What the provider said of the account is none of a tenant's business.
    assert "balance" not in (await found_of(db, tenant))["paused_provider"].words
    assert (await found_of(db, theirs))["paused_provider"].count == 0
    await pauses.resume(db, "fal")
    await pauses.pause_by_hand(db, "fal", "Maintenance.")
    assert (await found_of(db))["paused_provider"].severity is Severity.WARNING


async def test_a_pause_of_one_provider_hides_nothing_of_another(db: Database, tenant: UUID) -> None:
    await at_work(db, *ALIVE)
    await pauses.pause(db, "fal", "No balance.", 403)
    await late(db, await making.queued(db, tenant))
    for _ in range(2):
        await late(db, await making.queued(db, tenant, provider="gpu", asked_provider="gpu"))
    found = await found_of(db)
    assert {kind: each.count for kind, each in found.items()} == {"paused_provider": 1, "stuck_submit": 2}


async def test_a_refused_webhook_is_counted_by_its_cause_and_believed_by_nobody(
    poster: Poster, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    claim = await making.submitted(context.db, tenant)
    path = (await context.sealer()).path(claim.job_id, claim.attempt, claim.model)

    async def refused(times: int) -> None:
        for _ in range(times):
            assert (await poster.http.post(path, content=b"{}")).status_code == 401

        async def counted() -> bool:
            rows = await context.db.fetch("SELECT times FROM refused_webhooks WHERE reason = 'headers'")
            return sum(row["times"] for row in rows) >= times

        await making.until(counted)

    # With the first of them comes what the API's process had counted in other tests.
    await refused(1)
    await context.db.execute("DELETE FROM refused_webhooks")
    await refused(3)
    assert await making.count(context.db, "refused_webhooks") <= 2
    await at_work(context.db, *ALIVE)
    finding = (await found_of(context.db))["refused_webhooks"]
    assert (finding.severity, finding.count) == (Severity.NOTICE, 3)
    assert await found_of(context.db, tenant) == {}


@pytest.mark.parametrize(
    ("reason", "severity"),
    [
        ("signature", Severity.WARNING),
        ("stale", Severity.WARNING),
        ("account", Severity.WARNING),
        ("keys_away", Severity.WARNING),
        ("address", Severity.NOTICE),
    ],
)
async def test_refusals_of_the_last_hour_are_told_and_older_ones_are_not(
    db: Database, reason: str, severity: Severity
) -> None:
    await at_work(db, *ALIVE)
    refusals = Refusals()
    for _ in range(1_000):
        refusals.count(reason)
    await refusals.flush(db)
    assert await making.count(db, "refused_webhooks") == 1
    finding = (await found_of(db))["refused_webhooks"]
    assert (finding.severity, finding.count, finding.words[:6]) == (severity, 1_000, "1,000 ")
    await db.execute("UPDATE refused_webhooks SET minute = minute - interval '61 minutes'")
    assert await found_of(db) == {}


async def test_what_was_refused_while_the_database_was_away_is_counted_later(
    addresses: Addresses, folder: Path
) -> None:
    wire, refusals = Wire(addresses.database, folder), Refusals()
    refusals.count("stale")
    async with open_database(wire.database_url, max_size=1) as db:
        with pytest.raises(DatabaseAway):
            await refusals.flush(db)
        refusals.count("stale")
        await wire.mend()
        await refusals.flush(db)
        row = await db.fetchrow("DELETE FROM refused_webhooks RETURNING times")
        assert row is not None
        assert row["times"] == 2
        await refusals.flush(db)
        assert await making.count(db, "refused_webhooks") == 0
    await wire.cut()


async def test_a_receiver_that_fails_is_told_to_its_tenant(
    context: Context, client: httpx.AsyncClient, tenant: UUID, theirs: UUID
) -> None:
    await at_work(context.db, *ALIVE)
    # Nothing listens there, and it is no address that may be called anyway.
    for _ in range(6):
        await making.ended(context.db, tenant, webhook_url="http://127.0.0.1:1/x")
    deliverer = Deliverer(context)
    for _ in range(6):
        await context.db.execute("UPDATE callbacks SET due_at = now() - interval '1 s' WHERE NOT leased")
        await deliverer.pump.drain()
    found = await found_of(context.db)
    assert found.keys() == {"failing_receiver"}
    await context.db.execute("UPDATE receivers SET failures = 1, open_until = now() + interval '1 minute'")
    assert " failed 1 time in a row; " in (await found_of(context.db))["failing_receiver"].words
    finding = found["failing_receiver"]
    assert finding.severity is Severity.WARNING
    assert finding.words.startswith("The receiver http://127.0.0.1:1 of ours failed ")
    assert finding.count == 6
    assert "of ours" not in (await found_of(context.db, tenant))["failing_receiver"].words
    assert await found_of(context.db, theirs) == {}


async def test_callbacks_that_nobody_sends_are_told(db: Database, tenant: UUID, theirs: UUID) -> None:
    await at_work(db, *ALIVE)
    await making.ended(db, tenant, webhook_url="https://hooks.example/x")
    assert await found_of(db) == {}
    await db.execute("UPDATE callbacks SET due_at = now() - interval '10 minutes'")
    finding = (await found_of(db))["late_callbacks"]
    assert (finding.severity, finding.count, finding.count_is_exact) == (Severity.CRITICAL, 1, True)
    assert "late_callbacks" in await found_of(db, tenant)
    assert await found_of(db, theirs) == {}


async def test_files_that_cannot_be_copied_are_told(context: Context, tenant: UUID, theirs: UUID) -> None:
    from service.artifacts import records
    from service.catalog.base import Lifted, LiftedFile
    from service.jobs import endings

    db = context.db
    await at_work(db, *ALIVE)
    claim = await making.submitted(db, tenant)
    lifted = Lifted(files=[LiftedFile("image", index, f"http://127.0.0.1:1/{index}.png") for index in range(2)])
    said = making.heard()
    await endings.settle(db, claim.job_id, claim.attempt, making.completed(), said, "webhook", lifted)
    assert await found_of(db) == {}
    for _ in range(3):
        await db.execute("UPDATE copies SET due_at = now() - interval '1 s'")
        for owed in await records.take_owed(db, 10, 30.0):
            await records.record_failure(db, owed, "HTTP 500", 60.0)
    finding = (await found_of(db))["uncopied_files"]
    assert (finding.severity, finding.count, finding.count_is_exact) == (Severity.WARNING, 2, True)
    await db.execute("UPDATE copies SET due_at = now() - interval '1 s'")
    for owed in await records.take_owed(db, 10, 30.0):
        await records.record_failure(db, owed, "HTTP 404; given up", None)
    found = await found_of(db)
    assert found.keys() == {"lost_files"}
    [ended] = await db.fetch("SELECT job_id, completed_at FROM outcomes")
    assert found["lost_files"].count == 2
    assert str(ended["job_id"]) in found["lost_files"].words
    assert f"copy-again --since {ended['completed_at']:%FT%TZ}`" in found["lost_files"].advice
    assert "lost_files" in await found_of(db, tenant)
    assert await found_of(db, theirs) == {}


async def test_an_action_that_is_held_up_is_told(
    client: httpx.AsyncClient, context: Context, tenant: UUID, theirs: UUID
) -> None:
    await at_work(context.db, *ALIVE)
    body = {"action": "retry", "filter": {"tag": "a"}}
    begun = (await client.post("/v1/bulk-actions", json=body, headers={"idempotency-key": "k"})).json()
    await bulk.release(context.db, UUID(begun["id"]), 30.0, "This question takes too long.")
    found = await found_of(context.db)
    assert found["held_up_action"].words.endswith("does not go on: This question takes too long.")
    assert "held_up_action" in await found_of(context.db, tenant)
    assert await found_of(context.db, theirs) == {}


async def test_a_service_without_workers_or_beat_is_told_so(db: Database, tenant: UUID) -> None:
    found = await found_of(db)
    assert {kind: each.severity for kind, each in found.items()} == {
        "no_worker": Severity.CRITICAL,
        "no_beat": Severity.CRITICAL,
    }
    assert found["no_worker"].since is None
    assert await found_of(db, tenant) == {}


async def test_what_has_not_begun_yet_in_a_new_installation_is_not_missed(db: Database) -> None:
    await at_work(db, "api")
    assert await found_of(db) == {}
    await db.execute("UPDATE processes SET started_at = now() - interval '1 minute'")
    assert (await found_of(db)).keys() == {"no_worker", "no_beat"}


async def test_a_process_that_is_seen_no_more_is_told_and_one_that_ended_is_not(db: Database) -> None:
    await at_work(db, *ALIVE, "worker")
    await db.execute("UPDATE processes SET started_at = now() - interval '1 hour'")
    assert await found_of(db) == {}
    await fall_silent(db, "worker")
    assert (await found_of(db)).keys() == {"lost_worker"}
    await db.execute("UPDATE processes SET ended_at = now() WHERE seen_at < now() - interval '1 minute'")
    assert await found_of(db) == {}


@pytest.mark.parametrize(("kind", "elsewhere"), [("worker", True), ("beat", False)])
async def test_a_process_that_another_began_after_is_no_loss(db: Database, kind: str, elsewhere: bool) -> None:
    """Nobody can say of beat that it ended in order; each start stands for one, on its machine but for beat."""
    await at_work(db, *ALIVE, kind)
    await db.execute("UPDATE processes SET started_at = now() - interval '1 hour'")
    await fall_silent(db, kind, 2)
    lost = {f"lost_{kind}", f"no_{kind}"}
    assert (await found_of(db)).keys() == lost
    await at_work(db, kind)
    await db.execute(
        "UPDATE processes SET host = 'elsewhere' WHERE kind = $1 AND started_at > now() - '1 min'::interval", kind
    )
    assert (await found_of(db)).keys() == {f"lost_{kind}"}
    assert await states(db, kind) == sorted(["working", "lost", "lost" if elsewhere else "replaced"])
    await db.execute("UPDATE processes SET host = 'here' WHERE kind = $1", kind)
    assert await states(db, kind) == sorted(["working", "lost", "replaced"])
    await at_work(db, kind)
    await db.execute("UPDATE processes SET host = 'here' WHERE kind = $1", kind)
    assert await found_of(db) == {}
    assert await states(db, kind) == sorted(["working", "working", "replaced", "replaced"])


async def fall_silent(db: Database, kind: str, many: int = 1) -> None:
    await db.execute(
        "UPDATE processes SET seen_at = now() - make_interval(secs => $1)"
        " WHERE id IN (SELECT id FROM processes WHERE kind = $2 LIMIT $3)",
        LOST_SECONDS + 1,
        kind,
        many,
    )


async def states(db: Database, kind: str) -> list[str]:
    return sorted(each.state for each in await shown(db) if each.kind == kind)


async def test_a_broker_that_is_away_is_told(context: Context) -> None:
    await at_work(context.db, *ALIVE)

    def fail(_: TaskName) -> None:
        raise ConnectionError("no broker there")

    nudger = Nudger(fail)
    assert not nudger.is_away
    nudger.nudge(TaskName.SUBMIT)
    nudger.close()
    assert nudger.is_away
    found = await found_of(context.db, broker_is_away=nudger.is_away)
    assert {kind: each.severity for kind, each in found.items()} == {"broker_away": Severity.CRITICAL}


async def test_a_transaction_that_is_left_open_is_told(
    db: Database, addresses: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    monkeypatch.setattr("service.condition.parts.OLD_TRANSACTION", timedelta(seconds=0))
    await at_work(db, *ALIVE)
    connection = await asyncpg.connect(addresses.database)
    async with connection.transaction():
        await connection.execute("SELECT 1")
        found = await found_of(db)
        assert found.keys() == {"old_transaction"}
    await connection.close()


async def test_a_table_of_which_too_much_is_dead_is_told(db: Database, addresses: Addresses) -> None:
    await at_work(db, *ALIVE)
    other = await asyncpg.connect(addresses.database)
    try:
        await other.execute("CREATE TABLE strained (id int4) WITH (autovacuum_enabled = off)")
        await other.execute("INSERT INTO strained SELECT generate_series(1, $1::int4)", parts.DEAD_ROWS + 1)
        await other.execute("DELETE FROM strained")
        await other.fetchval("SELECT pg_stat_force_next_flush()")

        async def is_told() -> bool:
            return "dead_rows" in await found_of(db)

        await making.until(is_told)
        dead = (await found_of(db))["dead_rows"]
        assert (dead.severity, dead.count) == (Severity.WARNING, parts.DEAD_ROWS + 1)
        assert "Of the rows of strained, 200,001 are dead and 0 live." in dead.words
        await other.execute("VACUUM strained")
        await other.fetchval("SELECT pg_stat_force_next_flush()")

        async def is_over() -> bool:
            return not await is_told()

        await making.until(is_over)
    finally:
        await other.execute("DROP TABLE IF EXISTS strained")
        await other.close()


async def test_connections_that_are_nearly_used_up_are_told(db: Database, addresses: Addresses) -> None:
    await at_work(db, *ALIVE)
    async with AsyncExitStack() as stack:
        while "connections" not in (found := await found_of(db)):
            others = [await asyncpg.connect(addresses.database) for _ in range(3)]
            for each in others:
                stack.push_async_callback(each.close)
        state = await database.server(db)
        assert found["connections"].severity is Severity.WARNING
        assert state.connections > 0.9 * state.most_connections
        assert f"of {state.most_connections} connections" in found["connections"].words

    async def is_over() -> bool:
        return "connections" not in await found_of(db)

    await making.until(is_over)


@pytest.fixture
def aged_server() -> Iterator[str]:
    """A PostgreSQL that has carried out transactions for years: its counter is set ahead, which takes no years."""
    data = Path(tempfile.mkdtemp(prefix="aged-"))
    data.chmod(0o711)  # PostgreSQL runs as another account when we are root, and has to get in.
    try:
        with supervised(DataDirectory(data)) as (_, prepare):
            upgrade(prepare().postgres())
        with supervised(DataDirectory(data)) as (_, prepare):
            servers = prepare()
            reset = postgres_programs(servers.place, servers.account) / "pg_resetwal"
            command = [reset, f"--next-transaction-id={AGE}", servers.place / "postgres"]
            subprocess.run(command, cwd="/", env=ENVIRONMENT, check=True, **servers.account.credentials)
            # Else PostgreSQL would mend it before anybody could look.
            yield servers.postgres({"autovacuum_freeze_max_age": "2000000000"})
    finally:
        shutil.rmtree(data)


async def test_rows_that_have_to_be_frozen_are_told(aged_server: str) -> None:
    async with open_database(aged_server, max_size=2) as db:
        around = Surroundings(db, None, URL)
        [found] = await parts.database_strain(around)
        assert (found.kind, found.severity) == ("wraparound", Severity.CRITICAL)
        await db.execute("VACUUM (FREEZE)")
        assert await parts.database_strain(around) == []


async def test_the_worst_comes_first(db: Database, tenant: UUID) -> None:
    await at_work(db, "beat")
    await db.execute("UPDATE processes SET started_at = now() - interval '1 minute'")
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.ambiguous(claim)])
    await pauses.pause_by_hand(db, "fal", "Maintenance.")
    kinds = [each.kind for each in (await condition_of(Surroundings(db, None, URL))).findings]
    assert kinds == ["no_worker", "paused_provider", "in_doubt"]


async def test_a_check_that_fails_or_hangs_is_unknown_and_keeps_no_other_back(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(around: Surroundings) -> list[Finding]:
        raise RuntimeError("a bug")

    async def hangs(around: Surroundings) -> list[Finding]:
        await around.db.fetch("SELECT pg_sleep(20)")
        return []

    async def finds(around: Surroundings) -> list[Finding]:
        return [Finding("found", Severity.NOTICE, "Found.", "Nothing.")]

    monkeypatch.setattr(findings, "CHECK_SECONDS", 0.2)
    condition: Condition = await look(Surroundings(db, None, URL), {"a": fails, "b": hangs, "c": finds})
    assert ([each.kind for each in condition.findings], condition.unknown) == (["found"], ["a", "b"])
    assert not condition.is_known


async def test_without_a_database_all_is_unknown_and_nothing_is_well(addresses: Addresses, folder: Path) -> None:
    wire = Wire(addresses.database, folder)
    async with open_database(wire.database_url, max_size=1) as db:
        condition = await condition_of(Surroundings(db, None, URL))
    assert set(condition.unknown) == CHECKS.keys() - {"broker"}


async def test_a_worker_writes_what_it_has_done(context: Context, tenant: UUID, provider: Provider) -> None:
    context = replace(context, progress=Progress())
    stamper = Stamper(context.db, "worker", context.progress)
    await stamper.stamp()
    [process] = await seen(context.db)
    assert process.counts == {"submitted": 0, "settled": 0, "copied": 0, "delivered": 0}
    assert (process.state, process.progressed_at, process.pid) == ("working", None, os.getpid())
    await making.queued(context.db, tenant)
    await Submitter(context).drain()
    assert not stamper.is_due
    await stamper.stamp()
    [process] = await seen(context.db)
    assert process.counts["submitted"] == 1
    assert process.progressed_at is not None
    before = process.progressed_at
    await stamper.stamp()
    [process] = await seen(context.db)
    assert process.progressed_at == before
    context.progress.add("copied")
    await stamper.end()
    [process] = await seen(context.db)
    assert (process.state, stamper.is_due, process.counts["copied"]) == ("ended", False, 1)


async def test_a_beat_is_seen_by_the_worker_that_hears_of_it(context: Context) -> None:
    stamper = Stamper(context.db, "worker", context.progress)
    beat = from_header(as_header())
    assert beat is not None
    stamper.heard(beat)
    await stamper.stamp()
    [process] = await seen(context.db, "beat")
    assert process.counts == {}
    assert (process.host, process.pid) == (beat.host, beat.pid)


@pytest.mark.parametrize(
    "header",
    [
        None,
        7,
        "",
        "{}",
        "nonsense",
        '{"id": "x"}',
        as_header().replace('"pid":', '"pid":-'),
        as_header().replace('"pid":', '"pid":9999999999'),
        f'{{"id":"{uuid4()}","version":"1","host":"h","pid":1,"started_at":"2026-01-01T00:00:00"}}',
        "\ud800",
    ],
    ids=["none", "number", "empty", "object", "text", "no ID", "below zero", "too large", "no zone", "surrogate"],
)
def test_what_is_no_process_is_nobody(header: object) -> None:
    assert from_header(header) is None


async def test_processes_that_are_long_gone_are_forgotten(db: Database) -> None:
    await at_work(db, *ALIVE)
    await db.execute("UPDATE processes SET seen_at = now() - interval '2 days' WHERE kind = 'beat'")
    await tidy(db)
    assert (len(await seen(db, "worker")), await seen(db, "beat")) == (1, [])


@pytest.fixture
async def admin(make_client: MakeClient) -> httpx.AsyncClient:
    return await make_client("ours", ("admin",))


async def test_the_api_tells_administrators_everything(
    admin: httpx.AsyncClient, stranger: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    await at_work(context.db, "api", *ALIVE)
    await late(context.db, await making.queued(context.db, tenant))
    condition = (await admin.get("/v1/condition")).json()
    assert condition["unknown"] == []
    assert [each["kind"] for each in condition["findings"]] == ["stuck_submit"]
    listed = (await admin.get("/v1/processes")).json()["processes"]
    assert {each["kind"] for each in listed} >= {"api", *ALIVE}
    database = (await admin.get("/v1/database")).json()
    assert {"jobs", "outcomes"} <= {table["name"] for table in database["tables"]}
    assert database["schema"]
    assert all(table["total_bytes"] >= table["index_bytes"] for table in database["tables"])


@pytest.mark.parametrize("scopes", [("read",), ("metrics",), ("submit",)])
async def test_a_tenant_is_told_of_its_own_jobs_and_of_no_machine(
    make_client: MakeClient, context: Context, tenant: UUID, scopes: tuple[str, ...]
) -> None:
    await late(context.db, await making.queued(context.db, tenant))
    await late(context.db, await making.queued(context.db, await making.make_tenant(context.db, "theirs")))
    client = await make_client("ours", scopes)
    for path in ("/v1/processes", "/v1/database"):
        assert is_problem(await client.get(path), 403)
    answer = await client.get("/v1/condition")
    if scopes == ("submit",):
        assert is_problem(answer, 403)
    else:
        assert [(each["kind"], each["count"]) for each in answer.json()["findings"]] == [("stuck_submit", 1)]


def test_a_process_is_lost_only_after_several_stamps_are_missing() -> None:
    assert LOST_SECONDS > 3 * STAMP_SECONDS
