"""Figures of jobs over REST: what may be asked, how it is answered, and what a job shows of its cost."""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx
import pytest
from click.testing import CliRunner, Result

from service.catalog.base import Lifted
from service.cli import main
from service.db import Database
from service.jobs import endings
from service.settings import Settings
from service.stats import statements
from service.stats.counting import count_all
from tests import making
from tests.api.asking import is_problem, places
from tests.conftest import MakeClient

Command = Callable[..., Awaitable[Result]]


@pytest.fixture
def command(settings: Settings) -> Command:
    environment = {"ROUNDTRIP_DATABASE_URL": settings.require_database_url()}

    async def run(*words: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, list(words), env=environment)

    return run


async def stats(client: httpx.AsyncClient, query: str = "") -> dict[str, Any]:
    response = await client.get(f"/v1/stats{query}")
    assert response.status_code == 200, response.text
    return dict(response.json())


async def completed(db: Database, tenant: UUID, headers: str = "{}", provider: str = "fal", **lifted: Any) -> UUID:
    claim = await making.submitted(db, tenant)
    await db.execute("UPDATE attempts SET provider = $2 WHERE job_id = $1", claim.job_id, provider)
    ending = making.completed()
    said = making.heard(ending.body, headers=headers)
    assert await endings.settle(db, claim.job_id, 1, ending, said, "webhook", Lifted(**lifted))
    return claim.job_id


async def test_a_job_that_just_ended_is_in_the_figures(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    for _ in range(3):
        await making.ended(db, tenant)
    await making.ended(db, tenant, making.failed())
    await making.queued(db, tenant)
    before = await stats(client, "?measure=count,failure_rate")
    assert before["groups"] == [{"count": 5, "failure_rate": 0.25}]
    assert before["complete"]
    await count_all(db)
    assert await stats(client, "?measure=count,failure_rate") == before
    by_status = await stats(client, "?group_by=status&measure=count")
    assert by_status["groups"] == [
        {"status": "completed", "count": 3},
        {"status": "failed", "count": 1},
        {"status": "queued", "count": 1},
    ]


async def test_what_nobody_knows_is_null(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    every = "?measure=count,failure_rate,mean,p50,tokens,cost"
    nothing = {"count": 0, "failure_rate": None, "mean": None, "p50": None, "tokens": None, "cost": None}
    assert (await stats(client, every))["groups"] == [nothing]
    await making.queued(db, tenant)
    assert (await stats(client, every))["groups"] == [{**nothing, "count": 1}]
    assert (await stats(client, f"{every}&group_by=model"))["groups"] == [
        {"model": making.MODEL, **nothing, "count": 1}
    ]


async def test_the_answer_says_what_was_asked(client: httpx.AsyncClient) -> None:
    answer = await stats(
        client, "?group_by=model,day&of=run_seconds&created_after=2026-01-05&created_before=2026-01-07"
    )
    assert answer == {
        "created_after": "2026-01-05T00:00:00Z",
        "created_before": "2026-01-07T00:00:00Z",
        "group_by": ["model", "day"],
        "measure": ["count", "failure_rate", "p50", "p95", "p99"],
        "of": "run_seconds",
        "percentile_accuracy": 0.02,
        "currency": None,
        "complete": True,
        "groups": [],
    }
    by_hour = await stats(client, "?group_by=hour")
    assert by_hour["created_after"].endswith(":00:00Z")
    assert by_hour["created_before"] is None
    assert (await stats(client))["created_after"] is None


async def test_nobody_sees_another_tenants_figures(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, nobody: httpx.AsyncClient, db: Database, tenant: UUID
) -> None:
    for _ in range(2):
        await making.ended(db, tenant, tags=["shop"])
    await count_all(db)
    await making.ended(db, tenant)
    for query in ("?measure=count", "?measure=count&tag=shop", "?measure=count&created_after=2026-01-01T00:30:00Z"):
        assert (await stats(stranger, query))["groups"] == [{"count": 0}]
    assert is_problem(await nobody.get("/v1/stats"), 401)
    assert (await stats(client, "?measure=count&tag=shop"))["groups"] == [{"count": 2}]


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("group_by=colour", "group_by"),
        ("group_by=hour,day", "group_by"),
        ("measure=p42", "measure"),
        ("of=colour", "of"),
        ("of=usage.", "of"),
        ("of=total_seconds,run_seconds", "of"),
        ("of=usage.a%00b", "of"),
        ("limit=5", "limit"),
        ("cursor=AAAA", "cursor"),
        ("status=gone", "status"),
        ("colour=red", "colour"),
        ("group_by=hour&created_after=2026-01-01&created_before=2026-03-01", "group_by"),
        ("group_by=day&created_after=2020-01-01&created_before=2026-03-01", "group_by"),
        ("group_by=hour&created_after=1970-01-01", "group_by"),
    ],
)
async def test_what_cannot_be_asked_says_where(client: httpx.AsyncClient, query: str, place: str) -> None:
    assert places(await client.get(f"/v1/stats?{query}")) == [["query", place]]


