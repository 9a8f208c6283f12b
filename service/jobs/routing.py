"""Which provider a job goes to first, to which it may go after that, and why."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Literal, TypedDict
from uuid import UUID

from service.catalog.base import Problem
from service.db import Database, Row
from service.errors import Invalid
from service.jobs.turns import GONE_SECONDS
from service.remembering import Remembered

FAL = "fal"
GPU = "gpu"
PROVIDERS = (FAL, GPU)
ALL = "*"
OTHER = {FAL: GPU, GPU: FAL}

# A rule, a pause, or a worker that is gone, is noticed by every process within these.
FRESH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Rule:
    prefer: str
    alone: bool = False
    spill_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """`reason` is None where nobody chose anything."""

    provider: str = FAL
    fallback: str | None = None
    spill_seconds: float | None = None
    reason: str | None = None
    asked: str | None = None


class OfJob(TypedDict):
    """What a new job is told of its route."""

    provider: str
    asked_provider: str | None
    fallback: str | None
    spill_seconds: float | None
    reason: str | None


def of_job(route: Route) -> OfJob:
    return OfJob(
        provider=route.provider,
        asked_provider=route.asked,
        fallback=route.fallback,
        spill_seconds=route.spill_seconds,
        reason=route.reason,
    )


@dataclass(frozen=True, slots=True)
class Wait:
    """What GPU workers of a model have before them. `run_seconds` is how long a run took of late, if that is known."""

    workers: int = 0
    jobs: int = 0
    run_seconds: float | None = None

    @property
    def seconds(self) -> float:
        return (self.run_seconds or 0.0) * self.jobs / max(1, self.workers)


def choose(asked: str, rule: Rule | None, paused: frozenset[str], wait: Wait) -> Route:
    """Raises ValueError when the client asks for what its tenant's rule forbids."""
    if asked != "auto":
        if rule is not None and rule.alone and rule.prefer != asked:
            raise ValueError(f"Jobs of this model run at {rule.prefer} alone, as a rule of this tenant says.")
        return Route(asked, reason="its client asked for it", asked=asked)
    if rule is None:
        return Route()
    if rule.alone:
        return Route(rule.prefer, reason=f"a rule: {rule.prefer} alone")
    other = OTHER[rule.prefer]
    if why := _why_not(rule, other, paused, wait):
        return Route(other, rule.prefer, reason=f"a rule prefers {rule.prefer}, but {why}")
    return Route(rule.prefer, other, rule.spill_seconds, f"a rule prefers {rule.prefer}")


def _why_not(rule: Rule, other: str, paused: frozenset[str], wait: Wait) -> str | None:
    """Why what the rule prefers will not do now, if something else does."""
    if other in paused or (other == GPU and not wait.workers):
        return None
    if rule.prefer in paused:
        return f"{rule.prefer} is paused"
    if rule.prefer == GPU and not wait.workers:
        return "no GPU worker of this model is at work"
    if rule.prefer == GPU and rule.spill_seconds is not None and wait.seconds > rule.spill_seconds:
        return f"{'1 job waits' if wait.jobs == 1 else f'{wait.jobs} jobs wait'} there, some {wait.seconds:.0f} s"
    return None


def within_limits(route: Route, problems: Callable[[], list[Problem]], loc: tuple[str | int, ...]) -> Route:
    """What a GPU of one's own can never run does not go to one. Raises Invalid if it may go nowhere else."""
    if GPU not in {route.provider, route.fallback} or not (found := problems()):
        return route
    if route.provider == FAL:
        return replace(route, fallback=None)
    if route.fallback is None:
        raise Invalid([{"loc": [*loc, field], "msg": words, "type": kind} for field, words, kind in found])
    return Route(FAL, reason=f"GPU workers cannot run it: {found[0][0]}: {found[0][1]}")


_WORKERS = f"""
SELECT model, count(*)::int4 AS workers FROM gpu_workers
WHERE seen_at > now() - interval '{GONE_SECONDS} s' AND state <> 'loading' GROUP BY model
"""
# Of runs that share a device each takes its share of the time; what is told beside the next run is no sharing.
_WAIT = """
WITH latest AS (
    SELECT worker, started_at, ended_at, started_at + (ended_at - started_at) / 2 AS middle
    FROM runs WHERE model = $1 AND how = 'finished' ORDER BY started_at DESC LIMIT 20
)
SELECT (SELECT count(*) FROM live_jobs JOIN jobs ON jobs.id = live_jobs.job_id
        WHERE live_jobs.provider = 'gpu' AND jobs.model = $1)::int4 AS jobs,
       (SELECT avg(extract(epoch FROM ended_at - started_at) / (
           SELECT count(*) FROM latest other WHERE other.worker = latest.worker
           AND latest.middle BETWEEN other.started_at AND other.ended_at)) FROM latest)::float8 AS run_seconds
"""


