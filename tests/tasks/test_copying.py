"""Copies of files: owed until they are made, and tried again for as long as that makes sense."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from service.artifacts import copying, records
from service.artifacts.copying import LEASE_SECONDS, copy_due
from service.artifacts.storage import Spooled, Storage, Stored
from service.catalog.base import Lifted, LiftedFile
from service.cli import main
from service.context import Context
from service.db import DatabaseAway, Row
from service.jobs import endings
from service.network import AddressGuard, open_http
from service.retention import blobs, removing
from service.retention.parts import Keep, Part
from tests import making
from tests.provider import Call, Provider, Reply, page, reply, says

FILE = Reply(200, b"no picture", {"content-type": "image/png"})


async def owing(context: Context, tenant: UUID, *urls: str) -> UUID:
    """A job that ended with these files."""
    claim = await making.submitted(context.db, tenant)
    files = tuple(LiftedFile("mask", index, url) for index, url in enumerate(urls))
    await endings.settle(
        context.db, claim.job_id, 1, making.completed(), making.heard(), "webhook", Lifted(files=files)
    )
    return claim.job_id


def ending_in(seconds: float) -> str:
    """What a link says that ends so soon."""
    return f"?Expires={int(time.time() + seconds)}"


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def files_of(context: Context, job_id: UUID) -> list[Row]:
    return await context.db.fetch("SELECT * FROM artifacts WHERE job_id = $1 ORDER BY index", job_id)


async def owed(context: Context) -> list[Row]:
    return await context.db.fetch("SELECT *, due_at - now() AS wait FROM copies ORDER BY index")


async def let_copies_be_due(context: Context, **values: int) -> None:
    await context.db.execute(
        "UPDATE copies SET due_at = now() - interval '1 ms', tries = coalesce($1, tries)", values.get("tries")
    )


def broken(context: Context, monkeypatch: pytest.MonkeyPatch) -> Context:
    """Our own store cannot be written to."""

    async def keep(_: Spooled) -> Stored:
        raise OSError("No space left on device")

    storage = Storage.open(context.settings.artifacts_location)
    monkeypatch.setattr(storage, "keep", keep)
    return replace(context, storage=storage)


@pytest.fixture
def url(provider: Provider) -> str:
    provider.result = says(FILE)
    return f"{provider.url}/files/a.png"


async def test_a_file_is_copied_and_owed_no_more(context: Context, tenant: UUID, url: str) -> None:
    job_id = await owing(context, tenant, url)
    await copy_due(context)
    [file] = await files_of(context, job_id)
    assert (file["file_size"], file["copy_error"]) == (10, "it is no picture")
    assert file["sha256"]
    assert await owed(context) == []


async def test_a_file_is_copied_once_by_many_workers(
    context: Context, tenant: UUID, provider: Provider, url: str
) -> None:
    for _ in range(20):
        await owing(context, tenant, url)
    await asyncio.gather(*(copy_due(context) for _ in range(4)))
    assert len(provider.calls) == 20
    assert await owed(context) == []


async def test_a_host_that_hangs_holds_no_other_file_up(
    context: Context, tenant: UUID, provider: Provider, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "SLOTS", 6)
    let_go = asyncio.Event()

    async def file(call: Call) -> Reply:
        if call.path.endswith("/slow.png"):
            await let_go.wait()
        return FILE

    provider.result = file
    slow = await owing(context, tenant, f"{provider.url}/files/slow.png")
    for _ in range(10):  # More than one round; each is measured in a process of its own, which takes its time.
        await owing(context, tenant, url)
    copying_all = asyncio.create_task(copy_due(context))

    async def only_the_slow_one_is_left() -> bool:
        return {row["job_id"] for row in await owed(context)} == {slow}

    await making.until(only_the_slow_one_is_left, within=90)
    let_go.set()
    await copying_all
    assert await owed(context) == []


async def test_files_that_were_never_tried_come_first(context: Context, tenant: UUID) -> None:
    old = await owing(context, tenant, "http://a.example/0", "http://a.example/1")
    await let_copies_be_due(context, tries=1)
    await context.db.execute("UPDATE copies SET due_at = now() - interval '1 h'")
    new = await owing(context, tenant, "http://a.example/0")
    taken = await records.take_owed(context.db, 2, LEASE_SECONDS)
    assert [each.tries for each in taken if each.job_id == new] == [1]
    assert [each.tries for each in taken if each.job_id == old] == [2]


async def test_links_that_end_first_are_copied_first(context: Context, tenant: UUID) -> None:
    """Of one that does not say when it ends, an hour is taken for granted."""
    ends = {"two hours": ending_in(7_200), "a minute": ending_in(60), "unknown": "", "ten minutes": ending_in(600)}
    await owing(context, tenant, *(f"http://a.example/{name}{end}" for name, end in ends.items()))
    for tries in (0, 5):
        await let_copies_be_due(context, tries=tries)
        taken = [await records.take_owed(context.db, 1, LEASE_SECONDS) for _ in ends]
        assert [each.index for [each] in taken] == [1, 3, 2, 0]


async def test_what_few_files_cost_does_not_grow_with_the_many_that_wait(context: Context, tenant: UUID) -> None:
    await owing(context, tenant, *(f"http://a.example/{number}" for number in range(3_000)))
    await context.db.execute("UPDATE copies SET tries = index % 3, expires_at = now() + make_interval(secs => index)")
    async with context.db.transaction() as connection:
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute("PREPARE asked AS " + records._TAKE)
        [row] = await connection.fetch("EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE asked (64, 15)")
        await connection.execute("DEALLOCATE asked")
    assert most_seen(json.loads(row[0])[0]["Plan"], "copies") == 64


def most_seen(plan: dict[str, Any], table: str) -> int:
    """The rows that one scan of the table looked at."""
    mine = plan["Actual Loops"] * (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0))
    below = [most_seen(part, table) for part in plan.get("Plans", ())]
    return int(max([mine if plan.get("Relation Name") == table and "Scan" in plan["Node Type"] else 0, *below]))


async def test_a_copy_that_was_taken_is_somebody_elses_after_its_lease(context: Context, tenant: UUID) -> None:
    await owing(context, tenant, "http://a.example/0")
    [taken] = await records.take_owed(context.db, 10, LEASE_SECONDS)
    [row] = await owed(context)
    assert LEASE_SECONDS == 15
    assert 10 < row["wait"].total_seconds() <= 15
    assert await records.take_owed(context.db, 10, LEASE_SECONDS) == []
    await let_copies_be_due(context)
    assert await records.take_owed(context.db, 10, LEASE_SECONDS) == [replace(taken, tries=2)]


async def test_the_lease_is_renewed_for_as_long_as_the_copy_is_being_made(
    context: Context, tenant: UUID, provider: Provider, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "LEASE_SECONDS", 0.6)
    await owing(context, tenant, url)
    let_go, asked = asyncio.Event(), asyncio.Event()

    async def file(_: Call) -> Reply:
        asked.set()
        await let_go.wait()
        return FILE

    provider.result = file
    first = asyncio.create_task(copy_due(context))
    await asked.wait()
    for _ in range(10):
        await copy_due(context)  # Another worker.
        await asyncio.sleep(0.15)
    let_go.set()
    await first
    assert (len(provider.calls), await owed(context)) == (1, [])


async def test_a_dead_workers_copy_is_made_by_another(context: Context, tenant: UUID, url: str) -> None:
    job_id = await owing(context, tenant, url)
    await records.take_owed(context.db, 10, LEASE_SECONDS)
    await copy_due(context)
    assert len(await owed(context)) == 1
    await let_copies_be_due(context)
    await copy_due(context)
    assert await owed(context) == []
    assert (await files_of(context, job_id))[0]["sha256"]


@pytest.mark.parametrize(("answer", "tries"), [(reply({}, 404), copying.MOST_TRIES_WHEN_GONE), (reply({}, 400), 1)])
async def test_a_file_that_its_host_does_not_give_is_given_up(
    context: Context, tenant: UUID, provider: Provider, url: str, answer: Reply, tries: int
) -> None:
    provider.result = says(answer)
    job_id = await owing(context, tenant, url)
    for _ in range(tries):
        assert len(await owed(context)) == 1
        await let_copies_be_due(context)
        await copy_due(context)
    assert await owed(context) == []
    [file] = await files_of(context, job_id)
    assert (file["sha256"], bool(file["copy_error"])) == (None, True)
    assert len(provider.calls) == tries


async def let_links_end(context: Context) -> None:
    """Also those of which nobody knows."""
    await context.db.execute("UPDATE artifacts SET source_expires_at = now() WHERE source_expires_at IS NOT NULL")
    await context.db.execute("UPDATE copies SET expires_at = now() - interval '1 day'")


@pytest.mark.parametrize("says_when", [False, True])
@pytest.mark.parametrize("answer", [None, page(503), reply({}, 429)])
async def test_a_file_whose_host_is_away_is_tried_until_its_link_ends(
    context: Context, tenant: UUID, provider: Provider, url: str, says_when: bool, answer: Reply | None
) -> None:
    provider.result = says(answer)
    job_id = await owing(context, tenant, url + (ending_in(3_600) if says_when else ""))
    for tries in (0, 1, 9, 10, 1_000):
        await let_copies_be_due(context, tries=tries)
        await copy_due(context)
        [row] = await owed(context)
        assert 0 < row["wait"].total_seconds() <= copying.LONGEST_BACKOFF_SECONDS
    await let_links_end(context)
    await let_copies_be_due(context)
    await copy_due(context)
    assert await owed(context) == []
    [file] = await files_of(context, job_id)
    assert file["copy_error"].endswith("; given up at try 1002")


async def test_a_link_of_which_nobody_knows_is_tried_for_a_day(context: Context, tenant: UUID) -> None:
    await owing(context, tenant, "http://a.example/0", f"http://a.example/1{ending_in(3_600)}")
    left = [each.seconds_left for each in await records.take_owed(context.db, 2, LEASE_SECONDS)]
    assert [round(seconds / 3_600) for seconds in sorted(left)] == [1, 24]


async def test_the_pauses_before_a_link_ends_are_no_longer_than_what_is_left(context: Context, tenant: UUID) -> None:
    async with open_http(guard=AddressGuard(allow_private=True)) as http:
        await owing(context, tenant, f"http://127.0.0.1:1/a.png{ending_in(100)}")
        await let_copies_be_due(context, tries=1_000)
        await copy_due(replace(context, downloads=http))
    [row] = await owed(context)
    assert 0 < row["wait"].total_seconds() <= 50


async def test_an_address_that_is_refused_is_given_up_although_its_link_lives(context: Context, tenant: UUID) -> None:
    job_id = await owing(context, tenant, "http://127.0.0.1:1/a.png")
    async with open_http(guard=AddressGuard()) as http:
        for _ in range(copying.MOST_TRIES_WHEN_REFUSED):
            assert len(await owed(context)) == 1
            await let_copies_be_due(context)
            await copy_due(replace(context, downloads=http))
    assert await owed(context) == []
    assert (await files_of(context, job_id))[0]["copy_error"]


async def test_what_was_given_up_is_owed_again_where_its_link_may_live(
    context: Context, tenant: UUID, provider: Provider, url: str
) -> None:
    urls = (url, f"{url}{ending_in(3_600)}", f"{url}{ending_in(-60)}", "data:image/png;base64,?", f"{url}?removed")
    provider.result = says(reply({}, 400))
    lost, other = await owing(context, tenant, *urls), await owing(context, tenant, url)
    await copy_due(context)
    assert await owed(context) == []
    await context.db.execute("UPDATE artifacts SET removed_at = now() WHERE index = 4")
    assert await records.owe_again(context.db, lost) == 2
    assert await records.owe_again(context.db, lost) == 0
    provider.result = says(FILE)
    await copy_due(context)
    assert [bool(file["sha256"]) for file in await files_of(context, lost)] == [True, True, False, False, False]
    assert not (await files_of(context, other))[0]["sha256"]
    assert await records.owe_again(context.db, UUID(int=0)) == 0


async def test_what_is_owed_again_has_its_time_however_old_its_job_is(context: Context, tenant: UUID) -> None:
    year = 365 * 86_400
    lost = await owing(context, tenant, "http://a.example/0", f"http://a.example/1{ending_in(year)}")
    for owed_again in (False, True):
        left = [each.seconds_left for each in await records.take_owed(context.db, 2, LEASE_SECONDS)]
        assert [round(seconds / 3_600) for seconds in sorted(left)] == [24, 7 * 24]
        if not owed_again:
            await context.db.execute("DELETE FROM copies")
            await context.db.execute("UPDATE artifacts SET copy_error = 'away; given up at try 4'")
            await context.db.execute("ALTER TABLE outcomes DISABLE TRIGGER outcomes_are_final")
            await context.db.execute("UPDATE outcomes SET completed_at = completed_at - interval '10 days'")
            await context.db.execute("ALTER TABLE outcomes ENABLE TRIGGER outcomes_are_final")
            assert await records.owe_again(context.db, lost) == 2


async def test_what_was_given_up_of_jobs_that_ended_in_some_time_is_owed_again(
    context: Context, tenant: UUID, provider: Provider, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LOSERS_AT_A_TIME", 2)
    provider.result = says(reply({}, 400))
    for _ in range(5):
        await owing(context, tenant, url, url)
    await copy_due(context)
    now, second = datetime.now(UTC), timedelta(seconds=1)
    hour = 3_600 * second
    assert await records.owe_all_again(context.db, now + hour, None) == 0
    assert await records.owe_all_again(context.db, now - hour, now - hour + second) == 0
    assert await records.owe_all_again(context.db, now - hour, None) == 10
    assert len(await owed(context)) == 10


async def test_the_program_owes_them_again(context: Context, tenant: UUID, provider: Provider, url: str) -> None:
    async def program(*words: object) -> Result:
        environment = {"ROUNDTRIP_DATABASE_URL": context.settings.require_database_url()}
        return await asyncio.to_thread(CliRunner().invoke, main, [str(word) for word in words], env=environment)

    provider.result = says(reply({}, 400))
    job_id = await owing(context, tenant, url)
    await copy_due(context)
    assert (await program("files", "copy-again", job_id)).output == "1 file is copied once more.\n"
    await copy_due(context)
    assert (await program("files", "copy-again", "--since", "2026-01-01")).output == "1 file is copied once more.\n"
    assert len(await owed(context)) == 1
    for words in ((), (job_id, "--since", "2026-01-01")):
        assert (await program("files", "copy-again", *words)).exit_code == 2


async def test_an_error_of_our_own_store_is_tried_again_without_end(
    context: Context, tenant: UUID, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await owing(context, tenant, url)
    full = broken(context, monkeypatch)
    for tries in (0, 1, 10, 100, 1_000):
        await let_copies_be_due(context, tries=tries)
        await copy_due(full)
        [row] = await owed(context)
        assert 0 < row["wait"].total_seconds() <= copying.LONGEST_BACKOFF_SECONDS
        [file] = await files_of(context, job_id)
        assert (file["sha256"], "OSError" in file["copy_error"]) == (None, True)
    await let_copies_be_due(context)
    await copy_due(context)
    [file] = await files_of(context, job_id)
    assert (bool(file["sha256"]), file["copy_error"]) == (True, "it is no picture")


async def test_the_errors_of_our_own_store_are_not_held_against_the_file(
    context: Context, tenant: UUID, provider: Provider, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a long failure of the store, one denial of the host must not be the end."""
    job_id = await owing(context, tenant, url)
    full = broken(context, monkeypatch)
    for _ in range(copying.MOST_TRIES_WHEN_GONE + 1):
        await let_copies_be_due(context)
        await copy_due(full)
    provider.result = says(reply({}, 404), FILE)
    for _ in range(2):
        await let_copies_be_due(context)
        await copy_due(context)
    [file] = await files_of(context, job_id)
    assert file["sha256"]