@pytest.mark.parametrize(
    "query",
    [
        "?created_after=9999-12-31T23:59:59Z",
        "?created_before=0001-01-01",
        "?group_by=hour&created_before=0001-01-01",
        "?group_by=day&created_before=0001-01-01",
        "?group_by=hour&created_after=0001-01-01&created_before=0001-01-02",
        "?group_by=hour&created_before=9999-12-31T23:30:00Z",
        "?group_by=month&created_after=2026-05-05T05:05:05Z&created_before=2026-05-05T05:05:06Z",
        "?group_by=model,provider,status,error_type,day&measure=count,failure_rate,mean,p50,p75,p90,p95,p99,tokens,cost",
        "?error_type=it's&status=queued&group_by=error_type&of=timings.model.a'b",
        "?tag=none&group_by=hour&of=cost",
        "?created_after=2026-03-01&created_before=2026-02-01",
    ],
)
async def test_odd_questions_are_answered(client: httpx.AsyncClient, db: Database, query: str) -> None:
    assert (await stats(client, query))["complete"]


@pytest.mark.parametrize(
    ("limit", "query"),
    [
        ("MOST_SPREAD", "?group_by=month"),
        ("MOST_TALLIES", "?group_by=month&measure=count"),
        ("MOST_JOBS", "?created_after={this_hour}"),
        ("MOST_JOBS", "?total_seconds_min=0"),
        ("MOST_LIVE", "?group_by=model"),
    ],
)
async def test_a_question_that_costs_too_much_says_what_to_add(
    client: httpx.AsyncClient, db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch, limit: str, query: str
) -> None:
    for _ in range(2):
        await making.ended(db, tenant)
    await making.queued(db, tenant)
    await count_all(db)
    monkeypatch.setattr(statements, limit, 0)
    monkeypatch.setattr(f"service.stats.answers.{limit}", 0, raising=False)
    row = await db.fetchrow("SELECT min(created_at) AS first FROM outcomes")
    assert row is not None
    # A moment after the hour has begun, and before the first of them.
    response = await client.get(f"/v1/stats{query.format(this_hour=row['first'].isoformat().replace('+00:00', 'Z'))}")
    assert places(response) == [["query"]]
    assert response.json()["detail"][0]["type"] == "too_costly"


