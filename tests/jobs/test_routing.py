"""Which provider a job goes to: rules, refusals, outages, waits, and what an operator moves."""

import asyncio
import threading
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.context import Context
from service.db import Database, Row
from service.gpu.pool import GpuPool
from service.gpu.queues import Ticket, request_id_of
from service.jobs import due, endings, filing, pauses, reads, routing, runs, store, turns
from service.jobs.routing import Route, Routes, Rule, Wait, choose
from service.jobs.submitting import Submitter
from service.jobs.watching import watch
from service.providers.base import Accepted, Offer
from tests import making
from tests.jobs.test_cost import Counting
from tests.provider import Provider, reply, says

NOBODY: frozenset[str] = frozenset()
BUSY = Wait(workers=2, jobs=10, run_seconds=8.0)
CALM = Wait(workers=2)
ONE = Wait(workers=1, jobs=1, run_seconds=8.0)


@pytest.mark.parametrize(
    ("asked", "rule", "paused", "wait", "to", "then", "why"),
    [
        ("auto", None, NOBODY, Wait(), "fal", None, None),
        ("auto", None, {"fal"}, CALM, "fal", None, None),
        ("fal", None, NOBODY, Wait(), "fal", None, "its client asked for it"),
        ("gpu", Rule("fal"), NOBODY, Wait(), "gpu", None, "its client asked for it"),
        ("auto", Rule("fal"), NOBODY, Wait(), "fal", "gpu", "a rule prefers fal"),
        ("auto", Rule("fal"), {"fal"}, CALM, "gpu", "fal", "a rule prefers fal, but fal is paused"),
        ("auto", Rule("fal"), {"fal"}, Wait(), "fal", "gpu", "a rule prefers fal"),
        ("auto", Rule("gpu"), NOBODY, CALM, "gpu", "fal", "a rule prefers gpu"),
        ("auto", Rule("gpu"), NOBODY, Wait(), "fal", "gpu", "a rule prefers gpu, but no GPU worker of this model is"),
        ("auto", Rule("gpu"), {"fal"}, Wait(), "gpu", "fal", "a rule prefers gpu"),
        ("auto", Rule("gpu", spill_seconds=60), NOBODY, BUSY, "gpu", "fal", "a rule prefers gpu"),
        ("auto", Rule("gpu", spill_seconds=30), NOBODY, BUSY, "fal", "gpu", "a rule prefers gpu, but 10 jobs wait"),
        ("auto", Rule("gpu", spill_seconds=5), NOBODY, ONE, "fal", "gpu", "a rule prefers gpu, but 1 job waits there"),
        ("auto", Rule("gpu", alone=True), {"gpu"}, Wait(), "gpu", None, "a rule: gpu alone"),
        ("gpu", Rule("gpu", alone=True), NOBODY, Wait(), "gpu", None, "its client asked for it"),
    ],
)
def test_a_route_is_chosen(
    asked: str, rule: Rule | None, paused: Any, wait: Wait, to: str, then: str | None, why: str | None
) -> None:
    route = choose(asked, rule, frozenset(paused), wait)
    assert (route.provider, route.fallback) == (to, then)
    assert route.reason == why if why is None else (route.reason or "").startswith(why)


def test_what_is_to_stay_here_cannot_be_asked_to_leave() -> None:
    with pytest.raises(ValueError, match="gpu alone"):
        choose("fal", Rule("gpu", alone=True), NOBODY, CALM)


@pytest.fixture
def sent() -> list[Ticket]:
    return []


@pytest.fixture
def both(context: Context, sent: list[Ticket]) -> Context:
    """A context whose messages to GPU workers are looked at, and which knows the rules as they are now."""
    return replace(context, gpu=GpuPool(context.db, sent.append, context.sealer), routes=Routes())


async def worker(db: Database, state: str = "idle", model: str = making.MODEL) -> None:
    await runs.hello(db, "w-1", "k-1", model, "cpu", state)


async def submit(context: Context) -> None:
    for provider in (context.fal, context.gpu, context.fal):
        await Submitter(context, provider).drain()


async def told(context: Context, tenant: UUID, job_id: UUID) -> tuple[str, str, str | None]:
    row = await reads.get(context.db, tenant, job_id)
    assert row is not None
    return row["status"], row["provider"], row["reason"]


