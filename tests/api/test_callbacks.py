"""What a client sees of its callbacks, and how it asks for them once more."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.callbacks.delivering import Deliverer
from service.context import Context
from service.network import AddressGuard, open_http
from tests import making
from tests.api.asking import is_problem, places
from tests.callbacks import told
from tests.callbacks.receiver import dead_address, receiving
from tests.provider import Reply


@pytest.fixture
async def deliverer(context: Context) -> Any:
    async with open_http(guard=AddressGuard(allow_private=True)) as http:
        yield Deliverer(replace(context, callbacks=http))


async def shown(client: httpx.AsyncClient, job_id: UUID) -> dict[str, Any]:
    response = await client.get(f"/v1/jobs/{job_id}/callback")
    assert response.status_code == 200, response.text
    assert response.headers["x-fal-request-id"] == str(job_id)
    return dict(response.json())


async def test_every_state_is_shown_with_its_tries(
    client: httpx.AsyncClient, context: Context, tenant: UUID, deliverer: Deliverer
) -> None:
    async with receiving(Reply(500), Reply(503), Reply()) as receiver:
        claim = await making.submitted(context.db, tenant, webhook_url=receiver.address)
        assert await shown(client, claim.job_id) == {
            "url": receiver.address,
            "state": "waiting",
            "format": None,
            "next_try_at": None,
            "held_until": None,
            "ended_at": None,
            "tries": [],
        }
        await making.settle(context.db, claim)
        assert (await shown(client, claim.job_id))["state"] == "pending"
        job = (await client.get(f"/v1/jobs/{claim.job_id}")).json()
        assert (await client.get(job["links"]["callback"])).status_code == 200
        await told.drain(deliverer)
        await told.try_now(deliverer, context.db, claim.job_id)
        pending = await shown(client, claim.job_id)
        assert (pending["state"], pending["format"]) == ("pending", "fal")
        assert datetime.fromisoformat(pending["next_try_at"]) > datetime.now(UTC)
        await told.try_now(deliverer, context.db, claim.job_id)
    done = await shown(client, claim.job_id)
    assert (done["state"], done["next_try_at"]) == ("delivered", None)
    assert [(each["number"], each["http_status"], each["error"]) for each in done["tries"]] == [
        (1, 500, "HTTP 500"),
        (2, 503, "HTTP 503"),
        (3, 200, None),
    ]
    assert all(0 <= each["seconds"] < 15 for each in done["tries"])
    assert done["ended_at"] >= done["tries"][2]["at"] > done["tries"][0]["at"]


async def test_a_receiver_that_is_held_says_until_when(
    client: httpx.AsyncClient, context: Context, tenant: UUID, deliverer: Deliverer
) -> None:
    jobs = await told.ended_many(context.db, tenant, dead_address(), 10)
    await told.drain(deliverer)
    assert datetime.fromisoformat((await shown(client, jobs[0]))["held_until"]) > datetime.now(UTC)


async def test_one_is_told_once_more(
    client: httpx.AsyncClient, context: Context, tenant: UUID, deliverer: Deliverer
) -> None:
    async with receiving() as receiver:
        job_id = await told.ended(context.db, tenant, receiver.address)
        await told.drain(deliverer)
        response = await client.post(f"/v1/jobs/{job_id}/callback/redeliver")
        assert (response.status_code, response.json()["state"]) == (202, "pending")
        await told.drain(deliverer)
        assert len(receiver.calls) == 2
    assert len((await shown(client, job_id))["tries"]) == 2


async def test_all_since_a_time_are_told_once_more(
    client: httpx.AsyncClient, context: Context, tenant: UUID, deliverer: Deliverer
) -> None:
    db, now = context.db, datetime.now(UTC)
    async with receiving() as receiver:
        jobs = [await told.ended(db, tenant, receiver.address) for _ in range(4)]
        theirs = await told.ended(db, await making.make_tenant(db, "theirs"), receiver.address)
        await told.drain(deliverer)
        for age, job_id in enumerate(jobs):
            await db.execute(
                "UPDATE callbacks SET created_at = $2 WHERE job_id = $1", job_id, now - timedelta(hours=age)
            )
        await db.execute("UPDATE callbacks SET state = 'given_up' WHERE job_id = $1", jobs[1])

        async def asked(**body: Any) -> int:
            response = await client.post("/v1/callbacks/redeliver", json=body)
            assert response.status_code == 202, response.text
            await told.drain(deliverer)
            return int(response.json()["callbacks"])

        def ago(hours: float) -> str:
            return (now - timedelta(hours=hours)).isoformat()

        assert await asked(since=ago(1.5), state="given_up") == 1
        assert await asked(since=ago(1.5)) == 2
        assert await asked(since=ago(9), until=ago(2.5)) == 1
        assert await asked(since=ago(9)) == 4
        assert await asked(since=ago(-1)) == 0
        assert len(receiver.calls) == 5 + 8
        assert len(await told.tries(db, theirs)) == 1


async def test_what_is_on_its_way_is_left_to_arrive(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    job_id = await told.ended(context.db, tenant, dead_address())
    await told.take(context.db, 1)
    response = await client.post("/v1/callbacks/redeliver", json={"since": "2026-01-01"})
    assert response.json() == {"callbacks": 1}
    assert (await client.post(f"/v1/jobs/{job_id}/callback/redeliver")).status_code == 202
    assert await told.due_in(context.db, job_id) > 2


async def test_a_job_without_an_address_has_none(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    claim = await making.ended(context.db, tenant)
    assert is_problem(await client.get(f"/v1/jobs/{claim.job_id}/callback"), 404)
    assert is_problem(await client.post(f"/v1/jobs/{claim.job_id}/callback/redeliver"), 404)


async def test_a_job_that_has_not_ended_has_nothing_to_tell(
    client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    claim = await making.submitted(context.db, tenant, webhook_url=dead_address())
    assert is_problem(await client.post(f"/v1/jobs/{claim.job_id}/callback/redeliver"), 409)


async def test_anothers_callback_is_nobodys(
    stranger: httpx.AsyncClient, context: Context, tenant: UUID, client: httpx.AsyncClient
) -> None:
    job_id = await told.ended(context.db, tenant, dead_address())
    assert is_problem(await stranger.get(f"/v1/jobs/{job_id}/callback"), 404)
    assert is_problem(await stranger.post(f"/v1/jobs/{job_id}/callback/redeliver"), 404)
    assert (await stranger.post("/v1/callbacks/redeliver", json={"since": "2026-01-01"})).json() == {"callbacks": 0}
    assert (await client.post("/v1/callbacks/redeliver", json={"since": "2026-01-01"})).json() == {"callbacks": 1}


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "since"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-01-01", "state": "waiting"}, "state"),
        ({"since": "2026-01-01", "more": 1}, "more"),
        ({"since": "2026-01-01", "until": []}, "until"),
        ({"since": "0001-01-01T00:00:00+23:59"}, "since"),
        ({"since": "2026-01-01", "until": "9999-12-31T23:59:59-23:59"}, "until"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any], place: str
) -> None:
    assert places(await client.post("/v1/callbacks/redeliver", json=body)) == [["body", place]]
