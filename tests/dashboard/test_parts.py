"""A page whose one part is slow or fails still shows the rest, and what nobody knows is unknown, never zero."""

import re
from decimal import Decimal
from uuid import UUID

import httpx
import pytest

from service.context import Context
from service.db import one_connection
from service.gpu.queues import request_id_of
from service.jobs import due, operations, runs, store
from service.retention import removing
from service.retention.parts import Keep, Part
from service.settings import Settings
from service.stats.counting import count_all
from service.stats.prices import set_price
from tests import making
from tests.dashboard.filling import fill
from tests.dashboard.looking import key_of, signed_in
from tests.retention.test_removing import ended as with_files


def part(page: httpx.Response, name: str) -> str:
    """The HTML of a part, up to the next."""
    found = re.search(rf'data-part="{name}">(.*?)(?=data-part=|</main>)', page.text, re.DOTALL)
    assert found is not None, name
    return found[1]


@pytest.mark.parametrize(
    ("table", "path", "missing", "there"),
    [
        ("tallies", "/dashboard", ["throughput", "totals", "models"], ["hand"]),
        ("copies", "/dashboard", ["hand"], ["throughput", "models"]),
        ("series", "/dashboard/jobs", ["statuses"], ["list"]),
        ("receivers", "/dashboard/webhooks/out", ["receivers"], ["list"]),
        ("processes", "/dashboard/system", ["processes"], ["versions"]),
        ("callback_tries", "/dashboard/jobs/{told}", ["callback"], ["shown", "time", "attempts", "evidence", "log"]),
        ("reports", "/dashboard/jobs/{told}", ["evidence"], ["shown", "time", "attempts", "callback", "log"]),
    ],
)
async def test_a_part_that_is_held_up_keeps_no_other(
    api: str,
    client: httpx.AsyncClient,
    context: Context,
    settings: Settings,
    tenant: UUID,
    table: str,
    path: str,
    missing: list[str],
    there: list[str],
) -> None:
    filled = await fill(context, tenant)
    async with signed_in(api, key_of(client)) as person, one_connection(settings.require_database_url()) as other:
        address = path.format(told=filled.jobs["told"])
        async with other.transaction():
            await other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            page = await person.get(address)
        assert page.status_code == 200
        for name in missing:
            assert "It took longer than" in part(page, name), name
        for name in there:
            assert "It took longer than" not in part(page, name), name
        again = await person.get(address)
        assert "It took longer than" not in part(again, missing[0])