async def test_without_rules_everything_goes_to_fal_and_nothing_is_asked_of_the_pool(
    both: Context, tenant: UUID, sent: list[Ticket]
) -> None:
    await worker(both.db)
    assert await both.routes.route(both.db, tenant, making.MODEL) == Route()
    job_id = await making.queued(both.db, tenant)
    await submit(both)
    assert await told(both, tenant, job_id) == ("submitted", "fal", None)
    assert sent == []


async def test_the_rules_are_read_once_for_all_who_ask_at_once(db: Database, tenant: UUID) -> None:
    counting, routes = Counting(db.pool), Routes()
    await asyncio.gather(*(routes.route(counting, tenant, making.MODEL) for _ in range(20)))
    once = counting.statements
    await routes.route(counting, tenant, making.MODEL)
    assert once == counting.statements == 3


class Slow(Database):
    """Whose answers, once they are there, are brought when they are let go."""

    def __init__(self, db: Database) -> None:
        super().__init__(db.pool)
        self.answered, self.let_go = asyncio.Event(), asyncio.Event()

    async def fetch(self, sql: str, *values: Any) -> list[Row]:
        rows = await super().fetch(sql, *values)
        if "FROM routes" in sql:
            self.answered.set()
            await self.let_go.wait()
        return rows


async def test_what_was_being_read_when_somebody_knows_better_is_not_believed(db: Database, tenant: UUID) -> None:
    slow, routes = Slow(db), Routes()
    asked = asyncio.create_task(routes.route(slow, tenant, making.MODEL))
    await slow.answered.wait()
    await routing.set_rule(db, "ours", making.MODEL, "gpu", alone=True, spill_seconds=None)
    routes.forget()
    assert (await routes.route(db, tenant, making.MODEL)).provider == "gpu"
    slow.let_go.set()
    assert (await asked).provider == "gpu"
    assert (await routes.route(db, tenant, making.MODEL)).provider == "gpu"


async def test_a_refusal_of_the_one_takes_a_job_to_the_other(
    both: Context, tenant: UUID, provider: Provider, sent: list[Ticket]
) -> None:
    await worker(both.db)
    provider.submit = says(reply({"detail": "Overloaded"}, 503))
    job_id = await making.queued(both.db, tenant, fallback="gpu", reason="a rule prefers fal")
    await submit(both)
    status, by, reason = await told(both, tenant, job_id)
    assert (status, by) == ("submitted", "gpu")
    assert reason is not None
    assert reason.startswith("fal did not take it: HTTP 503")
    assert [ticket.request_id for ticket in sent] == [request_id_of(job_id, 2)]
    first, second = await making.attempts(both.db, job_id)
    assert (first["provider"], first["state"], first["reason"]) == ("fal", "refused", "a rule prefers fal")
    assert (second["provider"], second["state"]) == ("gpu", "submitted")


async def test_a_refusal_does_not_take_a_job_where_nobody_works(
    both: Context, tenant: UUID, provider: Provider, sent: list[Ticket]
) -> None:
    provider.submit = says(reply({"detail": "Overloaded"}, 503))
    job_id = await making.queued(both.db, tenant, fallback="gpu")
    await submit(both)
    assert (await told(both, tenant, job_id))[:2] == ("queued", "fal")
    assert sent == []


async def test_the_models_own_refusal_is_the_end(
    both: Context, tenant: UUID, provider: Provider, sent: list[Ticket]
) -> None:
    await worker(both.db)
    provider.submit = says(reply({"detail": [{"loc": ["body"], "msg": "No.", "type": "x"}]}, 422, x_fal_request_id="r"))
    job_id = await making.queued(both.db, tenant, fallback="gpu")
    await submit(both)
    assert (await told(both, tenant, job_id))[:2] == ("failed", "fal")
    assert sent == []


async def test_what_waits_for_a_provider_that_was_paused_goes_to_the_other(both: Context, tenant: UUID) -> None:
    await worker(both.db)
    stays = await making.queued(both.db, tenant)
    goes = await making.queued(both.db, tenant, fallback="gpu")
    await pauses.pause_by_hand(both.db, "fal", "Maintenance.")
    assert (await due.anything_due(both.db))["leave"]
    assert await turns.leave_paused(both.db) == 1
    assert not (await due.anything_due(both.db))["leave"] or await turns.leave_paused(both.db) == 0
    await submit(both)
    assert (await told(both, tenant, goes))[:2] == ("submitted", "gpu")
    assert (await told(both, tenant, stays))[:2] == ("queued", "fal")
    assert "rerouted" in await making.events(both.db, goes)


