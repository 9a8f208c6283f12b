"""Jobs in the states that tests begin with, and the rows that they look at afterwards."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

from uuid_utils.compat import uuid7

from service.catalog.base import Lifted
from service.db import Database, Row
from service.jobs import due, endings, filing, store
from service.jobs.facts import Answer, Claim, Ending, Evidence, NewJob
from service.jobs.lifecycle import AttemptState, Duty, Event

MODEL = "fal-ai/llava-next"
INPUT = '{"image_url": "https://example.com/a.png", "prompt": "What is this?"}'
CAT = b'{"output": "A cat."}'
DOG = b'{"output": "A dog."}'
PROMPT = {"image_url": "https://example.com/a.png", "prompt": "What is this?"}


async def until(holds: Callable[[], Awaitable[object]], within: float = 30) -> None:
    async with asyncio.timeout(within):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.005)


async def make_tenant(db: Database, name: str) -> UUID:
    row = await db.fetchrow(
        "INSERT INTO tenants (id, name) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET name = $2 RETURNING id",
        uuid7(),
        name,
    )
    assert row is not None
    return UUID(str(row["id"]))


def new_job(tenant: UUID, **changes: Any) -> NewJob:
    return NewJob(**{"id": uuid7(), "tenant_id": tenant, "model": MODEL, "input": INPUT, **changes})


def completed(body: bytes = CAT) -> Ending:
    return Ending(Event.COMPLETED, 200, body)


def failed(words: str = "It broke.", status: int = 500) -> Ending:
    return Ending(Event.FAILED, status, b'{"detail": "It broke."}', words, "model_error")


def heard(body: bytes = CAT, request_id: str | None = None, **changes: Any) -> Evidence:
    return Evidence(**{"source": "webhook", "body": body, "request_id": request_id, **changes})


def accepted(claim: Claim, request_id: str | None = None, **changes: Any) -> Answer:
    values = {"state": AttemptState.SUBMITTED, "duty": Duty.REPORT, "delay": 20.0} | changes
    return Answer(claim.job_id, claim.attempt, provider_request_id=request_id or str(uuid4()), **values)


def refused(claim: Claim, delay: float = 0.0) -> Answer:
    return Answer(claim.job_id, claim.attempt, AttemptState.REFUSED, Duty.SUBMIT, delay, error="Busy.")


def ambiguous(claim: Claim, delay: float = 120.0) -> Answer:
    return Answer(claim.job_id, claim.attempt, AttemptState.AMBIGUOUS, Duty.SETTLE, delay, error="Lost.")


async def queued(db: Database, tenant: UUID, **changes: Any) -> UUID:
    job = new_job(tenant, **changes)
    await store.register(db, job)
    return job.id


async def claim_all(db: Database, limit: int = 100) -> list[Claim]:
    return await store.claim(db, limit, 20.0, "fal")


async def claimed(db: Database, tenant: UUID, **changes: Any) -> Claim:
    """A job whose submission is on its way."""
    job_id = await queued(db, tenant, **changes)
    [claim] = await claim_all(db)
    assert claim.job_id == job_id
    return claim


async def submitted(db: Database, tenant: UUID, request_id: str | None = None, **changes: Any) -> Claim:
    """A job that the provider has."""
    claim = await claimed(db, tenant, **changes)
    await store.record_answers(db, [accepted(claim, request_id)])
    return claim


async def settle(db: Database, claim: Claim, ending: Ending | None = None, evidence: Evidence | None = None) -> bool:
    ending = ending or completed()
    evidence = evidence or heard(ending.body)
    lifted = Lifted(text="A cat.")
    return await endings.settle(db, claim.job_id, claim.attempt, ending, evidence, "webhook", lifted) is not None


async def ended(db: Database, tenant: UUID, ending: Ending | None = None, **changes: Any) -> Claim:
    claim = await submitted(db, tenant, **changes)
    assert await settle(db, claim, ending)
    return claim


async def file_report(db: Database, claim: Claim, ending: Ending | None, request_id: str | None = None) -> str:
    body = ending.body if ending else b"?"
    return await filing.file_report(db, claim.job_id, claim.attempt, heard(body, request_id), ending)


async def resubmitted(db: Database, claim: Claim) -> Claim:
    """The next attempt of a job whose submission stayed in doubt."""
    await store.record_answers(db, [ambiguous(claim, delay=0.0)])
    await make_due(db, claim.job_id)
    [job] = [each for each in await due.take_due(db, 100, 30.0) if each.job_id == claim.job_id]
    assert await due.submit_again(db, job)
    [again] = await claim_all(db)
    assert (again.job_id, again.attempt) == (claim.job_id, claim.attempt + 1)
    return again


async def live(db: Database, job_id: UUID) -> Row | None:
    return await db.fetchrow("SELECT *, due_at <= now() AS is_due FROM live_jobs WHERE job_id = $1", job_id)


async def outcome(db: Database, job_id: UUID) -> Row | None:
    return await db.fetchrow("SELECT * FROM outcomes JOIN results USING (job_id) WHERE job_id = $1", job_id)


async def attempts(db: Database, job_id: UUID) -> list[Row]:
    return await db.fetch("SELECT * FROM attempts WHERE job_id = $1 ORDER BY number", job_id)


async def states(db: Database, job_id: UUID) -> list[str]:
    """Of each attempt its state, and `…` after it while the attempt has not ended."""
    return [row["state"] + ("…" if row["ended_at"] is None else "") for row in await attempts(db, job_id)]


async def events(db: Database, job_id: UUID) -> list[str]:
    rows = await db.fetch("SELECT event FROM job_events WHERE job_id = $1 ORDER BY id", job_id)
    return [row["event"] for row in rows]


async def reports(db: Database, job_id: UUID) -> list[Row]:
    return await db.fetch("SELECT * FROM reports WHERE job_id = $1 ORDER BY id", job_id)


async def status(db: Database, job_id: UUID) -> str:
    row = await live(db, job_id) or await outcome(db, job_id)
    assert row is not None
    return str(row["status"])


async def count(db: Database, table: str) -> int:
    row = await db.fetchrow(f"SELECT count(*) FROM {table}")
    assert row is not None
    return int(row["count"])


async def make_due(db: Database, job_id: UUID) -> None:
    """Let its time come: the clock that counts is the database's, so the row is moved instead."""
    await db.execute("UPDATE live_jobs SET due_at = now() - interval '1 ms' WHERE job_id = $1", job_id)


async def pass_deadline(db: Database, job_id: UUID) -> None:
    await db.execute(
        "UPDATE live_jobs SET deadline_at = now() - interval '1 ms', due_at = now() - interval '1 ms'"
        " WHERE job_id = $1",
        job_id,
    )


async def make_older(db: Database, job_id: UUID, seconds: float) -> None:
    """Let the job and its attempts have begun earlier."""
    await db.execute(
        "UPDATE jobs SET created_at = created_at - make_interval(secs => $2) WHERE id = $1", job_id, seconds
    )
    await db.execute(
        "UPDATE attempts SET claimed_at = claimed_at - make_interval(secs => $2) WHERE job_id = $1", job_id, seconds
    )
