"""What is known to have been paid beside a job's own cost: attempts that it ended without, each of them once."""

import asyncio
import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.context import Context
from service.db import Database
from service.jobs import endings, operations, store
from service.jobs.facts import Claim
from service.stats.counting import count_all
from service.stats.prices import set_price
from tests import making
from tests.webhooks.posting import Poster


def output(seconds: float = 2, tokens: int = 100, said: str = "A cat.") -> bytes:
    return json.dumps({"output": said, "usage": {"output_tokens": tokens}, "timings": {"inference": seconds}}).encode()


async def lost(db: Database, tenant: UUID, by: str = "gpu") -> Claim:
    """A first attempt that fal has, of a job that the second has completed elsewhere."""
    first = await making.claimed(db, tenant)
    second = await making.resubmitted(db, first)
    await db.execute("UPDATE attempts SET provider = $2 WHERE job_id = $1 AND number = 2", first.job_id, by)
    await store.record_answers(db, [making.accepted(first, "r-1")])
    assert await making.settle(db, second)
    return first


async def post(poster: Poster, claim: Claim, payload: bytes, request_id: str = "r-1", **fields: Any) -> str:
    path = poster.sealer.path(claim.job_id, claim.attempt, claim.model)
    return str((await poster.post(path, request_id, payload, **fields))["verdict"])


async def costs(client: httpx.AsyncClient, job_id: UUID) -> tuple[str | None, str | None, list[str | None]]:
    """The job's, that of others, and that of each attempt."""
    job = (await client.get(f"/v1/jobs/{job_id}")).json()
    attempts = (await client.get(f"/v1/jobs/{job_id}/attempts")).json()["attempts"]
    return job["cost"], job["cost_of_others"], [each["cost"] for each in attempts]


async def test_a_late_result_of_an_attempt_that_lost_has_its_cost_once(
    client: httpx.AsyncClient, db: Database, tenant: UUID, poster: Poster
) -> None:
    await set_price(db, making.MODEL, "second", Decimal("0.5"), "USD", "fal")
    await set_price(db, making.MODEL, "usage.output_tokens", Decimal("0.001"), "USD", "fal")
    await set_price(db, making.MODEL, "job", Decimal("0.01"), "USD", "gpu")
    claim = await lost(db, tenant)
    await count_all(db)
    assert await costs(client, claim.job_id) == ("0.01", None, [None, "0.01"])
    for again in (output(), output(), output(7)):
        assert await post(poster, claim, again) == "late"
        assert await costs(client, claim.job_id) == ("0.01", "1.1", ["1.1", "0.01"])
    await count_all(db)
    figures = await client.get("/v1/stats?measure=cost")
    assert figures.json()["groups"] == [{"cost": "0.01"}]


async def test_webhooks_that_come_at_once_are_booked_once(
    client: httpx.AsyncClient, db: Database, tenant: UUID, poster: Poster
) -> None:
    await set_price(db, making.MODEL, "second", Decimal("0.5"), "USD")
    claim = await lost(db, tenant)
    bodies = [output(seconds) for seconds in range(1, 9)]
    assert set(await asyncio.gather(*(post(poster, claim, body) for body in bodies))) == {"late"}
    [first, _] = await making.attempts(db, claim.job_id)
    assert first["cost"] in {Decimal(seconds) / 2 for seconds in range(1, 9)}
    assert (await costs(client, claim.job_id))[1] == f"{first['cost']:f}"


async def test_it_costs_what_the_price_was_when_the_job_ended(
    client: httpx.AsyncClient, db: Database, tenant: UUID, poster: Poster
) -> None:
    await set_price(db, making.MODEL, "job", Decimal("0.25"), "USD")
    claim = await lost(db, tenant)
    await set_price(db, making.MODEL, "job", Decimal("9"), "USD")
    await post(poster, claim, output())
    assert (await costs(client, claim.job_id))[1] == "0.25"


async def test_what_has_no_price_or_tells_no_quantity_is_not_known_to_cost_anything(
    client: httpx.AsyncClient, db: Database, tenant: UUID, poster: Poster
) -> None:
    free = await lost(db, tenant)
    assert await post(poster, free, output()) == "late"
    await set_price(db, making.MODEL, "job", Decimal("0.01"), "USD", "gpu")
    await set_price(db, making.MODEL, "second", Decimal("0.5"), "USD", "fal")
    assert await post(poster, free, output()) == "late"
    silent = await lost(db, tenant)
    assert await post(poster, silent, making.DOG) == "late"
    await count_all(db)
    assert await costs(client, free.job_id) == (None, None, [None, None])
    assert await costs(client, silent.job_id) == ("0.01", None, [None, "0.01"])
    # What did not tell it may do so yet.
    assert await post(poster, silent, output(3)) == "late"
    assert (await costs(client, silent.job_id))[1] == "1.5"


