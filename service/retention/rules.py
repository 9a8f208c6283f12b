"""For how long a tenant wants what kept, and the walk over ended jobs that removes the rest.

A rule walks the jobs of its tenant in the order of their registration and remembers how far it is, so that each job is
looked at once, however many there are. It stops before the first that has not ended, or not long enough ago, or
whose callback is on its way: what those need is not removed. A job that it could not be carried out of is written down,
so that it goes on and comes back to that one.
"""

from collections.abc import Iterable, Sequence
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

# What a rule could not be carried out of is tried again by the sweep that comes next, and not by the same.
AGAIN_SECONDS = 300.0
ERROR_EXCERPT = 500


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


async def every_rule(db: Database) -> list[Rule]:
    return [_rule_of(row) for row in await db.fetch("SELECT * FROM retention_rules")]


def _rule_of(row: Row) -> Rule:
    return Rule(**{name: row[name] for name in Rule.__dataclass_fields__})


# $1 tenant, $2 model, $3 part, $4 seconds since the last try, $5 how many
_RULE = """
SELECT *, ARRAY(
    SELECT job_id FROM postponed_removals AS postponed
    WHERE postponed.tenant_id = $1 AND postponed.model = $2 AND postponed.part = $3
      AND tried_at < now() - make_interval(secs => $4) ORDER BY tried_at LIMIT $5
) AS postponed
FROM retention_rules WHERE tenant_id = $1 AND model = $2 AND part = $3
"""

# $1 tenant, $2 model, $3 part, $4 seconds, $5 done through, or the jobs to look at again, $6 how many
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
WHERE outcomes.tenant_id = $1 {{of_model}} AND {{which}}
ORDER BY outcomes.job_id LIMIT $6
"""
_AHEAD = f"""outcomes.job_id > coalesce($5, '{UUID(int=0)}'::uuid)
  AND outcomes.job_id < coalesce((SELECT job_id FROM bound), '{UUID(int=2**128 - 1)}'::uuid)"""
_AGAIN = "outcomes.job_id = ANY ($5::uuid[])"
_OF_EVERY_MODEL = {"due": "outcomes.model <> ALL (own.models)", "of_model": "AND $2 = '*'"}
_OF_ONE_MODEL = {"due": "true", "of_model": "AND outcomes.model = $2"}
_STATEMENTS = {
    (is_for_every, again): _DUE.format(**of_model, which=_AGAIN if again else _AHEAD)
    for is_for_every, of_model in ((True, _OF_EVERY_MODEL), (False, _OF_ONE_MODEL))
    for again in (True, False)
}


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that a rule looks at together, and those of them that it is for; `through` is how far it is then."""

    rule: Rule
    due: Sequence[UUID]
    looked_at: Sequence[UUID]
    through: UUID | None


async def next_batch(db: Database, of: Rule, at_most: int = AT_A_TIME) -> Batch | None:
    """The jobs on the rule's way or, at its end, those that it could not be carried out of before."""
    row = await db.fetchrow(_RULE, of.tenant_id, of.model, of.part, AGAIN_SECONDS, at_most)
    if row is None:
        return None  # It was removed meanwhile.
    rule = _rule_of(row)

    async def found(again: bool, where: object) -> list[Row]:
        statement = _STATEMENTS[rule.model == EVERY_MODEL, again]
        values = rule.tenant_id, rule.model, rule.part, rule.after_seconds, where, at_most
        return await db.fetch(statement, *values)

    if rows := list(takewhile(itemgetter("old_enough"), await found(False, rule.done_through))):
        jobs = [row["job_id"] for row in rows]
        return Batch(rule, [row["job_id"] for row in rows if row["due"]], jobs, jobs[-1])
    if postponed := row["postponed"]:
        # Of those that are not due any more the rule was changed, so that it comes to them on its way.
        rows = await found(True, postponed)
        return Batch(rule, [row["job_id"] for row in rows if row["due"] and row["old_enough"]], postponed, None)
    return None


# $1 to $3 the rule, $4 its version, $5 how far it is, $6 the jobs, $7 those that it was not carried out of, $8 why.
# A rule that was changed meanwhile, or sent back by a hold that ended, stays where it was put. What is on hold is not
# written down: the end of the hold sends the rule back.
_GO_ON = """
WITH kept AS MATERIALIZED (
    SELECT job_id FROM unnest($7::uuid[]) AS given (job_id)
    -- Another worker may have deleted them meanwhile.
    WHERE NOT EXISTS (SELECT FROM holds WHERE holds.job_id = given.job_id)
      AND EXISTS (SELECT FROM jobs WHERE jobs.id = given.job_id)
), done AS (
    DELETE FROM postponed_removals AS postponed
    WHERE postponed.tenant_id = $1 AND postponed.model = $2 AND postponed.part = $3
      AND job_id = ANY ($6::uuid[]) AND job_id NOT IN (SELECT job_id FROM kept)
), postponed AS (
    INSERT INTO postponed_removals (job_id, tenant_id, model, part, error)
    SELECT job_id, tenant_id, model, part, $8 FROM kept CROSS JOIN retention_rules
    WHERE tenant_id = $1 AND model = $2 AND part = $3
    ON CONFLICT (job_id, tenant_id, model, part) DO UPDATE SET tried_at = now(), error = excluded.error
)
UPDATE retention_rules SET done_through = coalesce($5, done_through)
WHERE tenant_id = $1 AND model = $2 AND part = $3 AND version = $4
"""


async def carry_out(db: Database, batch: Batch) -> None:
    """Remove what the rule says of these jobs. What dies in between is done again."""
    rule, left = batch.rule, set[UUID]()
    if batch.due and rule.keep != Keep.ALL:
        left = {*batch.due}.difference(await remove(db, batch.due, Part(rule.part), Keep(rule.keep)))
    await _go_on(db, batch, left)


async def postpone(db: Database, batch: Batch, why: str) -> None:
    """Go on without having carried it out of these jobs; the rule comes back to them some minutes later."""
    await _go_on(db, batch, batch.due, why[:ERROR_EXCERPT])


async def _go_on(db: Database, batch: Batch, left: Iterable[UUID], why: str | None = None) -> None:
    rule = batch.rule
    place = rule.tenant_id, rule.model, rule.part, rule.version, batch.through
    await db.execute(_GO_ON, *place, batch.looked_at, list(left), why)
