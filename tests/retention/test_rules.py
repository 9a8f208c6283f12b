"""A rule removes what is old enough of its own jobs, once, and waits for those that still need it."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest
from click.testing import CliRunner
from uuid_utils.compat import uuid7

from service.db import Database
from service.retention import removing, rules
from service.retention.parts import Keep, Part
from service.retention.rules import EVERY_MODEL, Batch, carry_out, next_batch
from service.settings import Settings
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
    while (batch := await next_batch(db)) is not None:
        await carry_out(db, batch)
        batches += 1
    return batches


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


async def test_more_than_one_batch(db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "AT_A_TIME", 2)
    for _ in range(5):
        await old(db, tenant)
    await rule(db)
    assert await carry_out_all(db) == 3
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
    batch = await next_batch(db)
    assert batch is not None
    await removing.remove(db, batch.due, Part.RESULT, Keep.NOTHING)
    await removing.release(db, jobs[1])
    await carry_out(db, Batch(batch.rule, [], batch.through))
    await carry_out_all(db)
    assert await have_results(db) == set()


async def test_a_rule_that_changes_while_its_batch_is_carried_out_begins_anew(db: Database, tenant: UUID) -> None:
    await old(db, tenant)
    await rule(db, keep=Keep.ALL)
    batch = await next_batch(db)
    assert batch is not None
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
    batch = await next_batch(db)
    assert batch is not None
    await db.execute("UPDATE retention_rules SET done_through = $1, version = version + 1", first := uuid7())
    await carry_out(db, batch)
    [row] = await rules.all_rules(db)
    assert row["done_through"] == first


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
