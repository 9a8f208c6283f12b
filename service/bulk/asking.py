"""What a bulk action means: its conditions as a filter, how many jobs that are, and what they may cost."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from time import monotonic
from typing import Any
from uuid import UUID

from service.bulk import records
from service.bulk.lifecycle import STATUSES, BulkVerb
from service.bulk.records import Conditions
from service.db import Database
from service.errors import Invalid
from service.jobs import lists
from service.jobs.filters import JobFilter, read_filter
from service.jsontext import encode
from service.stats.prices import CURRENCY

# A preview counts so many jobs, or for so long; beyond that it says "at least".
MOST_COUNTED = 5_000
LONGEST_COUNT_SECONDS = 2.0
COUNTED_AT_ONCE = 1_000

# The cost of a model is told from its newest jobs.
JUDGED_BY = 500

PAGES = {"limit", "cursor"}


@dataclass(frozen=True, slots=True)
class ModelShare:
    """How many of the jobs are of a model, and what they may cost; None: none of its last jobs had a cost."""

    model: str
    jobs: int
    cost: Decimal | None


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be done: `jobs` is a lower bound, as are `skipped` and the cost, unless that `is_exact`.

    `skipped` are meant by the filters, and nothing can be done to them: they were repeated before or have no input any
    more, or their end was asked for. `cost` is None when nothing is known of it; a retry may cost that much, a cancel
    save as much.
    """

    jobs: int
    skipped: int
    is_exact: bool
    cost: Decimal | None
    currency: str | None
    models: Sequence[ModelShare]

    @property
    def cost_is_whole(self) -> bool:
        return all(share.cost is not None for share in self.models)


def pairs_of(conditions: Mapping[str, Any], *loc: str | int) -> Conditions:
    """A JSON object of filters as pairs, in a fixed order. Raises Invalid."""
    pairs: list[tuple[str, str]] = []
    for name, value in sorted(conditions.items()):
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, bool):
                pairs.append((name, "true" if each else "false"))
            elif isinstance(each, int | float):
                pairs.append((name, encode(each).decode()))
            elif isinstance(each, str):
                pairs.append((name, each))
            else:
                raise Invalid.at(*loc, name, msg="Must be text, a number, or a list of these.", kind="string_type")
    return pairs


def filter_of(verb: BulkVerb, conditions: Conditions) -> JobFilter:
    """Raises Invalid: for what is no filter, for no condition at all, and for jobs that the action is not for."""
    if not conditions:
        raise Invalid.at("filter", msg="Name at least one condition, such as status or tag.", kind="missing")
    if paged := [name for name, _ in conditions if name in PAGES]:
        raise Invalid.at("filter", paged[0], msg="An action has no pages.", kind="extra_forbidden")
    wanted = read_filter(conditions)
    meant = STATUSES[verb]
    statuses = [status for status in meant if not wanted.statuses or status in wanted.statuses]
    if not statuses:
        words = " or ".join(status.value for status in meant)
        raise Invalid.at("filter", "status", msg=f"Only jobs that are {words} can be made to {verb}.", kind="enum")
    return replace(wanted, statuses=statuses)


def before(wanted: JobFilter, moment: datetime) -> JobFilter:
    """Of that, the jobs that were registered before."""
    return replace(wanted, created_before=min(wanted.created_before or moment, moment))


def fingerprint_of(verb: BulkVerb, of_tenant: UUID | None, conditions: Conditions) -> bytes:
    """What must be the same for two requests under one key."""
    asked = (verb.value, str(of_tenant), [list(pair) for pair in conditions])
    return hashlib.sha256(encode(asked)).digest()


# Of those that are meant the ones that something can be done to, by tenant and model.
_TO_DO = {
    BulkVerb.RETRY: """
SELECT tenant_id, model, count(*) AS jobs FROM jobs
WHERE id = ANY ($1::uuid[]) AND EXISTS (SELECT FROM inputs WHERE inputs.job_id = jobs.id)
  AND NOT EXISTS (SELECT FROM jobs AS later WHERE later.retry_of = jobs.id)
GROUP BY 1, 2
""",
    BulkVerb.CANCEL: """
SELECT jobs.tenant_id, jobs.model, count(*) AS jobs FROM live_jobs JOIN jobs ON jobs.id = live_jobs.job_id
WHERE live_jobs.job_id = ANY ($1::uuid[]) AND live_jobs.cancel_requested_at IS NULL
GROUP BY 1, 2
""",
}


async def preview(db: Database, verb: BulkVerb, of_tenant: UUID | None, wanted: JobFilter) -> Preview:
    """Of one tenant's jobs, or of everybody's (None)."""
    job_ids, is_exact = await _count(db, of_tenant, before(wanted, datetime.now(UTC)))
    rows = await db.fetch(_TO_DO[verb], job_ids)
    means = await _mean_costs(db, [(row["tenant_id"], row["model"]) for row in rows])
    shares: dict[str, ModelShare] = {}
    for row in rows:
        mean = means[row["tenant_id"], row["model"]]
        cost = None if mean is None else mean * row["jobs"]
        known = shares.get(row["model"])
        if known is not None:
            cost = None if cost is None or known.cost is None else cost + known.cost
        shares[row["model"]] = ModelShare(row["model"], row["jobs"] + (known.jobs if known else 0), cost)
    costs = [share.cost for share in shares.values() if share.cost is not None]
    currency = await db.fetchrow(CURRENCY)
    jobs = sum(share.jobs for share in shares.values())
    return Preview(
        jobs=jobs,
        skipped=len(job_ids) - jobs,
        is_exact=is_exact,
        cost=sum(costs, Decimal()) if costs else None,
        currency=currency["currency"] if currency else None,
        models=sorted(shares.values(), key=lambda share: (-share.jobs, share.model)),
    )


async def _count(db: Database, of_tenant: UUID | None, wanted: JobFilter) -> tuple[list[UUID], bool]:
    last, job_ids = monotonic() + LONGEST_COUNT_SECONDS, list[UUID]()
    tenant_id = of_tenant or await records.next_tenant(db, None)
    while tenant_id is not None:
        cursor = None
        while True:
            if len(job_ids) >= MOST_COUNTED or monotonic() > last:
                return job_ids[:MOST_COUNTED], False
            page = replace(wanted, limit=COUNTED_AT_ONCE, cursor=cursor)
            found, cursor = await lists.next_ids(db, tenant_id, page)
            job_ids.extend(found)
            if cursor is None:
                break
        tenant_id = None if of_tenant else await records.next_tenant(db, tenant_id)
    return job_ids[:MOST_COUNTED], len(job_ids) <= MOST_COUNTED


_MEAN_COSTS = f"""
SELECT asked.tenant_id, asked.model, (
    SELECT trim_scale(round(avg(cost), 9)) FROM (
        SELECT cost FROM outcomes WHERE outcomes.tenant_id = asked.tenant_id AND outcomes.model = asked.model
        ORDER BY job_id DESC LIMIT {JUDGED_BY}
    ) AS newest
) AS mean
FROM unnest($1::uuid[], $2::text[]) AS asked (tenant_id, model)
"""


async def _mean_costs(db: Database, kinds: Sequence[tuple[UUID, str]]) -> dict[tuple[UUID, str], Decimal | None]:
    rows = await db.fetch(_MEAN_COSTS, [tenant for tenant, _ in kinds], [model for _, model in kinds])
    return {(row["tenant_id"], row["model"]): row["mean"] for row in rows}
