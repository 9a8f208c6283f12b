"""For how long a tenant wants what kept, and the walk over ended jobs that removes the rest.

A rule walks the jobs of its tenant in the order of their registration and remembers how far it is, so that each job is
looked at once, however many there are. It stops before the first that has not ended, or not long enough ago, or
whose callback is on its way: what those need is not removed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import itemgetter
from uuid import UUID

from service.callbacks.lifecycle import CallbackState
from service.callbacks.schedule import LONGEST_SECONDS
from service.db import Database, Row
from service.retention.parts import Keep, Part
from service.retention.removing import remove

EVERY_MODEL = "*"
AT_A_TIME = 200


@dataclass(frozen=True, slots=True)
class Rule:
    """`model` is an ID, or `*` for those without a rule of their own for this part. Words of `Part` and `Keep`."""

    tenant_id: UUID
    model: str
    part: str
    after_seconds: float
    keep: str
    done_through: UUID | None = None
    version: int = 0

    @property
    def warning(self) -> str | None:
        """What somebody who makes this rule may not expect."""
        if self.keep == Keep.ALL or self.part == Part.EVIDENCE or self.after_seconds >= LONGEST_SECONDS:
            return None
        days = LONGEST_SECONDS / 86_400
        return f"Callbacks are tried for up to {days:g} days; jobs whose callback is pending are kept until it is not."


_SET = """
INSERT INTO retention_rules (tenant_id, model, part, after_seconds, keep)
SELECT id, $2, $3, $4, $5 FROM tenants WHERE name = $1
ON CONFLICT (tenant_id, model, part) DO UPDATE
SET after_seconds = excluded.after_seconds, keep = excluded.keep, done_through = NULL,
    version = retention_rules.version + 1
RETURNING tenant_id
"""
# A rule for one model takes its jobs out of the rule for all, and gives them back.
_BEGIN_ANEW = """
UPDATE retention_rules SET done_through = NULL, version = version + 1
WHERE tenant_id = $1 AND model = '*' AND part = $2
"""


async def set_rule(db: Database, tenant: str, model: str, part: Part, after_seconds: float, keep: Keep) -> Rule | None:
    """None: there is no such tenant."""
    row = await db.fetchrow(_SET, tenant, model, part.value, after_seconds, keep.value)
    return Rule(row["tenant_id"], model, part.value, after_seconds, keep.value) if row else None


async def remove_rule(db: Database, tenant: str, model: str, part: Part) -> bool:
    """False: there is no such rule."""
    row = await db.fetchrow(
        "DELETE FROM retention_rules USING tenants WHERE tenants.id = retention_rules.tenant_id"
        " AND tenants.name = $1 AND model = $2 AND part = $3 RETURNING tenant_id",
        tenant,
        model,
        part.value,
    )
    if row is None:
        return False
    await db.execute(_BEGIN_ANEW, row["tenant_id"], part.value)
    return True


async def all_rules(db: Database) -> list[Row]:
    return await db.fetch(
        "SELECT retention_rules.*, tenants.name AS tenant FROM retention_rules JOIN tenants ON tenants.id = tenant_id"
        " ORDER BY tenants.name, part, model"
    )


# $1 tenant, $2 model, $3 part, $4 seconds, $5 done through, $6 how many
_DUE = f"""
WITH bound AS (
    SELECT least(
        (SELECT job_id FROM live_jobs WHERE tenant_id = $1 ORDER BY job_id LIMIT 1),
        (SELECT min(job_id::text)::uuid FROM callbacks WHERE tenant_id = $1 AND state = '{CallbackState.PENDING}')
    ) AS job_id
), own AS (
    SELECT coalesce(array_agg(model), '{{{{}}}}') AS models FROM retention_rules
    WHERE tenant_id = $1 AND part = $3 AND model <> '{EVERY_MODEL}'
)
SELECT outcomes.job_id, {{due}} AS due,
       outcomes.completed_at < now() - make_interval(secs => $4) AS old_enough
FROM outcomes CROSS JOIN own
WHERE outcomes.tenant_id = $1 {{of_model}} AND outcomes.job_id > coalesce($5, '{UUID(int=0)}'::uuid)
  AND outcomes.job_id < coalesce((SELECT job_id FROM bound), '{UUID(int=2**128 - 1)}'::uuid)
ORDER BY outcomes.job_id LIMIT $6
"""
_DUE_OF_EVERY_MODEL = _DUE.format(due="outcomes.model <> ALL (own.models)", of_model="AND $2 = '*'")
_DUE_OF_ONE_MODEL = _DUE.format(due="true", of_model="AND outcomes.model = $2")


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that a rule looks at together, and those of them that it is for."""

    rule: Rule
    due: Sequence[UUID]
    through: UUID


async def next_batch(db: Database) -> Batch | None:
    """Some jobs of the first rule that has any to look at."""
    for row in await all_rules(db):
        rule = Rule(**{name: row[name] for name in Rule.__dataclass_fields__})
        statement = _DUE_OF_EVERY_MODEL if rule.model == EVERY_MODEL else _DUE_OF_ONE_MODEL
        values = (rule.tenant_id, rule.model, rule.part, rule.after_seconds, rule.done_through, AT_A_TIME)
        if rows := list(takewhile(itemgetter("old_enough"), await db.fetch(statement, *values))):
            return Batch(rule, [row["job_id"] for row in rows if row["due"]], rows[-1]["job_id"])
    return None


# A rule that was changed meanwhile, or sent back by a hold that ended, stays where it was put.
_DONE = """
UPDATE retention_rules SET done_through = $4 WHERE tenant_id = $1 AND model = $2 AND part = $3 AND version = $5
"""


async def carry_out(db: Database, batch: Batch) -> None:
    """Remove what the rule says of these jobs. What dies in between is done again."""
    rule = batch.rule
    if batch.due and rule.keep != Keep.ALL:
        await remove(db, batch.due, Part(rule.part), Keep(rule.keep))
    await db.execute(_DONE, rule.tenant_id, rule.model, rule.part, batch.through, rule.version)