async def test_what_nobody_knows_is_not_zero(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    async with signed_in(api, key_of(client)) as person:
        totals = part(await person.get("/dashboard"), "totals")
        assert re.findall(r"<dd[^>]*>([^<]*)</dd>", totals) == ["0", *["unknown"] * 5]
        claim = await making.ended(context.db, tenant)
        page = await person.get(f"/dashboard/jobs/{claim.job_id}")
        assert "<dt>Cost</dt><dd>unknown</dd>" in part(page, "facts")


async def test_a_job_that_no_gpu_worker_can_take_says_so(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    await making.queued(context.db, tenant, provider="gpu")
    [claim] = await store.claim(context.db, 10, 20.0, "gpu")
    await store.record_answers(context.db, [making.accepted(claim, request_id_of(claim.job_id, claim.attempt))])
    async with signed_in(api, key_of(client)) as person:
        told = part(await person.get(f"/dashboard/jobs/{claim.job_id}"), "state")
        assert f"It waits for a GPU worker of {making.MODEL}, and none is at work." in told
        assert "It waits until a GPU worker of its model starts, it is cancelled or its time is over." in told
        await runs.hello(context.db, "w-1", "k-1", making.MODEL, "cuda:0", "idle")
        told = part(await person.get(f"/dashboard/jobs/{claim.job_id}"), "state")
        assert f"It waits for a GPU worker of {making.MODEL}." in told
        assert "The next GPU worker of its model that is free takes it." in told


async def test_a_job_that_waits_for_a_gpu_worker_is_with_nobody_yet(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    for _ in range(2):
        await making.queued(context.db, tenant, provider="gpu")
    first, second = sorted(await store.claim(context.db, 10, 20.0, "gpu"), key=lambda claim: claim.job_id)
    for ahead, claim in enumerate((first, second)):
        request_id = request_id_of(claim.job_id, claim.attempt)
        await store.record_answers(context.db, [making.accepted(claim, request_id, queue_position=ahead)])
    await runs.hello(context.db, "w-1", "k-1", making.MODEL, "cuda:0", "busy")
    async with signed_in(api, key_of(client)) as person:
        listed = part(await person.get("/dashboard/jobs"), "list")
        assert listed.count("waits for a GPU worker") == 2
        assert "the provider" not in listed
        page = await person.get(f"/dashboard/jobs/{first.job_id}")
        assert f"It waits for a GPU worker of {making.MODEL}, as the next of that model." in part(page, "state")
        assert bars(page)[-1] == ("Waits for a GPU worker", "goes on")
        assert "The request waits for a GPU worker." in part(page, "log")
        assert "provider has" not in page.text
        page = await person.get(f"/dashboard/jobs/{second.job_id}")
        assert f"It waits for a GPU worker of {making.MODEL}, with 1 of that model before it." in part(page, "state")
        await runs.start(context.db, first.job_id, 1, "gpu", "w-1", "k-1", request_id_of(first.job_id, first.attempt))
        page = await person.get(f"/dashboard/jobs/{first.job_id}")
        assert "A GPU worker is working on it." in part(page, "state")
        assert [words for words, _ in bars(page)][-2:] == ["Waits for a GPU worker", "Runs"]
        assert "A GPU worker is working on the request." in part(page, "log")
        await context.db.execute("UPDATE runs SET heartbeat_at = now() - interval '1 hour'")
        assert await runs.crash(context.db, first.job_id, 1)
        page = await person.get(f"/dashboard/jobs/{first.job_id}")
        assert "It waits for a GPU worker" in part(page, "state")
        assert bars(page)[-1] == ("Waits for a GPU worker", "goes on")
        assert await operations.force_end(context.db, second.job_id)
        page = await person.get(f"/dashboard/jobs/{second.job_id}")
        assert [words for words, _ in bars(page)][2:3] == ["Waits for a GPU worker"]


async def test_the_place_in_the_providers_queue_is_how_many_are_before_it(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    claims = [await making.claimed(context.db, tenant) for _ in range(2)]
    await store.record_answers(
        context.db, [making.accepted(claim, queue_position=ahead) for ahead, claim in enumerate(claims)]
    )
    async with signed_in(api, key_of(client)) as person:
        listed = part(await person.get("/dashboard/jobs"), "list")
        assert "the next in the provider's queue" in listed
        assert "1 before it in the provider's queue" in listed
        told = [part(await person.get(f"/dashboard/jobs/{claim.job_id}"), "state") for claim in claims]
        assert "fal has accepted it and has it, as the next in its queue." in told[0]
        assert "fal has accepted it and has it, with 1 before it." in told[1]


async def test_a_result_that_came_too_late_is_told_of_before_a_retry(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    words = "see the evidence before you retry it"
    claim = await making.ended(context.db, tenant, making.failed())
    async with signed_in(api, key_of(client)) as person:
        assert words not in part(await person.get(f"/dashboard/jobs/{claim.job_id}"), "state")
        said = making.heard()
        await operations.end(context, claim.job_id, claim.attempt, making.MODEL, making.completed(), said)
        assert words in part(await person.get(f"/dashboard/jobs/{claim.job_id}"), "state")


async def test_an_attempt_that_was_paid_for_beside_the_job_has_its_cost(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    await set_price(context.db, making.MODEL, "job", Decimal("0.25"), "USD", "fal")
    await set_price(context.db, making.MODEL, "job", Decimal("0.01"), "USD", "gpu")
    first = await making.claimed(context.db, tenant)
    second = await making.resubmitted(context.db, first)
    await context.db.execute("UPDATE attempts SET provider = 'gpu' WHERE job_id = $1 AND number = 2", first.job_id)
    for claim in (second, first):
        said = making.heard(request_id=f"r-{claim.attempt}")
        await operations.end(context, claim.job_id, claim.attempt, making.MODEL, making.completed(), said)
    await count_all(context.db)
    async with signed_in(api, key_of(client)) as person:
        page = await person.get(f"/dashboard/jobs/{first.job_id}")
    costs = [re.findall(r"<dt>Cost</dt><dd>([^<]*)</dd>", part(page, name)) for name in ("attempts", "facts")]
    assert costs == [["0.25 USD", "0.01 USD"], ["0.01 USD"]]


def bars(page: httpx.Response) -> list[tuple[str, str]]:
    """Of the timeline: the words, and how long it took."""
    found = part(page, "time")
    words = re.findall(r'role="rowheader">([^<]*)<', found)
    return list(zip(words, re.findall(r'class="number">([^<]*)<', found), strict=True))


async def test_what_the_provider_did_not_take_was_never_with_it(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    claim = await making.claimed(context.db, tenant)
    await store.record_answers(context.db, [making.refused(claim, delay=60.0)])
    async with signed_in(api, key_of(client)) as person:
        page = await person.get(f"/dashboard/jobs/{claim.job_id}")
        assert [words for words, _ in bars(page)] == ["Waits here", "Is submitted", "Waits here again"]
        assert bars(page)[-1][1] == "goes on"
        assert re.findall(r"<dt>(\w+)</dt><dd>(?:<time|(not yet))", part(page, "attempts")) == [
            ("Taken", ""),
            ("Refused", ""),
        ]
        await operations.close(context, claim.job_id, operations.TOO_LATE)
        page = await person.get(f"/dashboard/jobs/{claim.job_id}")
        assert [words for words, _ in bars(page)] == ["Waits here", "Is submitted", "Waits here again"]
        assert "not yet" not in part(page, "attempts")


async def test_the_answer_that_refuses_a_job_for_good_leaves_nothing_with_the_provider(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    claim = await making.claimed(context.db, tenant)
    said = making.heard(source="submit")
    await operations.end(context, claim.job_id, claim.attempt, making.MODEL, making.failed(status=422), said)
    never = await making.queued(context.db, tenant)
    await operations.close(context, never, operations.CANCELLED)
    async with signed_in(api, key_of(client)) as person:
        told = [words for words, _ in bars(await person.get(f"/dashboard/jobs/{claim.job_id}"))]
        assert told == ["Waits here", "Is submitted", "End heard, is recorded"]
        assert [words for words, _ in bars(await person.get(f"/dashboard/jobs/{never}"))] == ["Waits here"]


async def test_an_attempt_that_was_given_up_says_when(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    claim = await making.claimed(context.db, tenant)
    async with signed_in(api, key_of(client)) as person:
        assert bars(await person.get(f"/dashboard/jobs/{claim.job_id}"))[-1] == ("Is submitted", "goes on")
        await store.record_answers(context.db, [making.ambiguous(claim, delay=0.0)])
        assert bars(await person.get(f"/dashboard/jobs/{claim.job_id}"))[-1] == ("The answer was lost", "goes on")
        await making.make_due(context.db, claim.job_id)
        [job] = await due.take_due(context.db, 1, 30.0)
        assert await due.submit_again(context.db, job)
        page = await person.get(f"/dashboard/jobs/{claim.job_id}")
    assert bars(page)[-1] == ("Waits here again", "goes on")
    assert "<dt>Given up</dt><dd><time" in part(page, "attempts")
    assert "<dt>Ended</dt>" not in part(page, "attempts")


async def test_one_of_something_is_said_as_one(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.dashboard.job.MOST_EVENTS", 1)
    claim = await making.claimed(context.db, tenant)
    filled = await fill(context, tenant)
    await context.db.execute("DELETE FROM artifacts WHERE job_id = $1 AND index = 1", filled.jobs["hostile"])
    async with signed_in(api, key_of(client)) as person:
        page = await person.get(f"/dashboard/jobs/{filled.jobs['hostile']}")
        assert 'aria-label="The picture with 1 mask over it"' in page.text
        assert "1 earlier line is not shown." in part(await person.get(f"/dashboard/jobs/{claim.job_id}"), "log")


async def test_of_a_removed_mask_its_area_and_box_are_shown(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    job_id = await with_files(context, tenant)
    for part_of_it in (Part.FILES, Part.RESULT):
        await removing.remove(context.db, [job_id], part_of_it, Keep.NOTHING)
    async with signed_in(api, key_of(client)) as person:
        page = await person.get(f"/dashboard/jobs/{job_id}")
    assert "Its result was removed, as its tenant wanted." in page.text
    assert "It was removed, as its tenant wanted." in page.text
    assert "50 %" in part(page, "shown")
    assert "0, 0 \u2013 2, 4" in part(page, "shown")


async def test_what_a_job_ended_with_is_called_what_it_is(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    completed = await making.ended(context.db, tenant)
    failed = await making.ended(context.db, tenant, making.failed())
    ours = await making.submitted(context.db, tenant)
    assert await operations.close(context, ours.job_id, operations.TOO_LATE, even_if_submitted=True)
    async with signed_in(api, key_of(client)) as person:
        for claim, heading in (
            (completed, "Output, as the model gave it"),
            (failed, "Error, as the provider gave it"),
            (ours, "Error, in our own words"),
        ):
            raw = part(await person.get(f"/dashboard/jobs/{claim.job_id}"), "raw")
            assert re.findall(r"<summary>(\w+, [^(]*) \(", raw) == [heading]


async def test_a_cost_says_of_how_many_jobs_it_is(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    await set_price(context.db, making.MODEL, "job", Decimal("0.25"), "USD")
    words = "nobody knows that of the other"
    for _ in range(2):
        await making.ended(context.db, tenant)
    await count_all(context.db)
    async with signed_in(api, key_of(client)) as person:
        page = await person.get("/dashboard")
        assert "0.5 USD" in part(page, "totals")
        assert words not in page.text
        await making.ended(context.db, tenant, making.failed())
        await count_all(context.db)
        page = await person.get("/dashboard")
        assert f"The cost is that of 2 of 3 jobs; {words}." in part(page, "totals")
        assert '0.5 USD <span class="sub">of 2</span>' in part(page, "models")


async def test_the_parts_alone_are_what_the_page_has(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    filled = await fill(context, tenant)
    async with signed_in(api, key_of(client)) as person:
        for address in filled.pages:
            page = await person.get(address)
            alone = await person.get(address, headers={"accept": "application/json"})
            if page.status_code != 200:
                assert alone.status_code == page.status_code
                continue
            assert alone.headers["content-type"] == "application/json"
            assert set(alone.json()) <= set(re.findall(r'data-part="([^"]+)"', page.text)), address
