"""Random jobs of all kinds, as their ends have left them, and what is known of each without asking the database."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from random import Random
from typing import Any
from uuid import UUID

from service.db import Database

MODELS = ("fal-ai/one", "fal-ai/two", "fal-ai/three", "fal-ai/free")
PROVIDERS = ("fal", "local")
ENDED = ("completed", "completed", "completed", "failed", "cancelled")
LIVE = ("queued", "submitted", "in_progress")
ERRORS = (None, "model_error", "timeout", "bad 'word'")
TAGS = ("shop", "rare")
PHASES = ("queued_seconds", "submit_seconds", "provider_queue_seconds", "run_seconds", "provider_seconds")
PHASES = (*PHASES, "webhook_seconds", "total_seconds")
LATER = datetime(2100, 1, 1, tzinfo=UTC)
BEGIN, END = datetime(2026, 7, 28, 6, 30, tzinfo=UTC), datetime(2026, 11, 3, 17, 45, tzinfo=UTC)

# (model, provider, unit, since, amount)
PRICES = (
    ("fal-ai/one", "*", "job", BEGIN, "0.00012"),
    ("fal-ai/one", "*", "usage.output_tokens", BEGIN, "0.0000003"),
    ("fal-ai/one", "local", "job", BEGIN + timedelta(days=30), "0.00001"),
    ("fal-ai/one", "local", "job", BEGIN + timedelta(days=60), None),
    ("fal-ai/two", "*", "second", BEGIN + timedelta(days=20), "0.00111"),
    ("fal-ai/two", "*", "second", BEGIN + timedelta(days=50), "0.002"),
    ("fal-ai/two", "*", "second", BEGIN + timedelta(days=80), None),
    ("fal-ai/three", "*", "billable_unit", BEGIN, "0.04"),
    ("fal-ai/three", "local", "second", BEGIN, "0.0001"),
)


@dataclass
class Drawn:
    """A job, with all that it will be known by. `measures` are floats by name, `cost` is exact."""

    id: UUID
    tenant: UUID
    model: str
    provider: str
    status: str
    error_type: str | None
    created_at: datetime
    completed_at: datetime
    tags: list[str]
    usage: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    phases: dict[str, float | None] = field(default_factory=dict)
    billable_units: Decimal | None = None
    cost: Decimal | None = None

    @cached_property
    def measures(self) -> dict[str, float]:
        named = {f"usage.{name}": value for name, value in self.usage.items()}
        named |= {f"timings.model.{name}": value for name, value in self.timings.items()}
        return {name: value for name, value in (self.phases | named | {"cost": self.cost}).items() if value is not None}

    @property
    def is_live(self) -> bool:
        return self.status in LIVE


def draw(random: Random, tenants: list[UUID], number: int) -> list[Drawn]:
    return [_draw(random, random.choice(tenants)) for _ in range(number)]


def _draw(random: Random, tenant: UUID) -> Drawn:
    created = BEGIN + (END - BEGIN) * random.random()
    if random.random() < 0.05:
        created = created.replace(minute=0, second=0, microsecond=0)  # Just at the beginning of an hour.
    job_id = UUID(int=int(created.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | random.getrandbits(62))
    status = random.choice(LIVE) if random.random() < 0.04 else random.choice(ENDED)
    error = random.choice(ERRORS) if status in ("failed", "cancelled") else None
    phases = {name: random.choice([None, 0.0, _seconds(random), _seconds(random)]) for name in PHASES}
    phases["total_seconds"] = random.choice([0.0, _seconds(random), _seconds(random)])
    completed = created + timedelta(seconds=phases["total_seconds"] or 0)
    job = Drawn(
        *(job_id, tenant, random.choice(MODELS), random.choice(PROVIDERS), status, error, created, completed),
        tags=[tag for tag, share in zip(TAGS, (0.2, 0.01), strict=True) if random.random() < share],
    )
    if job.is_live:
        return job
    job.phases = phases | {
        "copy_seconds": random.choice([None, None, _seconds(random)]),
        "callback_seconds": random.choice([None, None, _seconds(random)]),
    }
    if status == "completed":
        job.usage = random.choice(
            [{}, {"output_tokens": random.randrange(2_000), "odd": random.choice([-3, 0, 1e-12, 7.25, 10**40])}]
        )
        job.timings = random.choice([{}, {"inference": round(_seconds(random), 4)}])
        job.billable_units = random.choice([None, Decimal("1.5"), Decimal(3)])
        job.cost = _cost(job)
    return job


def _seconds(random: Random) -> float:
    """As timestamps tell them."""
    return round(random.lognormvariate(0, 2), 6)


def _cost(job: Drawn) -> Decimal | None:
    newest: dict[str, dict[str, str | None]] = {job.provider: {}, "*": {}}
    for model, provider, unit, since, amount in PRICES:
        if model == job.model and provider in newest and since <= job.completed_at:
            newest[provider][unit] = amount
    own, general = ({unit: amount for unit, amount in each.items() if amount} for each in newest.values())
    run = job.phases["run_seconds"]
    seconds = job.timings.get("inference", run)
    quantities = {
        "job": Decimal(1),
        "second": None if seconds is None else Decimal(repr(seconds)),
        "usage.output_tokens": Decimal(job.usage["output_tokens"]) if job.usage else None,
        "billable_unit": job.billable_units,
    }
    bought = [(Decimal(amount), quantities[unit]) for unit, amount in (own or general).items()]
    if not bought or any(quantity is None for _, quantity in bought):
        return None
    return sum((amount * quantity for amount, quantity in bought if quantity is not None), Decimal(0))


OUTCOME = (
    *("job_id", "tenant_id", "model", "provider", "created_at", "status", "attempt", "source", "http_status"),
    *("error_type", "error", "usage", "model_timings", "received_at", "completed_at", "billable_units", *PHASES),
)


async def write(db: Database, drawn: list[Drawn]) -> None:
    """As their ends, copies and callbacks have left them: nothing is counted yet."""
    ended = [job for job in drawn if not job.is_live]
    copied = [job for job in ended if job.phases["copy_seconds"] is not None]
    told = [job for job in ended if job.phases["callback_seconds"] is not None]
    tables: dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]] = {
        "prices": (
            ("model", "provider", "unit", "since", "amount", "currency"),
            [(*price, amount and Decimal(amount), "USD") for *price, amount in PRICES],
        ),
        "jobs": (
            ("id", "tenant_id", "model", "provider", "priority", "metadata", "tags", "created_at"),
            [(j.id, j.tenant, j.model, j.provider, "normal", "{}", j.tags, j.created_at) for j in drawn],
        ),
        "inputs": (("job_id", "body"), [(j.id, "{}") for j in drawn]),
        "job_marks": (
            ("tenant_id", "name", "value", "job_id"),
            [(j.tenant, "tag", tag, j.id) for j in drawn for tag in j.tags],
        ),
        "live_jobs": (
            ("job_id", "tenant_id", "provider", "status", "duty", "rank", "due_at"),
            [(j.id, j.tenant, j.provider, j.status, "report", 0, LATER) for j in drawn if j.is_live],
        ),
        "outcomes": (OUTCOME, [_outcome(job) for job in ended]),
        "artifacts": (
            ("job_id", "kind", "index", "tenant_id", "source_url", "stored_at"),
            [(j.id, "mask", 0, j.tenant, "http://files.example/", _later(j, "copy_seconds")) for j in copied],
        ),
        "callback_tries": (
            ("job_id", "at", "seconds", "error"),
            [(j.id, _later(j, "callback_seconds"), 0.0, None) for j in told]
            + [(j.id, _later(j, "callback_seconds"), 9.0, "It failed.") for j in told],
        ),
        "uncounted": (
            ("job_id", "part"),
            [(j.id, "end") for j in ended] + [(j.id, "copy") for j in copied] + [(j.id, "callback") for j in told],
        ),
    }
    async with db.pool.acquire() as connection, connection.transaction():
        for table, (columns, rows) in tables.items():
            await connection.copy_records_to_table(table, columns=columns, records=rows)
        await connection.execute("ANALYZE")


def _outcome(job: Drawn) -> tuple[Any, ...]:
    error = None if job.status == "completed" else "It broke."
    return (
        *(job.id, job.tenant, job.model, job.provider, job.created_at, job.status, 1, "webhook", 200, job.error_type),
        *(error, json.dumps(job.usage), json.dumps(job.timings), job.completed_at, job.completed_at),
        *(job.billable_units, *(job.phases[name] for name in PHASES)),
    )


def _later(job: Drawn, phase: str) -> datetime:
    seconds = job.phases[phase]
    assert seconds is not None
    return job.completed_at + timedelta(seconds=seconds)
