"""The migrations lead to the schema that the code is written for, there and back, and from many starts at once."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from random import Random
from uuid import UUID

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from service.db import one_connection, open_database, sqlalchemy_engine
from service.migrate import configuration, head, upgrade
from service.models import metadata
from service.stats.counting import count_all
from service.stats.measures import ALL_TENANTS
from tests import making
from tests.making import make_tenant
from tests.servers import Addresses, own_database
from tests.stats import drawn

COLUMNS = """
SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity, character_maximum_length
FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
"""
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(pg_constraint.oid)
FROM pg_constraint JOIN pg_namespace ON pg_namespace.oid = connamespace
WHERE nspname = 'public' AND conrelid::regclass::text <> 'alembic_version'
"""
INDEXES = "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
STORAGE = """
SELECT relname, relpersistence::text, (SELECT array_agg(each ORDER BY each) FROM unnest(reloptions) AS each) AS options
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
"""
LEFT = """
SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i', 'S', 'v')
UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""


@pytest.fixture
def empty(addresses: Addresses) -> Iterator[str]:
    with own_database(addresses.database, "empty") as url:
        yield url


@pytest.fixture
def other(addresses: Addresses) -> Iterator[str]:
    with own_database(addresses.database, "other") as url:
        yield url


async def facts(url: str, *questions: str) -> list[set[tuple[object, ...]]]:
    async with one_connection(url) as connection:
        return [{plain(row) for row in await connection.fetch(question)} for question in questions]


def plain(row: asyncpg.Record) -> tuple[object, ...]:
    return tuple(tuple(value) if isinstance(value, list) else value for value in row)


async def test_the_migrated_schema_is_the_one_of_the_models(addresses: Addresses) -> None:
    def differences(connection: Connection) -> list[object]:
        compared = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(compared, metadata))

    engine = sqlalchemy_engine(addresses.database)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_what_alembic_does_not_compare_is_the_same_too(addresses: Addresses, empty: str) -> None:
    engine = sqlalchemy_engine(empty)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    questions = (COLUMNS, CONSTRAINTS, INDEXES, STORAGE)
    for migrated, made in zip(await facts(addresses.database, *questions), await facts(empty, *questions), strict=True):
        assert migrated == made


async def test_no_table_of_a_new_installation_is_taken_to_stay_empty(empty: str) -> None:
    """A session keeps its plans, and one for a table of which it is known that it is empty walks the whole table."""
    assert in_a_process("import sys; upgrade(sys.argv[1])", empty).wait() == 0
    [known] = await facts(
        empty,
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND reltuples >= 0",
    )
    assert known == set()


def test_there_is_one_way_to_one_head() -> None:
    script = ScriptDirectory.from_config(configuration())
    assert script.get_heads() == [head()]
    assert all(not isinstance(each.down_revision, tuple) for each in script.walk_revisions())


def in_a_process(code: str, url: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", f"from service.migrate import *; {code}", url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


async def test_the_way_back_leaves_nothing_and_can_be_gone_again(empty: str, other: str) -> None:
    script = "import sys; url = sys.argv[1]; upgrade(url); downgrade(url, 'base')"
    there_and_back = [in_a_process(script, empty), in_a_process(f"{script}; upgrade(url)", other)]
    assert [(each.communicate()[0], each.returncode)[1] for each in there_and_back] == [0, 0]
    [left] = await facts(empty, LEFT)
    assert left == {("alembic_version",), ("alembic_version_pkc",)}
    [again] = await facts(other, "SELECT version_num FROM alembic_version")
    assert again == {(head(),)}


async def test_many_starts_at_once_migrate_once(empty: str) -> None:
    starts = [in_a_process("import sys; upgrade(sys.argv[1])", empty) for _ in range(4)]
    assert [(each.communicate()[0], each.returncode) for each in starts] == [("", 0)] * 4
    [versions] = await facts(empty, "SELECT version_num FROM alembic_version")
    assert versions == {(head(),)}


def test_a_schema_that_is_current_is_left_as_it_is(addresses: Addresses) -> None:
    upgrade(addresses.database)


async def test_jobs_that_ended_before_there_were_callbacks_can_be_told_of(empty: str) -> None:
    downgraded = in_a_process("import sys; upgrade(sys.argv[1]); downgrade(sys.argv[1], '0002')", empty)
    assert downgraded.wait() == 0, downgraded.communicate()
    async with one_connection(empty) as connection:
        for number, address in ((1, "https://Hooks.example:8443/x?y"), (2, None)):
            await connection.execute(OLD_JOB, UUID(int=number), address)
    assert in_a_process("import sys; upgrade(sys.argv[1])", empty).wait() == 0
    [callbacks] = await facts(empty, "SELECT job_id, receiver, state, ended_at IS NOT NULL FROM callbacks")
    assert callbacks == {(UUID(int=1), "https://hooks.example:8443", "given_up", True)}


async def test_billable_units_are_found_in_the_answers_that_ended_jobs(empty: str) -> None:
    downgraded = in_a_process("import sys; upgrade(sys.argv[1]); downgrade(sys.argv[1], '0002')", empty)
    assert downgraded.wait() == 0, downgraded.communicate()
    async with one_connection(empty) as connection:
        for number, units, verdict in ((1, "2.5", "applied"), (2, "2.5", "late"), (3, "many", "applied")):
            await connection.execute(OLD_JOB, UUID(int=number), None)
            await connection.execute(OLD_REPORT, UUID(int=number), units, verdict)
    assert in_a_process("import sys; upgrade(sys.argv[1])", empty).wait() == 0
    [known] = await facts(empty, "SELECT job_id, billable_units::text FROM outcomes")
    assert known == {(UUID(int=1), "2.5"), (UUID(int=2), None), (UUID(int=3), None)}
    # Their ends are as final as ever.
    async with one_connection(empty) as connection:
        with pytest.raises(asyncpg.RaiseError, match="is final"):
            await connection.execute("UPDATE outcomes SET billable_units = 7")


async def test_on_the_way_back_the_prices_of_all_providers_stay(empty: str) -> None:
    assert in_a_process("import sys; upgrade(sys.argv[1])", empty).wait() == 0
    async with one_connection(empty) as connection:
        for provider in ("*", "fal", "gpu"):
            await connection.execute(
                "INSERT INTO prices (model, provider, unit, amount, currency, since)"
                " VALUES ('m', $1, 'job', 1, 'USD', 'epoch')",
                provider,
            )
    there = in_a_process("import sys; url = sys.argv[1]; downgrade(url, '0011'); upgrade(url)", empty)
    assert there.wait() == 0, there.communicate()
    [left] = await facts(empty, "SELECT model, provider, unit FROM prices")
    assert left == {("m", "*", "job")}


async def test_tallies_of_all_together_are_made_of_those_of_each(empty: str) -> None:
    assert in_a_process("import sys; upgrade(sys.argv[1])", empty).wait() == 0
    question = "SELECT series.*, grain, start, n, sum, buckets, counts FROM tallies JOIN series ON id = series_id"
    async with open_database(empty) as db:
        tenants = [await make_tenant(db, name) for name in ("ours", "theirs")]
        await drawn.write(db, drawn.draw(Random(3), tenants, 500))
        await count_all(db)
    [counted] = await facts(empty, question)
    there = in_a_process("import sys; url = sys.argv[1]; downgrade(url, '0013'); upgrade(url)", empty)
    assert there.wait() == 0, there.communicate()
    [made] = await facts(empty, question)
    # But for the IDs of the series.
    assert {row[1:] for row in made} == {row[1:] for row in counted}
    assert {(row[1] == ALL_TENANTS, row[5] == "") for row in made} == {*product((True, False), repeat=2)}


async def test_inputs_move_and_come_back(empty: str) -> None:
    downgraded = in_a_process("import sys; upgrade(sys.argv[1]); downgrade(sys.argv[1], '0014')", empty)
    assert downgraded.wait() == 0, downgraded.communicate()
    kept, removed = UUID(int=1), UUID(int=2)
    async with one_connection(empty) as connection:
        await connection.execute("INSERT INTO tenants (id, name) VALUES ($1, 'ours')", kept)
        for job_id, text in ((kept, '{"prompt": "é"}'), (removed, "")):
            await connection.execute(
                "INSERT INTO jobs (id, tenant_id, model, input, provider, priority, metadata, tags)"
                " VALUES ($1, $2, 'm', $3, 'fal', 'normal', '{}', '{}')",
                job_id,
                kept,
                text,
            )
    assert in_a_process("import sys; upgrade(sys.argv[1])", empty).wait() == 0
    [moved] = await facts(empty, "SELECT job_id, body FROM inputs")
    assert moved == {(kept, '{"prompt": "é"}')}
    # What is removed from there is nowhere else.
    async with one_connection(empty) as connection:
        await connection.execute("CHECKPOINT")
        written = "SELECT position('prompt'::bytea IN pg_read_binary_file(pg_relation_filepath($1::regclass)))"
        assert await connection.fetchval(written, "inputs") > 0
        assert await connection.fetchval(written, "jobs") == 0
    there = in_a_process("import sys; downgrade(sys.argv[1], '0014')", empty)
    assert there.wait() == 0, there.communicate()
    [back] = await facts(empty, "SELECT id, input FROM jobs")
    assert back == {(kept, '{"prompt": "é"}'), (removed, "")}


async def test_copies_that_are_owed_keep_the_end_of_their_link(empty: str) -> None:
    downgraded = in_a_process("import sys; upgrade(sys.argv[1]); downgrade(sys.argv[1], '0015')", empty)
    assert downgraded.wait() == 0, downgraded.communicate()
    job_id, known = UUID(int=1), datetime(2026, 11, 30, 12, tzinfo=UTC)
    async with one_connection(empty) as connection:
        await connection.execute("INSERT INTO tenants (id, name) VALUES ($1, 'ours')", job_id)
        await connection.execute(JOB_OF_0015, job_id)
        for index, ends in enumerate((known, None)):
            await connection.execute(
                "INSERT INTO artifacts (job_id, tenant_id, kind, index, source_url, source_expires_at)"
                " VALUES ($1, $1, 'mask', $2, '', $3)",
                job_id,
                index,
                ends,
            )
            await connection.execute("INSERT INTO copies (job_id, kind, index) VALUES ($1, 'mask', $2)", job_id, index)
    assert in_a_process("import sys; upgrade(sys.argv[1])", empty).wait() == 0
    [ends] = await facts(
        empty, "SELECT index, expires_at, expires_at - completed_at FROM copies JOIN outcomes USING (job_id)"
    )
    assert {(index, end) for index, end, _ in ends if index == 0} == {(0, known)}
    assert {(index, after) for index, _, after in ends if index == 1} == {(1, timedelta(hours=1))}


async def test_reports_are_kept_and_inputs_read_while_an_index_of_reports_is_built(empty: str) -> None:
    there_and_back = in_a_process("import sys; upgrade(sys.argv[1]); downgrade(sys.argv[1], '0016')", empty)
    assert there_and_back.wait() == 0, there_and_back.communicate()
    building = "SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'"
    async with one_connection(empty) as writer, one_connection(empty) as other:
        async with writer.transaction():
            await writer.execute(REPORT, UUID(int=1))  # What the index has to wait for.
            upgrading = in_a_process("import sys; upgrade(sys.argv[1])", empty)

            async def waits() -> bool:
                return bool(await other.fetch(building))

            await making.until(waits)
            await other.execute("SET lock_timeout = '1s'")
            await other.execute(REPORT, UUID(int=2))
            await other.execute("SELECT FROM inputs")
        assert upgrading.wait() == 0, upgrading.communicate()
    [indexed, reports] = await facts(
        empty,
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_reports_unknown'::regclass",
        "SELECT job_id FROM reports",
    )
    assert indexed == {(True,)}
    assert reports == {(UUID(int=1),), (UUID(int=2),)}


REPORT = """
INSERT INTO reports (job_id, attempt, source, received_at, http_status, headers, body, verdict)
VALUES ($1, 1, 'webhook', now(), 200, '{}', '', 'unknown')
"""

JOB_OF_0015 = """
WITH job AS (
    INSERT INTO jobs (id, tenant_id, model, provider, priority, metadata, tags)
    VALUES ($1, $1, 'm', 'fal', 'normal', '{}', '{}') RETURNING *
)
INSERT INTO outcomes (job_id, tenant_id, model, provider, created_at, received_at, completed_at, status, attempt,
                      source, http_status, usage, model_timings, total_seconds)
SELECT id, tenant_id, model, provider, now(), now(), now(), 'completed', 1, 'webhook', 200, '{}', '{}', 0 FROM job
"""

OLD_REPORT = """
INSERT INTO reports (job_id, attempt, source, received_at, http_status, headers, body, verdict)
SELECT $1::uuid, 1, 'result', now(), 200, jsonb_build_object('x-fal-billable-units', $2::text), '', $3::text
"""
OLD_JOB = """
WITH tenant AS (INSERT INTO tenants (id, name) VALUES ($1::uuid, $1::uuid::text) RETURNING id), job AS (
    INSERT INTO jobs (id, tenant_id, model, input, provider, priority, webhook_url, metadata, tags)
    SELECT $1::uuid, id, 'm', '{}', 'fal', 'normal', $2::text, '{}', '{}' FROM tenant RETURNING id, tenant_id
)
INSERT INTO outcomes (job_id, tenant_id, status, attempt, source, http_status, body, usage, model_timings, received_at,
                      completed_at)
SELECT id, tenant_id, 'completed', 1, 'webhook', 200, '{}', '{}', '{}', now(), now() FROM job
"""