@pytest.mark.parametrize("duty", ["answer", "settle"])
async def test_a_message_that_nobody_knows_of_is_sent_again_and_never_in_doubt(
    both: Context, tenant: UUID, sent: list[Ticket], duty: str
) -> None:
    """What a worker of ours gets twice is run once, so there is nothing to be afraid of."""
    await both.db.execute("UPDATE tenants SET on_doubt = 'fail'")
    await worker(both.db)
    job_id = await making.queued(both.db, tenant, provider="gpu")
    await store.claim(both.db, 1, 20.0, "gpu")
    await both.db.execute("UPDATE live_jobs SET duty = $1", duty)
    await making.make_older(both.db, job_id, 2 * runs.IDLE_SECONDS)
    for _ in range(2):
        await making.make_due(both.db, job_id)
        await watch(both)
    assert (await told(both, tenant, job_id))[:2] == ("submitted", "gpu")
    assert {ticket.request_id for ticket in sent} == {request_id_of(job_id, 1)}
    begun = await runs.start(both.db, job_id, 1, "gpu", "w-1", "k-1", request_id_of(job_id, 1))
    assert isinstance(begun, runs.Started)
    assert await making.states(both.db, job_id) == ["submitted…"]


async def test_a_message_that_was_overtaken_is_sent_again_once(both: Context, tenant: UUID, sent: list[Ticket]) -> None:
    """Messages of many jobs that wait for hours would fill the broker."""
    await worker(both.db, "busy")
    missed, next_one = [await making.queued(both.db, tenant, provider="gpu") for _ in range(2)]
    await store.claim(both.db, 1, 20.0, "gpu")
    await store.claim(both.db, 1, 20.0, "gpu")
    await both.db.execute("UPDATE live_jobs SET duty = 'report'")
    await both.db.execute("UPDATE attempts SET provider_request_id = 'gpu-' || job_id || '-1'")
    await runs.start(both.db, next_one, 1, "gpu", "w-1", "k-1", request_id_of(next_one, 1))
    for _ in range(5):
        await making.make_due(both.db, missed)
        await watch(both)
    assert [ticket.request_id for ticket in sent] == [request_id_of(missed, 1)]


async def test_a_broker_that_is_silent_holds_no_thread_that_others_need(context: Context, tenant: UUID) -> None:
    let_go = threading.Event()

    def publish(_: Ticket) -> None:
        let_go.wait(30)

    pool = GpuPool(context.db, publish, context.sealer)
    await context.sealer()
    offers = [Offer(making.new_job(tenant).id, 1, making.MODEL, "{}", "https://here.example/") for _ in range(40)]
    sending = [asyncio.create_task(pool.submit(offer)) for offer in offers]
    await asyncio.sleep(0)
    try:
        assert await asyncio.to_thread(lambda: "stored") == "stored"
        assert not any(task.done() for task in sending)
    finally:
        let_go.set()
    assert {type(answer) for answer in await asyncio.gather(*sending)} == {Accepted}


async def spilled(both: Context, tenant: UUID) -> UUID:
    await worker(both.db, "busy")
    job_id = await making.queued(both.db, tenant, provider="gpu", fallback="fal", spill_seconds=5.0)
    await Submitter(both, both.gpu).drain()
    await making.make_older(both.db, job_id, 6)
    await making.make_due(both.db, job_id)
    return job_id


async def test_a_job_that_waits_for_too_long_spills_over(both: Context, tenant: UUID) -> None:
    job_id = await spilled(both, tenant)
    await watch(both)
    await submit(both)
    status, by, reason = await told(both, tenant, job_id)
    assert (status, by) == ("submitted", "fal")
    assert reason is not None
    assert reason.startswith("it waited 6 s for gpu")
    assert await making.states(both.db, job_id) == ["superseded", "submitted…"]
    row = await reads.get(both.db, tenant, job_id)
    assert row is not None
    assert row["resubmissions"] == 0  # Nothing can be paid twice.


async def test_a_job_that_has_begun_does_not_spill_over(both: Context, tenant: UUID) -> None:
    job_id = await spilled(both, tenant)
    begun = await runs.start(both.db, job_id, 1, "gpu", "w-1", "k-1", request_id_of(job_id, 1))
    assert isinstance(begun, runs.Started)
    await making.make_due(both.db, job_id)
    await watch(both)
    assert (await told(both, tenant, job_id))[:2] == ("in_progress", "gpu")


