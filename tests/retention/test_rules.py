"""A rule removes what is old enough of its own jobs, once, and waits for those that still need it."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from click.testing import CliRunner
from uuid_utils.compat import uuid7

from service.artifacts.filing import file
from service.artifacts.records import Measured
from service.condition.findings import Surroundings
from service.condition.removals import postponed_removals
from service.context import Context
from service.db import SESSION, Database, open_database
from service.retention import removing, rules
from service.retention.parts import Keep, Part
from service.retention.rules import EVERY_MODEL, Batch, carry_out, next_batch
from service.retention.sweeping import Remover
from service.settings import Settings
from service.stats.counting import TURN as COUNTING
from tests import making

OTHER = "fal-ai/mini-cpm"
HOUR = 3_600.0


async def old(db: Database, tenant: UUID, **changes: object) -> UUID:
    """A job that ended two hours ago."""
    claim = await making.ended(db, tenant, **changes)
    await age(db, claim.job_id)
    return claim.job_id


async def age(db: Database, job_id: UUID) -> None:
    await db.execute("ALTER TABLE outcomes DISABLE TRIGGER outcomes_are_final")
    await db.execute("UPDATE outcomes SET completed_at = now() - interval '2 hours' WHERE job_id = $1", job_id)
    await db.execute("ALTER TABLE outcomes ENABLE TRIGGER outcomes_are_final")


async def have_results(db: Database) -> set[UUID]:
    return {row["job_id"] for row in await db.fetch("SELECT job_id FROM results")}


async def carry_out_all(db: Database) -> int:
    batches = 0
    for each in await rules.every_rule(db):
        while (batch := await next_batch(db, each)) is not None:
            await carry_out(db, batch)
            batches += 1
    return batches


async def only_batch(db: Database) -> Batch:
    [each] = await rules.every_rule(db)
    batch = await next_batch(db, each)
    assert batch is not None
    return batch


async def rule(
    db: Database, model: str = EVERY_MODEL, part: Part = Part.RESULT, keep: Keep = Keep.NOTHING, after: float = HOUR
) -> None:
    assert await rules.set_rule(db, "ours", model, part, after, keep)


async def test_what_is_old_enough_goes_and_nothing_else(db: Database, tenant: UUID) -> None:
    theirs = await making.make_tenant(db, "theirs")
    strangers = await old(db, theirs)
    olds = [await old(db, tenant) for _ in range(3)]
    young = (await making.ended(db, tenant)).job_id
    await rule(db)
    assert await carry_out_all(db) == 1
    assert await have_results(db) == {young, strangers}
    assert await carry_out_all(db) == 0
    await age(db, young)
    await carry_out_all(db)
    assert await have_results(db) == {strangers}
    assert len(olds) == 3


async def test_more_than_one_batch(context: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    db = context.db
    monkeypatch.setattr(rules, "AT_A_TIME", 2)
    for _ in range(5):
        await old(db, tenant)
    await rule(db)
    await Remover(context).pump.drain()
    assert await have_results(db) == set()


async def test_a_rule_for_one_model_takes_the_place_of_that_for_all(db: Database, tenant: UUID) -> None:
    here, there = await old(db, tenant), await old(db, tenant, model=OTHER)
    await rule(db)
    await rule(db, OTHER, keep=Keep.ALL)
    await carry_out_all(db)
    assert await have_results(db) == {there}
    assert await rules.remove_rule(db, "ours", OTHER, Part.RESULT)
    await carry_out_all(db)
    assert await have_results(db) == set()
    assert here != there


async def test_a_rule_of_one_part_leaves_the_others(db: Database, tenant: UUID) -> None:
    job_id = await old(db, tenant)
    await rule(db, part=Part.EVIDENCE)
    await carry_out_all(db)
    assert await have_results(db) == {job_id}
    assert await making.count(db, "reports") == 0


@pytest.mark.parametrize("waits_for", ["a job", "a callback"])
async def test_it_waits_for_what_needs_the_part(db: Database, tenant: UUID, waits_for: str) -> None:
    first = await old(db, tenant)
    if waits_for == "a job":
        claim = await making.submitted(db, tenant)
    else:
        claim = await making.ended(db, tenant, webhook_url="https://hooks.example/x")
        await age(db, claim.job_id)
    last = await old(db, tenant)
    await rule(db)
    await carry_out_all(db)
    assert first not in await have_results(db)
    assert last in await have_results(db)
    if waits_for == "a job":
        assert await making.settle(db, claim)
        await age(db, claim.job_id)
    else:
        await db.execute("UPDATE callbacks SET state = 'delivered', ended_at = now()")
    await carry_out_all(db)
    assert await have_results(db) == set()


async def test_a_hold_stops_it_and_its_end_lets_it_come_back(db: Database, tenant: UUID) -> None:
    jobs = [await old(db, tenant) for _ in range(3)]
    await removing.hold(db, jobs[1])
    await rule(db)
    await carry_out_all(db)
    assert await have_results(db) == {jobs[1]}
    await removing.release(db, jobs[1])
    await carry_out_all(db)
    assert await have_results(db) == set()


async def test_a_hold_that_ends_before_the_first_batch_changes_nothing(db: Database, tenant: UUID) -> None:
    jobs = [await old(db, tenant) for _ in range(3)]
    await removing.hold(db, jobs[2])
    await rule(db)
    await removing.release(db, jobs[2])
    await carry_out_all(db)
    assert await have_results(db) == set()


async def test_a_hold_that_ends_while_its_batch_is_carried_out(db: Database, tenant: UUID) -> None:
    jobs = [await old(db, tenant) for _ in range(3)]
    await removing.hold(db, jobs[1])
    await rule(db)
    batch = await only_batch(db)
    await removing.remove(db, batch.due, Part.RESULT, Keep.NOTHING)
    await removing.release(db, jobs[1])
    await carry_out(db, replace(batch, due=[]))
    await carry_out_all(db)
    assert await have_results(db) == set()


async def test_a_rule_that_changes_while_its_batch_is_carried_out_begins_anew(db: Database, tenant: UUID) -> None:
    await old(db, tenant)
    await rule(db, keep=Keep.ALL)
    batch = await only_batch(db)
    await rule(db, keep=Keep.NOTHING)
    await carry_out(db, batch)
    await carry_out_all(db)
    assert await have_results(db) == set()


async def test_a_changed_rule_begins_anew(db: Database, tenant: UUID) -> None:
    await old(db, tenant)
    await rule(db, keep=Keep.ALL)
    await carry_out_all(db)
    await rule(db, keep=Keep.HASH)
    await carry_out_all(db)
    [removed] = await db.fetch("SELECT part, sha256 FROM removals")
    assert removed["sha256"]


async def test_whole_jobs_go(db: Database, tenant: UUID) -> None:
    await old(db, tenant, tags=["a"])
    young = (await making.ended(db, tenant)).job_id
    await rule(db, part=Part.JOB)
    await carry_out_all(db)
    assert [row["id"] for row in await db.fetch("SELECT id FROM jobs")] == [young]
    assert await making.count(db, "job_marks") == 0


async def test_a_rule_that_was_changed_while_it_was_carried_out_stays_where_it_was_put(
    db: Database, tenant: UUID
) -> None:
    await old(db, tenant)
    await rule(db)
    batch = await only_batch(db)
    await db.execute("UPDATE retention_rules SET done_through = $1, version = version + 1", first := uuid7())
    await carry_out(db, batch)
    [row] = await rules.all_rules(db)
    assert row["done_through"] == first


@pytest.fixture
async def impatient(context: Context, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Context]:
    """Who finds a row locked is told so at once."""
    monkeypatch.setitem(SESSION, "lock_timeout", "100ms")
    async with open_database(context.settings.require_database_url()) as db:
        yield replace(context, db=db)


@asynccontextmanager
async def locked(db: Database, job_id: UUID) -> AsyncIterator[None]:
    async with db.transaction() as connection:
        await connection.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", job_id)
        yield


async def minutes_pass(db: Database) -> None:
    await db.execute(
        "UPDATE postponed_removals SET since = since - interval '9 minutes', tried_at = now() - interval '9 minutes'"
    )


async def told(db: Database, tenant_id: UUID | None) -> list[str]:
    return [finding.words for finding in await postponed_removals(Surroundings(db, tenant_id, ""))]


@pytest.mark.parametrize("place", range(5))
async def test_a_job_that_fails_keeps_no_other_from_it_and_is_not_forgotten(
    impatient: Context, tenant: UUID, place: int
) -> None:
    db, remover = impatient.db, Remover(impatient)
    jobs = [await old(db, tenant) for _ in range(5)]
    theirs = await making.make_tenant(db, "theirs")
    await old(db, theirs)
    await rule(db)
    assert await rules.set_rule(db, "theirs", EVERY_MODEL, Part.RESULT, HOUR, Keep.NOTHING)
    async with locked(db, jobs[place]):
        await remover.pump.drain()
        assert await have_results(db) == {jobs[place]}
        assert await told(db, None) == []
        await minutes_pass(db)
        await remover.pump.drain()
    assert await have_results(db) == {jobs[place]}
    [words] = await told(db, None)
    assert words.startswith("Rules of retention could not be carried out of 1 job, and it is tried again")
    assert "lock timeout" in words
    assert "lock timeout" not in (await told(db, tenant))[0]
    assert await told(db, theirs) == []
    await minutes_pass(db)
    await remover.pump.drain()
    assert await have_results(db) == set()
    assert await making.count(db, "postponed_removals") == 0


async def test_files_are_deleted_while_a_rule_fails_and_another_waits_for_who_counts(
    impatient: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removing, "TURN_SECONDS", 0.1)
    db = impatient.db
    job_id = await old(db, tenant)
    await rule(db, part=Part.JOB)
    async with impatient.storage.spool(once(b"a mask"), 1_000) as spooled:
        measured = Measured(spooled.sha256, spooled.size, "image/png")
        kept = await file(db, impatient.storage, spooled, measured)
    await db.execute("UPDATE unreferenced_blobs SET since = now() - interval '2 hours'")
    async with locked(db, job_id), db.in_turn(COUNTING):
        await rule(db, part=Part.EVIDENCE, keep=Keep.HASH)
        await Remover(impatient).pump.drain()
    assert not await impatient.storage.exists(kept.sha256)
    assert await have_results(db) == {job_id}
    assert [row["part"] for row in await db.fetch("SELECT part FROM postponed_removals")] == [Part.EVIDENCE]


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_each_rule_has_its_turn(context: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    db = context.db
    monkeypatch.setattr(rules, "AT_A_TIME", 1)
    theirs = await making.make_tenant(db, "theirs")
    owners = {await old(db, owner): owner for owner in (tenant, tenant, tenant, theirs, theirs, theirs)}
    for name in ("ours", "theirs"):
        assert await rules.set_rule(db, name, EVERY_MODEL, Part.RESULT, HOUR, Keep.HASH)
    await Remover(context).pump.drain()
    order = [owners[row["job_id"]] for row in await db.fetch("SELECT job_id FROM removals ORDER BY at")]
    assert len(order) == 6
    assert all(one != other for one, other in itertools.pairwise(order))


async def test_what_was_needed_once_more_when_its_turn_came_is_removed_later(context: Context, tenant: UUID) -> None:
    db = context.db
    job_id = await old(db, tenant, webhook_url="https://hooks.example/x")
    await db.execute("UPDATE callbacks SET state = 'delivered', ended_at = now()")
    await rule(db)
    batch = await only_batch(db)
    await db.execute("UPDATE callbacks SET state = 'pending', ended_at = NULL")
    await carry_out(db, batch)
    await minutes_pass(db)
    assert await have_results(db) == {job_id}
    assert await told(db, None) == []
    await db.execute("UPDATE callbacks SET state = 'delivered', ended_at = now()")
    await Remover(context).pump.drain()
    assert await have_results(db) == set()


async def test_a_hold_of_what_is_postponed_lets_the_rule_come_back_when_it_ends(
    impatient: Context, tenant: UUID
) -> None:
    db, remover = impatient.db, Remover(impatient)
    job_id = await old(db, tenant)
    await rule(db)
    async with locked(db, job_id):
        await remover.pump.drain()
    await removing.hold(db, job_id)
    await minutes_pass(db)
    await remover.pump.drain()
    assert await making.count(db, "postponed_removals") == 0
    assert await have_results(db) == {job_id}
    await removing.release(db, job_id)
    await remover.pump.drain()
    assert await have_results(db) == set()


async def test_a_rule_that_takes_longer_now_leaves_what_it_postponed(impatient: Context, tenant: UUID) -> None:
    db, remover = impatient.db, Remover(impatient)
    job_id = await old(db, tenant)
    await rule(db)
    async with locked(db, job_id):
        await remover.pump.drain()
    await rule(db, after=24 * HOUR)
    await minutes_pass(db)
    await remover.pump.drain()
    assert await have_results(db) == {job_id}
    await rule(db)
    await remover.pump.drain()
    assert await have_results(db) == set()


async def test_a_deleted_job_and_a_removed_rule_leave_nothing_postponed(impatient: Context, tenant: UUID) -> None:
    db = impatient.db
    jobs = [await old(db, tenant) for _ in range(2)]
    await rule(db)
    async with locked(db, jobs[0]), locked(db, jobs[1]):
        await Remover(impatient).pump.drain()
    assert await making.count(db, "postponed_removals") == 2
    await removing.remove(db, jobs[:1], Part.JOB, Keep.NOTHING)
    assert await making.count(db, "postponed_removals") == 1
    assert await rules.remove_rule(db, "ours", EVERY_MODEL, Part.RESULT)
    assert await making.count(db, "postponed_removals") == 0


def test_shorter_than_callbacks_are_tried_is_told() -> None:
    def warned(part: Part, keep: Keep, days: float) -> bool:
        after = timedelta(days=days).total_seconds()
        return rules.Rule(uuid7(), EVERY_MODEL, part.value, after, keep.value).warning is not None

    assert warned(Part.RESULT, Keep.NOTHING, 4.9)
    assert not warned(Part.RESULT, Keep.NOTHING, 5)
    assert not warned(Part.RESULT, Keep.ALL, 1)
    assert not warned(Part.EVIDENCE, Keep.NOTHING, 1)


def run(words: Sequence[str], url: str) -> tuple[int, str]:
    from service.cli import main

    done = CliRunner().invoke(main, ["retention", *words], env={"ROUNDTRIP_DATABASE_URL": url})
    return done.exit_code, done.output


async def test_the_commands(db: Database, tenant: UUID, settings: Settings) -> None:

    async def call(*words: str) -> tuple[int, str]:
        return await asyncio.to_thread(run, words, settings.require_database_url())

    assert await call("list") == (0, "Everything is kept for good.\n")
    code, said = await call("set", "ours", "--part", "result", "--days", "2", "--keep", "hash")
    assert code == 0
    assert "2 days after their end" in said
    assert "Callbacks are tried for up to 5 days" in said
    assert (
        "Note: no model nope is known"
        in (await call("set", "ours", "--part", "files", "--days", "1", "--model", "nope"))[1]
    )
    assert (await call("remove", "ours", "--part", "files", "--model", "nope"))[0] == 0
    assert (await call("set", "nobody", "--part", "result", "--days", "2"))[0] == 1
    assert (await call("set", "ours", "--part", "job", "--days", "2", "--keep", "hash"))[0] == 2
    for days in ("0", "-1", "40000", "nan"):
        code, said = await call("set", "ours", "--part", "result", "--days", days)
        assert code == 2
        assert "Write 0.042 (an hour) to 36,500; --keep all keeps a part for good" in said
    code, said = await call("list")
    assert "hash" in said
    assert "2 days" in said
    assert (await call("remove", "ours", "--part", "result"))[0] == 0
    assert (await call("remove", "ours", "--part", "result"))[0] == 1