@pytest.mark.parametrize("query", ["?measure=count", "?group_by=status", "?status=queued&measure=count"])
async def test_however_much_is_under_way_it_is_counted_by_status(
    client: httpx.AsyncClient, db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    for name in ("service.stats.answers.MOST_LIVE", "service.stats.statements.MOST_LIVE"):
        monkeypatch.setattr(name, 2)
    for _ in range(4):
        await making.queued(db, tenant)
    [group] = (await stats(client, query))["groups"]
    assert group["count"] == 4


async def test_more_that_just_ended_than_can_be_looked_at_is_said(
    client: httpx.AsyncClient, db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "MOST_UNCOUNTED", 1)
    monkeypatch.setattr("service.stats.answers.MOST_UNCOUNTED", 1)
    for _ in range(3):
        await making.ended(db, tenant)
    assert not (await stats(client))["complete"]
    await count_all(db)
    answer = await stats(client, "?measure=count")
    assert (answer["complete"], answer["groups"]) == (True, [{"count": 3}])


async def test_a_job_costs_what_the_price_was_when_it_ended(
    client: httpx.AsyncClient, db: Database, tenant: UUID, command: Command
) -> None:
    free = await completed(db, tenant, usage={"output_tokens": 1_000})
    assert (await command("prices", "set", making.MODEL, "usage.output_tokens", "0.0000003")).exit_code == 0
    assert (await command("prices", "set", making.MODEL, "job", "0.01")).exit_code == 0
    paid = await completed(db, tenant, usage={"output_tokens": 1_000})
    unknown = await completed(db, tenant)
    assert (await command("prices", "set", making.MODEL, "job", "1")).exit_code == 0
    failed = (await making.ended(db, tenant, making.failed())).job_id
    dear = await completed(db, tenant, usage={"output_tokens": 0})
    # Before it is counted, as after it.
    assert (await stats(client, "?measure=cost"))["groups"] == [{"cost": "1.0103"}]
    await count_all(db)
    costs = [(await client.get(f"/v1/jobs/{job}")).json()["cost"] for job in (free, paid, unknown, failed, dear)]
    assert costs == [None, "0.0103", None, None, "1"]
    answer = await stats(client, "?measure=cost,tokens&group_by=status")
    assert answer["currency"] == "USD"
    assert answer["groups"] == [
        {"status": "completed", "cost": "1.0103", "tokens": {"output_tokens": 2_000}},
        {"status": "failed", "cost": None, "tokens": None},
    ]
    assert (await command("prices", "remove", making.MODEL, "job")).exit_code == 0
    cheaper = await completed(db, tenant, usage={"output_tokens": 1})
    await count_all(db)
    row = await making.outcome(db, cheaper)
    assert row is not None
    assert row["cost"] == Decimal("0.0000003")


@pytest.mark.parametrize(
    ("header", "units", "cost"),
    [('"2.50"', 2.5, "0.1"), ('"0"', 0, "0"), ('"many"', None, None), ('"1e400"', None, None), ("7", 7, "0.28")],
)
async def test_billable_units_are_those_of_the_answer_that_ended_the_job(
    client: httpx.AsyncClient, db: Database, tenant: UUID, command: Command, header: str, units: float, cost: str
) -> None:
    await command("prices", "set", making.MODEL, "billable_unit", "0.04")
    job = await completed(db, tenant, headers=f'{{"x-fal-billable-units": {header}}}')
    await count_all(db)
    shown = (await client.get(f"/v1/jobs/{job}")).json()
    assert (shown["billable_units"], shown["cost"]) == (units, cost)


async def test_a_provider_with_prices_of_its_own_costs_these_alone(
    db: Database, tenant: UUID, command: Command
) -> None:
    async def cost(provider: str) -> Decimal | None:
        job = await completed(db, tenant, provider=provider, timings={"inference": 2})
        await count_all(db)
        row = await making.outcome(db, job)
        assert row is not None
        return row["cost"]  # type: ignore[no-any-return]

    await command("prices", "set", making.MODEL, "second", "0.5")
    assert (await cost("fal"), await cost("gpu")) == (Decimal(1), Decimal(1))
    said = await command("prices", "set", making.MODEL, "job", "0.125", "--provider", "gpu")
    assert said.output.startswith(f"{making.MODEL} costs 0.125 USD a job of gpu since ")
    await command("prices", "set", "another", "job", "7", "--provider", "fal")
    assert (await cost("fal"), await cost("gpu")) == (Decimal(1), Decimal("0.125"))
    assert (await command("prices", "remove", making.MODEL, "second")).exit_code == 0
    assert (await cost("fal"), await cost("gpu")) == (None, Decimal("0.125"))
    assert (await command("prices", "remove", making.MODEL, "job", "--provider", "gpu")).exit_code == 0
    assert await cost("gpu") is None
    await command("prices", "set", making.MODEL, "second", "0.25")
    assert await cost("gpu") == Decimal("0.5")


async def test_the_currency_can_be_changed_when_no_price_holds(
    client: httpx.AsyncClient, db: Database, tenant: UUID, command: Command
) -> None:
    euros = ("prices", "set", making.MODEL, "second", "2", "--currency", "EUR")
    for unit in ("job", "second"):
        assert (await command("prices", "set", making.MODEL, unit, "1")).exit_code == 0
    for unit in ("job", "second"):
        assert (await command(*euros)).exit_code == 1
        assert (await command("prices", "remove", making.MODEL, unit)).exit_code == 0
    assert (await stats(client, "?measure=cost"))["currency"] == "USD"
    assert (await command(*euros)).exit_code == 0
    assert [price["currency"] for price in (await client.get("/v1/prices")).json()["prices"]] == ["EUR"]
    assert (await stats(client, "?measure=cost"))["currency"] == "EUR"
    assert (await command("prices", "set", making.MODEL, "job", "1")).exit_code == 1


async def test_prices_are_for_administrators(
    client: httpx.AsyncClient, make_client: MakeClient, command: Command
) -> None:
    await command("prices", "set", "fal-ai/b", "second", "0.0005")
    await command("prices", "set", "fal-ai/a", "job", "2")
    await command("prices", "set", "fal-ai/a", "job", "0", "--provider", "gpu")
    listed = (await client.get("/v1/prices")).json()["prices"]
    assert [tuple(each.values())[:5] for each in listed] == [
        ("fal-ai/a", "*", "job", "2", "USD"),
        ("fal-ai/a", "gpu", "job", "0", "USD"),
        ("fal-ai/b", "*", "second", "0.0005", "USD"),
    ]
    reader = await make_client(scopes=("read", "submit"))
    assert is_problem(await reader.get("/v1/prices"), 403)
    heading, *rows = (await command("prices", "list")).output.splitlines()
    assert heading.split() == ["MODEL", "PROVIDER", "UNIT", "AMOUNT", "CURRENCY", "SINCE"]
    assert [row.split()[:4] for row in rows] == [
        ["fal-ai/a", "*", "job", "2"],
        ["fal-ai/a", "gpu", "job", "0"],
        ["fal-ai/b", "*", "second", "0.0005"],
    ]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("set", "m", "hour", "1"), 2, "must be one of job, second"),
        (("set", "m", "usage.", "1"), 2, "must be one of job, second"),
        (("set", "m", "job", "--", "-1"), 2, "must be a decimal"),
        (("set", "m", "job", "NaN"), 2, "must be a decimal"),
        (("set", "m", "job", "cheap"), 2, "must be a decimal"),
        (("set", "m", "job", "1", "--currency", "euros"), 2, "must be three letters"),
        (("set", "m", "job", "1", "--currency", "EUR"), 1, "another currency"),
        (("set", "m", "job", "1", "--provider", "aws"), 2, "is not one of 'fal', 'gpu'"),
        (("remove", "m", "job"), 1, "there is no price"),
        (("remove", "other", "job", "--provider", "gpu"), 1, "there is no price for a job of gpu of other"),
    ],
)
async def test_a_price_that_cannot_be_is_refused(
    db: Database, command: Command, words: tuple[str, ...], status: int, says: str
) -> None:
    await command("prices", "set", "other", "job", "1")
    result = await command("prices", *words)
    assert result.exit_code == status
    assert says in result.output


async def test_all_can_be_counted_by_hand(db: Database, tenant: UUID, command: Command) -> None:
    await making.ended(db, tenant)
    assert (await command("stats", "count")).output == "Counted 1.\n"
    assert await making.count(db, "uncounted") == 0