async def test_of_a_job_that_went_elsewhere_a_result_is_taken_and_a_failure_is_not(both: Context, tenant: UUID) -> None:
    job_id = await spilled(both, tenant)
    await watch(both)
    await submit(both)
    assert await runs.start(both.db, job_id, 1, "gpu", "w-1", "k-1", request_id_of(job_id, 1)) is runs.NoGo.OVER
    [first, _] = await making.attempts(both.db, job_id)
    late = making.heard(request_id=first["provider_request_id"])
    settle = (both.db, job_id, 1)
    failed = await endings.settle(*settle, making.failed(), late, "webhook", making.Lifted())
    assert failed is None
    assert await filing.file_report(*settle, late, making.failed()) == "late"
    done = await endings.settle(*settle, making.completed(), late, "webhook", making.Lifted())
    assert done is not None
    assert done["to_stop"]
    assert await making.states(both.db, job_id) == ["completed", "superseded…"]


async def test_three_crashes_take_a_job_to_the_other_provider_if_it_may_go(both: Context, tenant: UUID) -> None:
    await worker(both.db)
    job_id = await making.queued(both.db, tenant, provider="gpu", fallback="fal")
    await Submitter(both, both.gpu).drain()
    begun = [await runs.start(both.db, job_id, 1, "gpu", "w-1", "k-1", request_id_of(job_id, 1)) for _ in range(4)]
    assert begun[-1] is runs.NoGo.CRASHED
    await watch(both)
    await submit(both)
    assert (await told(both, tenant, job_id))[1:] == ("fal", "the GPU worker crashed 3 times")


async def test_an_operator_drains_a_provider_and_what_was_asked_for_stays(
    both: Context, tenant: UUID, client: httpx.AsyncClient
) -> None:
    asked = await making.queued(both.db, tenant, asked_provider="fal")
    kept = await making.queued(both.db, tenant, model="fal-ai/mini-cpm")
    assert await routing.set_rule(both.db, "ours", "fal-ai/mini-cpm", "fal", alone=True, spill_seconds=None)
    goes = await making.queued(both.db, tenant)
    has = await making.queued(both.db, tenant)
    await both.db.execute("UPDATE live_jobs SET duty = 'report' WHERE job_id = $1", has)
    assert [tuple(row) for row in await turns.movable(both.db, "fal")] == [(making.MODEL, 1)]
    assert await turns.drain(both.db, "fal", "gpu") == 1
    places = {each: (await told(both, tenant, each))[1] for each in (asked, kept, goes, has)}
    assert places == {asked: "fal", kept: "fal", goes: "gpu", has: "fal"}
    assert (await told(both, tenant, goes))[2] == "an operator drained fal"


async def test_what_is_to_stay_here_is_not_drained_away(both: Context, tenant: UUID, client: httpx.AsyncClient) -> None:
    await worker(both.db)
    assert await routing.set_rule(both.db, "ours", "*", "gpu", alone=True, spill_seconds=None)
    private = await making.queued(
        both.db, tenant, **routing.of_job(await both.routes.route(both.db, tenant, making.MODEL))
    )
    assert await routing.remove_rule(both.db, "ours", "*")
    assert await turns.drain(both.db, "gpu", "fal") == 0
    # And what waits elsewhere can be brought to where a rule wants it.
    abroad = await making.queued(both.db, tenant)
    assert await routing.set_rule(both.db, "ours", "*", "gpu", alone=True, spill_seconds=None)
    assert [tuple(row) for row in await turns.movable(both.db, "fal")] == [(making.MODEL, 1)]
    assert await turns.drain(both.db, "fal", "gpu") == 1
    assert {(await told(both, tenant, each))[1] for each in (private, abroad)} == {"gpu"}


async def test_a_rule_that_keeps_jobs_here_keeps_those_that_are_here(
    both: Context, tenant: UUID, client: httpx.AsyncClient
) -> None:
    assert await routing.set_rule(both.db, "ours", "fal-ai/mini-cpm", "gpu", alone=False, spill_seconds=3.0)
    goes = await making.queued(both.db, tenant, provider="gpu", fallback="fal", model="fal-ai/mini-cpm")
    stays = await making.queued(both.db, tenant, provider="gpu", fallback="fal", spill_seconds=3.0)
    assert await routing.set_rule(both.db, "ours", "*", "gpu", alone=True, spill_seconds=None)
    await pauses.pause_by_hand(both.db, "gpu", "Maintenance.")
    assert await turns.leave_paused(both.db) == 1
    assert ((await told(both, tenant, goes))[1], (await told(both, tenant, stays))[1]) == ("fal", "gpu")


