"""What models cost, as the operator says: a price holds for the jobs that end after it was set.

A provider that has prices of its own for a model costs what these say, and nothing else does; the prices of
`ANY_PROVIDER` are for those that have none.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from service.db import Database
from service.jobs.filters import USAGE

# What an amount is for: a job, a second of the run (the model's own `inference` where it tells it), what the provider
# calls a billable unit, or one of what the model itself counts.
UNITS = ("job", "second", "billable_unit")

ANY_PROVIDER = "*"


@dataclass(frozen=True, slots=True)
class Price:
    model: str
    provider: str
    unit: str
    amount: Decimal
    currency: str
    since: datetime


class OtherCurrency(ValueError):
    """Costs are added up, so all prices that hold have one currency."""


def is_unit(word: str) -> bool:
    return word in UNITS or (word.startswith(USAGE) and word != USAGE)


def cost_of(job: str) -> str:
    """The cost of an outcome as a SQL expression.

    Null: not completed, or no price is known, or how much there is to pay for is not.
    """
    inference = f"CASE jsonb_typeof({job}.model_timings -> 'inference') WHEN 'number' THEN"
    inference += f" ({job}.model_timings ->> 'inference')::numeric END"
    used = f"{job}.usage -> substr(price.unit, {len(USAGE) + 1})"
    return f"""CASE {job}.status WHEN 'completed' THEN (
        SELECT CASE WHEN bool_and(quantity IS NOT NULL) THEN trim_scale(sum(amount * quantity)) END FROM (
            SELECT unit, amount, rank() OVER (ORDER BY provider = '{ANY_PROVIDER}') AS place FROM (
                SELECT DISTINCT ON (provider, unit) provider, unit, amount FROM prices
                WHERE prices.model = {job}.model AND prices.provider IN ({job}.provider, '{ANY_PROVIDER}')
                  AND since <= {job}.completed_at
                ORDER BY provider, unit, since DESC
            ) AS newest WHERE amount IS NOT NULL
        ) AS price CROSS JOIN LATERAL (SELECT CASE price.unit
            WHEN 'job' THEN 1
            WHEN 'second' THEN coalesce({inference}, {job}.run_seconds::numeric)
            WHEN 'billable_unit' THEN {job}.billable_units
            ELSE CASE jsonb_typeof({used}) WHEN 'number' THEN ({used})::numeric END
        END AS quantity) AS bought
        WHERE price.place = 1
    ) END"""


_VALID = """
SELECT model, provider, unit, amount, currency, since FROM (
    SELECT DISTINCT ON (model, provider, unit) * FROM prices WHERE since <= clock_timestamp()
    ORDER BY model, provider, unit, since DESC
) AS newest
WHERE amount IS NOT NULL ORDER BY model, provider, unit
"""

_SET = f"""
INSERT INTO prices (model, provider, unit, amount, currency)
SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT FROM ({_VALID}) AS valid WHERE currency <> $5)
RETURNING model, provider, unit, amount, currency, since
"""

# That of the newest price, also of one that was removed.
CURRENCY = "SELECT currency FROM prices ORDER BY since DESC LIMIT 1"

_REMOVE = f"""
INSERT INTO prices (model, provider, unit, currency)
SELECT model, provider, unit, currency FROM ({_VALID}) AS valid WHERE model = $1 AND provider = $2 AND unit = $3
RETURNING model
"""


async def set_price(
    db: Database, model: str, unit: str, amount: Decimal, currency: str, provider: str = ANY_PROVIDER
) -> Price:
    """From now on. Raises OtherCurrency."""
    row = await db.fetchrow(_SET, model, provider, unit, amount, currency)
    if row is None:
        raise OtherCurrency
    return Price(**dict(row))


async def prices(db: Database) -> list[Price]:
    """Those that hold now."""
    return [Price(**dict(row)) for row in await db.fetch(_VALID)]


async def remove_price(db: Database, model: str, unit: str, provider: str = ANY_PROVIDER) -> bool:
    """From now on there is none. False: there was none."""
    return await db.fetchrow(_REMOVE, model, provider, unit) is not None