async def test_a_late_failure_costs_nothing(
    client: httpx.AsyncClient, db: Database, tenant: UUID, poster: Poster
) -> None:
    await set_price(db, making.MODEL, "job", Decimal("0.25"), "USD")
    claim = await lost(db, tenant)
    assert await post(poster, claim, b'{"detail": "It broke."}', status="ERROR") == "late"
    await count_all(db)
    assert await costs(client, claim.job_id) == ("0.25", None, [None, "0.25"])


async def test_a_result_that_says_otherwise_than_that_of_the_job_costs_nothing_more(
    client: httpx.AsyncClient, db: Database, tenant: UUID, poster: Poster
) -> None:
    await set_price(db, making.MODEL, "job", Decimal("0.25"), "USD")
    claim = await making.ended(db, tenant, request_id="r-1")
    assert await post(poster, claim, output(said="A dog.")) == "conflict"
    assert await post(poster, claim, making.CAT) == "duplicate"
    await count_all(db)
    assert await costs(client, claim.job_id) == ("0.25", None, ["0.25"])


@pytest.mark.parametrize("ended", ["failed", "cancelled", "too late"])
async def test_a_result_in_vain_has_its_cost(
    client: httpx.AsyncClient, db: Database, tenant: UUID, poster: Poster, ended: str
) -> None:
    await set_price(db, making.MODEL, "job", Decimal("0.25"), "USD")
    claim = await making.submitted(db, tenant, "r-1")
    if ended == "failed":
        assert await making.settle(db, claim, making.failed())
    else:
        end = operations.CANCELLED if ended == "cancelled" else operations.TOO_LATE
        assert await endings.close(db, claim.job_id, end, even_if_submitted=True)
    assert await post(poster, claim, output()) == ("conflict" if ended == "failed" else "late")
    await count_all(db)
    assert await costs(client, claim.job_id) == (None, "0.25", ["0.25"])


async def test_the_result_of_another_request_is_no_attempts(
    client: httpx.AsyncClient, db: Database, tenant: UUID, poster: Poster
) -> None:
    await set_price(db, making.MODEL, "job", Decimal("0.25"), "USD")
    claim = await lost(db, tenant)
    assert await post(poster, claim, output(), "r-2") == "foreign"
    await making.submitted(db, tenant, "r-3")
    nameless = await making.claimed(db, tenant)
    assert await making.settle(db, await making.resubmitted(db, nameless))
    assert await post(poster, nameless, output(), "r-3") == "late"
    await count_all(db)
    for job_id in (claim.job_id, nameless.job_id):
        assert await costs(client, job_id) == ("0.25", None, [None, "0.25"])
    assert await post(poster, nameless, output(), "r-4") == "late"
    assert (await costs(client, nameless.job_id))[1] == "0.25"


# What the result of an attempt costs, by its provider.
PRICES = {"fal": lambda number: Decimal(number) / 2, "gpu": lambda _: Decimal("0.125")}


@settings(max_examples=100)
@given(
    providers=st.lists(st.sampled_from(["fal", "gpu"]), min_size=1, max_size=4),
    news=st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=10),
)
async def test_all_that_was_carried_out_is_paid_for_once_whatever_the_order_of_the_news(
    context: Context, tenant: UUID, providers: list[str], news: list[tuple[int, bool]]
) -> None:
    db = context.db
    if not await making.count(db, "prices"):
        await set_price(db, making.MODEL, "second", Decimal("0.5"), "USD")
        await set_price(db, making.MODEL, "job", Decimal("0.125"), "USD", "gpu")
    claim = await making.claimed(db, tenant)
    for _ in providers[1:]:
        claim = await making.resubmitted(db, claim)
    job_id = claim.job_id
    for number, provider in enumerate(providers, 1):
        await db.execute(
            "UPDATE attempts SET provider = $3 WHERE job_id = $1 AND number = $2", job_id, number, provider
        )
    carried_out = set()
    for number, worked in news:
        if number <= len(providers):
            end = making.completed(output(number, said=f"{number}")) if worked else making.failed()
            said = making.heard(end.body, request_id=f"{job_id}-{number}")
            await operations.end(context, job_id, number, making.MODEL, end, said)
            carried_out |= {number} if worked else set()
    await count_all(db)
    paid = await db.fetchrow(
        "SELECT (SELECT cost FROM outcomes WHERE job_id = $1) AS winner,"
        " (SELECT sum(cost) FROM attempts WHERE job_id = $1) AS others",
        job_id,
    )
    assert paid is not None
    known = [cost for cost in paid.values() if cost is not None]
    assert sum(known) == sum(PRICES[providers[number - 1]](number) for number in carried_out)
    assert bool(known) == bool(carried_out)