class Routes:
    """The rules, and what they depend on, as one process knows them."""

    def __init__(self) -> None:
        self._rules: dict[tuple[UUID, str], Rule] = {}
        self._paused: frozenset[str] = frozenset()
        self._workers: dict[str, int] = {}
        self._waits: dict[str, Remembered[Row | None]] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def route(self, db: Database, tenant_id: UUID, model: str, asked: str = "auto") -> Route:
        """Costs no statement as long as what was read is fresh, except for a guess at a wait. Raises Invalid."""
        await self._refresh(db)
        rule = self._rules.get((tenant_id, model)) or self._rules.get((tenant_id, ALL))
        wait = Wait(self._workers.get(model, 0))
        if rule is not None and rule.prefer == GPU and rule.spill_seconds is not None and wait.workers:
            row = await self._waits.setdefault(model, Remembered(partial(db.fetchrow, _WAIT, model))).get()
            assert row is not None
            wait = Wait(wait.workers, row["jobs"], row["run_seconds"])
        try:
            return choose(asked, rule, self._paused, wait)
        except ValueError as error:
            raise Invalid.at("body", "provider", msg=str(error), kind="value_error") from None

    async def can_take(self, db: Database, provider: str, model: str) -> bool:
        """Whether a job may go to this provider now that another did not take it."""
        await self._refresh(db)
        return provider not in self._paused and (provider != GPU or self._workers.get(model, 0) > 0)

    def forget(self) -> None:
        """What is being read now may be older than what the caller knows."""
        self._read_at, self._reading = float("-inf"), None

    async def _refresh(self, db: Database) -> None:
        """Read once for all who ask meanwhile."""
        while monotonic() - self._read_at >= FRESH_SECONDS:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read(db))
            await asyncio.shield(self._reading)

    async def _read(self, db: Database) -> None:
        rules, paused, workers = await asyncio.gather(
            db.fetch("SELECT * FROM routes"), db.fetch("SELECT provider FROM provider_pauses"), db.fetch(_WORKERS)
        )
        if self._reading is not asyncio.current_task():
            return
        self._rules = {
            (row["tenant_id"], row["model"]): Rule(row["prefer"], row["alone"], row["spill_seconds"]) for row in rules
        }
        self._paused = frozenset(row["provider"] for row in paused)
        self._workers = {row["model"]: row["workers"] for row in workers}
        self._read_at = monotonic()


async def rules(db: Database) -> list[Row]:
    return await db.fetch(
        "SELECT tenants.name AS tenant, routes.* FROM routes JOIN tenants ON tenants.id = routes.tenant_id"
        " ORDER BY 1, routes.model"
    )


_SET_RULE = """
WITH rule AS (
    INSERT INTO routes (tenant_id, model, prefer, alone, spill_seconds)
    SELECT id, $2::text, $3::text, $4::bool, $5 FROM tenants WHERE name = $1
    ON CONFLICT (tenant_id, model) DO UPDATE SET prefer = $3, alone = $4, spill_seconds = $5
    RETURNING tenant_id
), kept AS (
    UPDATE live_jobs SET fallback = NULL, spill_seconds = NULL
    FROM rule, jobs
    WHERE $4 AND live_jobs.tenant_id = rule.tenant_id AND live_jobs.provider = $3 AND jobs.id = live_jobs.job_id
      AND (jobs.model = $2 OR $2 = '*' AND NOT EXISTS (
          SELECT FROM routes own WHERE own.tenant_id = rule.tenant_id AND own.model = jobs.model))
)
SELECT tenant_id FROM rule
"""


async def set_rule(
    db: Database, tenant: str, model: str, prefer: Literal["fal", "gpu"], *, alone: bool, spill_seconds: float | None
) -> bool:
    """`alone` also takes from jobs that are at the provider the way to the other. False: there is no such tenant."""
    return await db.fetchrow(_SET_RULE, tenant, model, prefer, alone, spill_seconds) is not None


async def remove_rule(db: Database, tenant: str, model: str) -> bool:
    row = await db.fetchrow(
        "DELETE FROM routes USING tenants WHERE tenants.id = routes.tenant_id AND tenants.name = $1"
        " AND routes.model = $2 RETURNING routes.model",
        tenant,
        model,
    )
    return row is not None