async def test_bytes_that_nobody_came_to_record_have_a_row_and_go(
    context: Context, tenant: UUID, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their row is there before they are, so a worker may be killed at any moment, and the job be deleted."""
    job_id = await owing(context, tenant, url)
    full = broken(context, monkeypatch)
    await copy_due(full)
    [blob] = await context.db.fetch("SELECT sha256 FROM blobs JOIN unreferenced_blobs USING (sha256)")
    async with context.storage.spool(once(FILE.body), 1_000) as spooled:
        await context.storage.keep(spooled)
    assert blob["sha256"] == spooled.sha256
    await removing.remove(context.db, [job_id], Part.JOB, Keep.NOTHING)
    [taken] = await blobs.take_unreferenced(context.db, -1.0)
    assert await blobs.delete_unreferenced(context.db, context.storage.delete, taken)
    assert not await context.storage.exists(spooled.sha256)


async def test_a_copy_that_is_recorded_leaves_nothing_to_look_for(context: Context, tenant: UUID, url: str) -> None:
    await owing(context, tenant, url)
    await copy_due(context)
    assert await making.count(context.db, "blobs") == 1
    assert await making.count(context.db, "unreferenced_blobs") == 0


async def test_what_went_wrong_says_whether_it_is_tried_again(
    context: Context, tenant: UUID, provider: Provider, url: str
) -> None:
    provider.result = says(reply({}, 404))
    job_id = await owing(context, tenant, url)
    said = []
    for _ in range(copying.MOST_TRIES_WHEN_GONE):
        await let_copies_be_due(context)
        await copy_due(context)
        said.append((await files_of(context, job_id))[0]["copy_error"])
    assert said[:-1] == ["the file's host answered 404; it is tried again"] * (len(said) - 1)
    assert said[-1] == f"the file's host answered 404; given up at try {len(said)}"


async def test_the_number_of_tries_never_stops_all_copies(context: Context, tenant: UUID, url: str) -> None:
    await owing(context, tenant, url)
    await let_copies_be_due(context, tries=32_767)
    other = await owing(context, tenant, url)
    await copy_due(context)
    assert (await files_of(context, other))[0]["sha256"]


@pytest.fixture
def away(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first renewal of a lease meets a database that is away."""
    renew = records.renew_lease
    tried = False

    async def once(*arguments: Any) -> None:
        nonlocal tried
        if not tried:
            tried = True
            raise DatabaseAway
        await renew(*arguments)

    monkeypatch.setattr(records, "renew_lease", once)


async def test_a_renewal_that_fails_is_not_the_last(
    context: Context, tenant: UUID, provider: Provider, url: str, away: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "LEASE_SECONDS", 0.9)
    await owing(context, tenant, url)
    let_go, asked = asyncio.Event(), asyncio.Event()

    async def file(_: Call) -> Reply:
        asked.set()
        await let_go.wait()
        return FILE

    provider.result = file
    first = asyncio.create_task(copy_due(context))
    await asked.wait()
    await asyncio.sleep(1.5)
    taken = await records.take_owed(context.db, 10, 60)
    let_go.set()
    await first
    assert taken == []
