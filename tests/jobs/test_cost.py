"""What a job costs in statements and messages, counted, as ARCHITECTURE.md says it."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from service.artifacts import records as files
from service.callbacks.delivering import Deliverer
from service.context import Context
from service.db import Database, Row
from service.jobs import due, endings, operations, store
from service.jobs.submitting import SLOTS, Submitter
from service.queue import TaskName
from tests import making

Count = Callable[[], int]


class Counting(Database):
    """The same pool, and how many statements went through it."""

    statements = 0

    async def fetch(self, sql: str, *values: Any) -> list[Row]:
        self.statements += 1
        return await super().fetch(sql, *values)

    async def fetchrow(self, sql: str, *values: Any) -> Row | None:
        self.statements += 1
        return await super().fetchrow(sql, *values)

    async def fetchrow_holding(self, hold: str, sql: str, *values: Any) -> Row | None:
        self.statements += 2
        return await super().fetchrow_holding(hold, sql, *values)

    async def fetch_in_turn(self, turn: int, sql: str, *values: Any) -> list[Row]:
        self.statements += 1
        return await super().fetch_in_turn(turn, sql, *values)

    async def execute(self, sql: str, *values: Any) -> str:
        self.statements += 1
        return await super().execute(sql, *values)


@pytest.fixture
async def counted(context: Context) -> tuple[Context, Counting]:
    await context.sealer()  # Read once a process.
    db = Counting(context.db.pool)
    return replace(context, db=db), db


async def end_all(context: Context, jobs: list[UUID]) -> None:
    for job_id in jobs:
        said = making.heard()
        assert await operations.end(context, job_id, 1, making.MODEL, making.completed(), said) == "applied"


async def test_a_job_alone_costs_four_statements_and_one_message(
    counted: tuple[Context, Counting], tenant: UUID, nudges: list[TaskName]
) -> None:
    context, db = counted
    job = making.new_job(tenant)
    await operations.register(context, job)
    await Submitter(context).drain()
    await end_all(context, [job.id])
    context.nudger.close()
    assert (db.statements, nudges) == (4, [TaskName.SUBMIT])


# The keys that a statement finds rows by, in tables that grow with the jobs.
KEYS = {
    "jobs": {"id"},
    "inputs": {"job_id"},
    "live_jobs": {"job_id", "provider", "due_at"},
    "attempts": {"job_id", "provider_request_id"},
    "artifacts": {"job_id"},
}
MOVES = {
    "claim": store._CLAIM,
    "answers": store._RECORD_ANSWERS,
    "copies": files._TAKE,
    **{f"settle {number}": text for number, text in enumerate(endings._SETTLE_STATEMENTS.values())},
    **{f"settle thoroughly {number}": text for number, text in enumerate(endings._THOROUGH_STATEMENTS.values())},
}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


@pytest.mark.parametrize("name", MOVES)
async def test_a_plan_that_was_made_before_there_were_jobs_never_walks_all_of_them(context: Context, name: str) -> None:
    """A session keeps its plan, so what is cheap in an empty table has to be cheap in a full one."""
    statement = MOVES[name]
    async with context.db.transaction() as connection:
        # As in a new database: they hold nothing, and nothing is known of them.
        for table in KEYS:
            await connection.execute(f"CREATE TEMPORARY TABLE new_{table} (LIKE {table} INCLUDING ALL) ON COMMIT DROP")
            statement = re.sub(rf"\b{table}\b", f"new_{table}", statement)
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute("PREPARE asked AS " + statement)
        values = ", ".join(["NULL"] * max(map(int, re.findall(r"\$(\d+)", statement))))
        [row] = await connection.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE asked ({values})")
        await connection.execute("DEALLOCATE asked")
    scans = [
        node
        for node in nodes(json.loads(row[0])[0]["Plan"])
        if "Scan" in node["Node Type"] and node.get("Relation Name", "").removeprefix("new_") in KEYS
    ]
    assert scans
    for node in scans:
        found_by = set(re.findall(r"(\w+) (?:=|<=) ", node.get("Index Cond", node.get("Recheck Cond", ""))))
        assert found_by & KEYS[node["Relation Name"].removeprefix("new_")], node


async def test_many_jobs_share_their_claims_and_their_answers(counted: tuple[Context, Counting], tenant: UUID) -> None:
    context, db = counted
    jobs = [making.new_job(tenant) for _ in range(2 * SLOTS)]
    for job in jobs:
        await operations.register(context, job)
    registered = db.statements
    await Submitter(context).drain()
    submitted = db.statements - registered
    await end_all(context, [job.id for job in jobs])
    assert registered == db.statements - registered - submitted == len(jobs)
    # Three claims, the last of them empty; answers are written as they come, never one by one.
    assert 3 + 2 <= submitted < len(jobs)


async def test_a_callback_costs_no_statement_before_its_time(
    counted: tuple[Context, Counting], tenant: UUID, nudges: list[TaskName]
) -> None:
    context, db = counted
    job = making.new_job(tenant, webhook_url="https://hooks.example/x")
    await operations.register(context, job)
    await Submitter(context).drain()
    await end_all(context, [job.id])
    context.nudger.close()
    assert (db.statements, nudges) == (4, [TaskName.SUBMIT, TaskName.DELIVER])


@pytest.mark.parametrize("number", [1, 48])
async def test_callbacks_share_all_but_the_record_of_their_tries(
    counted: tuple[Context, Counting], tenant: UUID, number: int
) -> None:
    context, db = counted
    for port in range(number):
        await making.ended(context.db, tenant, webhook_url=f"http://127.0.0.1:{2_000 + port}/nobody-may-go-there")
    deliverer = Deliverer(context)
    await context.callback_keys.signer(context.db)
    before = db.statements
    await deliverer.pump.drain()
    # Two more for the secret that is read once a process; when a tenant's share is used up, one looks for the rest.
    assert db.statements - before == 3 + number + 2 + (number == 48)


async def test_an_idempotency_key_costs_no_further_statement(counted: tuple[Context, Counting], tenant: UUID) -> None:
    context, db = counted
    await operations.register(context, making.new_job(tenant), "order-1")
    assert db.statements == 1


async def test_a_sweep_with_nothing_to_do_is_one_statement(counted: tuple[Context, Counting]) -> None:
    context, db = counted
    owed = await due.anything_due(context.db)
    names = ("submit", "submit_gpu", "leave", "watch", "copy", "deliver", "count", "bulk")
    assert (dict(owed), db.statements) == (dict.fromkeys(names, False), 1)