PROBLEM = ("max_tokens", "Too many.", "less_than_equal")


@pytest.mark.parametrize(
    ("route", "to"),
    [
        (Route("fal"), Route("fal")),
        (Route("fal", "gpu", reason="x"), Route("fal", reason="x")),
        (Route("gpu", "fal", 3.0), Route("fal", reason="GPU workers cannot run it: max_tokens: Too many.")),
    ],
)
def test_what_no_gpu_of_ours_can_run_goes_elsewhere(route: Route, to: Route) -> None:
    assert routing.within_limits(route, lambda: [PROBLEM], ("body",)) == to
    assert routing.within_limits(route, list, ("body",)) == route


async def test_what_may_go_nowhere_else_is_refused_at_the_door(client: httpx.AsyncClient) -> None:
    body = {"model": making.MODEL, "input": making.PROMPT | {"max_tokens": 4000}}
    assert (await client.post("/v1/jobs", json=body)).status_code == 202
    refused = await client.post("/v1/jobs", json=body | {"provider": "gpu"})
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body", "input", "max_tokens"]


async def test_a_rule_decides_and_a_client_is_told(client: httpx.AsyncClient, db: Database, tenant: UUID) -> None:
    assert not await routing.set_rule(db, "nobody", "*", "gpu", alone=True, spill_seconds=None)
    assert await routing.set_rule(db, "ours", "*", "gpu", alone=True, spill_seconds=None)
    body = {"model": making.MODEL, "input": making.PROMPT}

    async def goes_to_gpu() -> bool:
        made = (await client.post("/v1/jobs", json=body)).json()
        read = (await client.get(f"/v1/jobs/{made['request_id']}")).json()
        assert (made["provider"], made["provider_reason"]) == (read["provider"], read["provider_reason"])
        return (read["provider"], read["provider_reason"]) == ("gpu", "a rule: gpu alone")

    await making.until(goes_to_gpu)
    refused = await client.post("/v1/jobs", json=body | {"provider": "fal"})
    assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", "provider"])
    page = (await client.get("/v1/jobs", params={"provider": "gpu"})).json()
    assert {job["provider"] for job in page["jobs"]} == {"gpu"}
    assert await routing.remove_rule(db, "ours", "*")
    assert not await routing.remove_rule(db, "ours", "*")


async def test_one_key_and_another_provider_are_two_requests(client: httpx.AsyncClient) -> None:
    body = {"model": making.MODEL, "input": making.PROMPT}
    key = {"idempotency-key": "order-1"}
    first = await client.post("/v1/jobs", json=body, headers=key)
    assert (await client.post("/v1/jobs", json=body | {"provider": "auto"}, headers=key)).json()["request_id"] == (
        first.json()["request_id"]
    )
    assert (await client.post("/v1/jobs", json=body | {"provider": "gpu"}, headers=key)).status_code == 422


@pytest.mark.parametrize(
    ("asked", "rule", "to", "then"),
    [
        (None, None, "fal", None),
        (None, Rule("gpu", spill_seconds=9.0), "gpu", "fal"),
        (None, Rule("gpu", alone=True), "gpu", None),
        ("fal", Rule("gpu"), "fal", None),
    ],
)
async def test_many_that_are_repeated_go_where_each_would_go_today(
    db: Database, tenant: UUID, asked: str | None, rule: Rule | None, to: str, then: str | None
) -> None:
    claim = await making.ended(db, tenant, making.failed(), asked_provider=asked)
    if rule is not None:
        assert await routing.set_rule(db, "ours", "*", "gpu", alone=rule.alone, spill_seconds=rule.spill_seconds)
    new_id = making.new_job(tenant).id
    async with db.transaction() as connection:
        await store.register_retries(connection, [(claim.job_id, new_id)])
    row = await making.live(db, new_id)
    assert row is not None
    assert (row["provider"], row["fallback"]) == (to, then)
    assert row["spill_seconds"] == (rule.spill_seconds if rule and then else None)
