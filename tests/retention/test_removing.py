"""What of a job goes, what stays, and what its clients see of it then."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from shutil import rmtree
from uuid import UUID

import httpx
import pytest
from structlog.testing import capture_logs

from service.artifacts import inputs, records
from service.artifacts.filing import file
from service.artifacts.records import Measured
from service.artifacts.storage import Storage
from service.catalog.base import Lifted, LiftedFile
from service.context import Context
from service.db import Database
from service.jobs import endings, operations, store
from service.jobs.facts import NewJob
from service.models import metadata
from service.retention import blobs, removing
from service.retention.parts import REMOVABLE, Keep, Part
from service.retention.sweeping import MOST_FAILURES, Remover
from service.stats import counting
from tests import making
from tests.artifacts.s3 import bucket_away
from tests.conftest import MakeClient

PIXEL = "data:image/png;base64,aGVsbG8="
BOTH = (Keep.HASH, Keep.NOTHING)


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def stored(context: Context, job_id: UUID, data: bytes = b"a mask") -> str:
    """The copy of the job's first mask."""
    async with context.storage.spool(once(data), 1_000) as spooled:
        kept = Measured(spooled.sha256, spooled.size, "image/png", 4, 4, 0.5, (0, 0, 2, 4))
        await file(context.db, context.storage, spooled, kept)
    owed = records.OwedCopy(job_id, "mask", 0, "https://example.com/0.png", 1)
    await records.record_copy(context.db, owed, kept)
    return kept.sha256


async def ended(context: Context, tenant: UUID, **changes: object) -> UUID:
    """A completed job with all the parts that a job can have: a file in its input, evidence, a mask, a callback."""
    text = await inputs.keep_files(context.db, context.storage, json.dumps({"image_url": PIXEL, "prompt": "What?"}))
    wishes = {"tags": ["red"], "metadata": '{"run": 5.0}', "webhook_url": "https://hooks.example/x"} | changes
    claim = await making.submitted(context.db, tenant, **{"input": text, **wishes})
    files = (LiftedFile("mask", 0, "https://example.com/0.png", "A truck"),)
    lifted = Lifted(text="A cat.", files=files)
    assert await endings.settle(context.db, claim.job_id, 1, making.completed(), making.heard(), "webhook", lifted)
    await stored(context, claim.job_id)
    # As it is an hour later.
    await context.db.execute("DELETE FROM unreferenced_blobs WHERE sha256 IN (SELECT sha256 FROM input_files)")
    await context.db.execute(
        "UPDATE callbacks SET state = 'delivered', body = 'x', format = 'fal', ended_at = now() WHERE job_id = $1",
        claim.job_id,
    )
    return claim.job_id


async def rows_of(db: Database, job_id: UUID) -> set[str]:
    """The tables that still have a row of the job."""
    tables = {table.name: "job_id" for table in metadata.sorted_tables if "job_id" in table.c} | {"jobs": "id"}
    return {
        name
        for name, column in tables.items()
        if await db.fetchrow(f"SELECT FROM {name} WHERE {column} = $1", job_id) is not None
    }


@pytest.mark.parametrize("keep", BOTH)
async def test_a_removed_input_is_null_and_cannot_be_repeated(
    context: Context, tenant: UUID, client: httpx.AsyncClient, keep: Keep
) -> None:
    job_id = await ended(context, tenant)
    await removing.remove(context.db, [job_id], Part.INPUT, keep)
    shown = (await client.get(f"/v1/jobs/{job_id}")).json()
    assert shown["input"] is None
    assert shown["output"] == {"output": "A cat."}
    assert (await client.post(f"/v1/jobs/{job_id}/retry")).status_code == 410


async def removed_input(client: httpx.AsyncClient, job_id: str) -> tuple[str | None, int]:
    removed = (await client.get(f"/v1/jobs/{job_id}")).json()["removed"]["input"]
    return removed["sha256"], removed["size"]


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "k"}])
@pytest.mark.parametrize("keep", BOTH)
@pytest.mark.parametrize("picture", ["https://example.com/a.png", PIXEL, PIXEL.replace("/", "\\/")])
async def test_the_hash_of_an_input_is_that_of_what_was_sent(
    context: Context, client: httpx.AsyncClient, picture: str, keep: Keep, headers: dict[str, str]
) -> None:
    sent = f'{{"prompt":  "What\\u00e9?", "image_url": "{picture}"}}'.encode()
    body = b'{"model": "%s", "input": %s}' % (making.MODEL.encode(), sent)
    answer = await client.post("/v1/jobs", content=body, headers=headers | {"content-type": "application/json"})
    jobs = [answer.json()["request_id"]]
    assert await endings.close(context.db, UUID(jobs[0]), making.failed())
    jobs.append((await client.post(f"/v1/jobs/{jobs[0]}/retry")).json()["request_id"])
    assert await endings.close(context.db, UUID(jobs[1]), making.failed())
    await store.register_retries(context.db, [(UUID(jobs[1]), third := operations.new_job_id())])
    assert await endings.close(context.db, third, making.failed())
    jobs.append(str(third))
    await removing.remove(context.db, [UUID(job_id) for job_id in jobs], Part.INPUT, keep)
    expected = hashlib.sha256(sent).hexdigest() if keep is Keep.HASH else None
    assert [await removed_input(client, job_id) for job_id in jobs] == [(expected, len(sent))] * 3


async def test_an_input_that_only_looks_as_if_it_had_a_file_has_its_hash(
    context: Context, tenant: UUID, client: httpx.AsyncClient
) -> None:
    sent = r'{"prompt": "C:\\u0000 and \u0001"}'
    job_id = await making.queued(context.db, tenant, input=sent)
    assert await endings.close(context.db, job_id, making.failed())
    await removing.remove(context.db, [job_id], Part.INPUT, Keep.HASH)
    assert await removed_input(client, str(job_id)) == (hashlib.sha256(sent.encode()).hexdigest(), len(sent))


@pytest.mark.parametrize("keep", BOTH)
async def test_a_removed_result_is_gone_and_its_figures_stay(
    context: Context, tenant: UUID, client: httpx.AsyncClient, keep: Keep
) -> None:
    job_id = await ended(context, tenant)
    await removing.remove(context.db, [job_id], Part.RESULT, keep)
    shown = (await client.get(f"/v1/jobs/{job_id}")).json()
    assert (shown["status"], shown["output"]) == ("completed", None)
    assert shown["timings"]["total_seconds"] is not None
    expected = hashlib.sha256(making.CAT).hexdigest() if keep is Keep.HASH else None
    assert shown["removed"]["result"] == {
        "at": shown["removed"]["result"]["at"],
        "sha256": expected,
        "size": len(making.CAT),
    }
    for path in (f"/v1/jobs/{job_id}/result", f"/fal/queue/{making.MODEL}/requests/{job_id}"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["error_type"]) == (410, "gone")
    [told] = await context.db.fetch("SELECT body FROM callbacks WHERE job_id = $1", job_id)
    assert told["body"] is None


@pytest.mark.parametrize("keep", BOTH)
async def test_a_removed_file_is_gone_and_what_was_measured_in_it_stays(
    context: Context, tenant: UUID, client: httpx.AsyncClient, keep: Keep
) -> None:
    job_id = await ended(context, tenant)
    [before] = (await client.get(f"/v1/jobs/{job_id}/masks")).json()["masks"]
    await removing.remove(context.db, [job_id], Part.FILES, keep)
    [mask] = (await client.get(f"/v1/jobs/{job_id}/masks")).json()["masks"]
    assert (mask["label"], mask["area_fraction"], mask["bbox"]) == ("A truck", 0.5, [0, 0, 2, 4])
    assert (mask["url"], mask["sha256"]) == (None, before["sha256"] if keep is Keep.HASH else None)
    assert (await client.get(f"/v1/jobs/{job_id}/masks/0")).status_code == 410


@pytest.mark.parametrize("keep", BOTH)
async def test_removed_evidence(context: Context, tenant: UUID, client: httpx.AsyncClient, keep: Keep) -> None:
    job_id = await ended(context, tenant)
    [before] = (await client.get(f"/v1/jobs/{job_id}/evidence")).json()["evidence"]
    await removing.remove(context.db, [job_id], Part.EVIDENCE, keep)
    left = (await client.get(f"/v1/jobs/{job_id}/evidence")).json()["evidence"]
    answer = await client.get(f"/v1/jobs/{job_id}/evidence/{before['id']}")
    if keep is Keep.HASH:
        assert [(each["sha256"], each["size"]) for each in left] == [(before["sha256"], before["size"])]
        assert answer.status_code == 410
    else:
        assert left == []
        assert answer.status_code == 404


@pytest.mark.parametrize("part", REMOVABLE)
@pytest.mark.parametrize("keep", BOTH)
async def test_to_remove_again_changes_nothing(context: Context, tenant: UUID, part: Part, keep: Keep) -> None:
    job_id = await ended(context, tenant)
    looks = []
    for _ in range(2):
        await removing.remove(context.db, [job_id], part, keep)
        looks.append(
            [
                [dict(row) for row in await context.db.fetch(f"SELECT * FROM {table} WHERE job_id = $1", job_id)]
                for table in ("removals", "artifacts", "reports", "callbacks", "input_files")
            ]
        )
    assert looks[0] == looks[1]


async def test_a_deleted_job_leaves_no_row(context: Context, tenant: UUID, client: httpx.AsyncClient) -> None:
    job_id, other = await ended(context, tenant), await ended(context, tenant)
    assert len(await rows_of(context.db, job_id)) > 8
    before = await rows_of(context.db, other)
    assert (await client.delete(f"/v1/jobs/{job_id}")).status_code == 204
    assert await rows_of(context.db, job_id) == set()
    assert await rows_of(context.db, other) == before
    assert (await client.get(f"/v1/jobs/{job_id}")).status_code == 404
    assert (await client.delete(f"/v1/jobs/{job_id}")).status_code == 404


async def test_only_its_own_tenant_deletes_or_holds_a_job(
    context: Context, tenant: UUID, stranger: httpx.AsyncClient, make_client: MakeClient
) -> None:
    job_id = await ended(context, tenant)
    reader = await make_client(scopes=("read",))
    for method, path in (("DELETE", ""), ("PUT", "/hold"), ("DELETE", "/hold")):
        assert (await stranger.request(method, f"/v1/jobs/{job_id}{path}")).status_code == 404
        assert (await reader.request(method, f"/v1/jobs/{job_id}{path}")).status_code == 403
    assert await rows_of(context.db, job_id) >= {"jobs", "results", "artifacts"}


async def test_a_job_that_has_not_ended_or_is_held_is_not_deleted(
    context: Context, tenant: UUID, client: httpx.AsyncClient
) -> None:
    held = await ended(context, tenant)
    live = await making.queued(context.db, tenant)
    assert (await client.put(f"/v1/jobs/{held}/hold")).status_code == 204
    assert (await client.get(f"/v1/jobs/{held}")).json()["held_since"] is not None
    for job_id, word in ((live, "not ended"), (held, "on hold")):
        answer = await client.delete(f"/v1/jobs/{job_id}")
        assert answer.status_code == 409
        assert word in answer.json()["message"]
    assert (await client.delete(f"/v1/jobs/{held}/hold")).status_code == 204
    assert (await client.delete(f"/v1/jobs/{held}")).status_code == 204


async def test_the_tag_holds_a_job_from_its_registration_on(
    context: Context, tenant: UUID, client: httpx.AsyncClient
) -> None:
    job_id = await ended(context, tenant, tags=["red", "hold"])
    assert await removing.remove(context.db, [job_id], Part.RESULT, Keep.NOTHING) == []
    assert (await client.get(f"/v1/jobs/{job_id}/result")).status_code == 200


async def test_a_hold_that_was_confirmed_keeps_everything(context: Context, tenant: UUID) -> None:
    for _ in range(30):
        job_id = await ended(context, tenant)

        async def hold(job_id: UUID = job_id) -> bool:
            await removing.hold(context.db, job_id)
            row = await context.db.fetchrow("SELECT FROM results WHERE job_id = $1", job_id)
            return row is not None

        there, _ = await asyncio.gather(hold(), removing.remove(context.db, [job_id], Part.RESULT, Keep.NOTHING))
        row = await context.db.fetchrow("SELECT FROM results WHERE job_id = $1", job_id)
        assert (row is not None) == there


async def delete_all(context: Context, grace_seconds: float = -1.0) -> int:
    """As after the time of grace."""
    deleted = 0
    while taken := await blobs.take_unreferenced(context.db, grace_seconds):
        for each in await blobs.spare(context.db, taken):
            deleted += await blobs.delete_unreferenced(context.db, context.storage.delete, each)
        await context.db.execute("UPDATE unreferenced_blobs SET since = now() + interval '1 day'")
    return deleted


async def marked(context: Context) -> set[str]:
    return {row["sha256"] for row in await context.db.fetch("SELECT sha256 FROM unreferenced_blobs")}


async def test_marks_of_files_that_something_refers_to_go_together(context: Context, tenant: UUID) -> None:
    job_id = await ended(context, tenant)
    [mask] = {row["sha256"] for row in await context.db.fetch("SELECT sha256 FROM artifacts")}
    await removing.remove(context.db, [job_id], Part.FILES, Keep.NOTHING)
    await context.db.execute("INSERT INTO unreferenced_blobs (sha256) SELECT sha256 FROM input_files")
    taken = await blobs.take_unreferenced(context.db, -1.0)
    assert len(taken) == 2
    assert [each.sha256 for each in await blobs.spare(context.db, taken)] == [mask]
    assert await marked(context) == {mask}


async def test_a_mark_stays_where_the_reference_goes_meanwhile(context: Context, tenant: UUID) -> None:
    first, second = await ended(context, tenant), await ended(context, tenant)
    await removing.remove(context.db, [first], Part.FILES, Keep.NOTHING)
    taken = await blobs.take_unreferenced(context.db, -1.0)
    async with context.db.transaction() as connection:
        # The remover is not done yet; the other still sees the reference.
        await connection.execute(removing._FILES, [second], False)
        assert await blobs.spare(context.db, taken) == taken
    assert await blobs.spare(context.db, taken) == taken
    assert await marked(context) == {taken[0].sha256}
    await context.db.execute("UPDATE unreferenced_blobs SET since = now()")
    assert await delete_all(context) == 1


async def test_a_store_that_is_away_is_asked_for_a_few_files_and_keeps_no_rule_waiting(
    context: Context, tenant: UUID, tmp_path: Path
) -> None:
    for number in range(MOST_FAILURES + 2):
        async with context.storage.spool(once(b"%d" % number), 10) as spooled:
            await file(context.db, context.storage, spooled, Measured(spooled.sha256, spooled.size, "image/png"))
    old = "UPDATE unreferenced_blobs SET since = now() - interval '2 hours'"
    await context.db.execute(old)
    with capture_logs() as logged:
        await Remover(replace(context, storage=Storage(bucket_away(), tmp_path))).pump.drain()
    assert [each["event"] for each in logged] == ["a file could not be deleted"] * MOST_FAILURES
    await context.db.execute(old)
    await Remover(context).pump.drain()
    assert await making.count(context.db, "blobs") == 0


async def test_a_file_that_cannot_be_deleted_keeps_no_other(context: Context, tenant: UUID) -> None:
    job_id = await ended(context, tenant)
    await removing.remove(context.db, [job_id], Part.JOB, Keep.NOTHING)
    first, second = sorted(await marked(context))
    root = Path(context.settings.artifacts_location.removeprefix("file://"))
    (root / first[:2] / first).unlink()
    (root / first[:2] / first / "in the way").mkdir(parents=True)
    old = "UPDATE unreferenced_blobs SET since = now() - interval '2 hours'"
    await context.db.execute(old)
    with capture_logs() as logged:
        await Remover(context).pump.drain()
    assert [(each["event"], each["sha256"]) for each in logged] == [("a file could not be deleted", first)]
    assert (await context.storage.exists(second), await marked(context)) == (False, {first})
    rmtree(root / first[:2] / first)
    await context.db.execute(old)
    await Remover(context).pump.drain()
    assert (await marked(context), await making.count(context.db, "blobs")) == (set(), 0)


async def test_bytes_go_with_the_last_that_refers_to_them(context: Context, tenant: UUID) -> None:
    first, second = await ended(context, tenant), await ended(context, tenant)
    [mask] = {row["sha256"] for row in await context.db.fetch("SELECT sha256 FROM artifacts")}
    [picture] = {row["sha256"] for row in await context.db.fetch("SELECT sha256 FROM input_files")}
    await removing.remove(context.db, [first], Part.JOB, Keep.NOTHING)
    assert await delete_all(context) == 0
    assert await context.storage.exists(mask)
    assert await context.storage.exists(picture)
    await removing.remove(context.db, [second], Part.FILES, Keep.HASH)
    assert await delete_all(context) == 1
    assert not await context.storage.exists(mask)
    await removing.remove(context.db, [second], Part.INPUT, Keep.HASH)
    assert await delete_all(context) == 1
    assert not await context.storage.exists(picture)
    assert await making.count(context.db, "blobs") == 0


async def test_a_deletion_has_all_its_time_however_many_files_were_taken_with_it(
    context: Context, tenant: UUID
) -> None:
    """A deletion that ends after its time may be of bytes that were stored anew."""
    job_id = await ended(context, tenant)
    await removing.remove(context.db, [job_id], Part.JOB, Keep.NOTHING)
    since: list[datetime] = []
    taken = await blobs.take_unreferenced(context.db, -1.0)
    assert len(taken) == 2
    await context.db.execute("UPDATE unreferenced_blobs SET since = now() - interval '59 minutes'")
    late = await context.db.fetch("SELECT sha256, since FROM unreferenced_blobs")

    async def delete(sha256: str) -> None:
        since.extend(
            row["since"]
            for row in await context.db.fetch("SELECT since FROM unreferenced_blobs WHERE sha256 = $1", sha256)
        )

    for row in late:
        assert await blobs.delete_unreferenced(context.db, delete, blobs.Unreferenced(row["sha256"], row["since"]))
    assert all(began > row["since"] for began, row in zip(since, late, strict=True))


async def test_an_uploaded_file_stays(context: Context, tenant: UUID, client: httpx.AsyncClient) -> None:
    job_id = await ended(context, tenant)
    upload = (await client.post("/v1/files?name=a.png", content=b"a mask")).json()
    await removing.remove(context.db, [job_id], Part.JOB, Keep.NOTHING)
    await delete_all(context)
    assert (await client.get(upload["url"])).content == b"a mask"


async def test_nothing_is_deleted_before_its_time(context: Context, tenant: UUID) -> None:
    job_id = await ended(context, tenant)
    await removing.remove(context.db, [job_id], Part.JOB, Keep.NOTHING)
    assert await blobs.take_unreferenced(context.db) == []


async def test_bytes_that_are_reclaimed_stay(context: Context, tenant: UUID) -> None:
    job_id = await ended(context, tenant)
    [mask] = {row["sha256"] for row in await context.db.fetch("SELECT sha256 FROM artifacts")}
    await removing.remove(context.db, [job_id], Part.FILES, Keep.NOTHING)
    [taken] = await blobs.take_unreferenced(context.db, -1.0)
    assert taken.sha256 == mask
    await blobs.reclaim(context.db, mask)
    assert not await blobs.delete_unreferenced(context.db, context.storage.delete, taken)
    assert await context.storage.exists(mask)


async def test_a_picture_that_is_kept_while_the_input_is_removed_goes_with_it(context: Context, tenant: UUID) -> None:
    job_id = await ended(context, tenant)

    async def waits() -> bool:
        waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'spared'"
        return len(await context.db.fetch(waiting)) == 1

    picture = Measured("ab" * 32, 5, "image/png", 4, 4)
    assert await records.announce(context.db, picture)
    async with context.db.transaction() as connection:
        await connection.execute("SELECT FROM jobs WHERE id = $1 FOR UPDATE", job_id)  # As `remove` begins.
        keeping = asyncio.create_task(records.record_input_picture(context.db, job_id, picture.sha256))
        await making.until(waits)
        await connection.execute(removing._STATEMENTS[Part.INPUT, Keep.NOTHING], [job_id], False)
    await keeping
    assert await making.count(context.db, "input_files") == 0
    assert await context.db.fetch("SELECT FROM unreferenced_blobs WHERE sha256 = $1", picture.sha256)


async def test_a_job_can_be_registered_with_the_bytes_of_a_removed_one(context: Context, tenant: UUID) -> None:
    first = await ended(context, tenant)
    await removing.remove(context.db, [first], Part.JOB, Keep.NOTHING)
    again: NewJob = making.new_job(tenant)
    second = await ended(context, tenant)
    assert await delete_all(context) == 0
    [row] = await context.db.fetch("SELECT body AS input FROM inputs WHERE job_id = $1", second)
    assert PIXEL in await inputs.whole(context.storage, row["input"])
    assert again.id != second


async def test_a_file_that_was_removed_while_it_was_copied_stays_removed(context: Context, tenant: UUID) -> None:
    claim = await making.submitted(context.db, tenant)
    files = (LiftedFile("mask", 0, "https://example.com/0.png", "A truck"),)
    await endings.settle(
        context.db, claim.job_id, 1, making.completed(), making.heard(), "webhook", Lifted(files=files)
    )
    await removing.remove(context.db, [claim.job_id], Part.FILES, Keep.HASH)
    sha256 = await stored(context, claim.job_id)
    [row] = await context.db.fetch("SELECT sha256, removed_at FROM artifacts")
    assert row["sha256"] is None
    assert row["removed_at"] is not None
    assert await delete_all(context) == 1
    assert not await context.storage.exists(sha256)


async def test_bytes_that_are_stored_again_while_they_are_deleted_are_there_afterwards(
    context: Context, tenant: UUID
) -> None:
    for number in range(20):
        data = b"a mask %d" % number
        first = await ended(context, tenant)
        await context.db.execute("UPDATE artifacts SET sha256 = NULL WHERE job_id = $1", first)
        await stored(context, first, data)
        await removing.remove(context.db, [first], Part.JOB, Keep.NOTHING)
        second = await ended(context, tenant)
        await context.db.execute("UPDATE artifacts SET sha256 = NULL WHERE job_id = $1", second)

        async def again(job_id: UUID = second, data: bytes = data) -> str:
            return await stored(context, job_id, data)

        await context.db.execute("UPDATE unreferenced_blobs SET since = now() - interval '2 hours'")
        sha256, _ = await asyncio.gather(again(), delete_all(context, blobs.GRACE_SECONDS))
        assert await context.storage.exists(sha256)
        [row] = await context.db.fetch("SELECT sha256 FROM artifacts WHERE job_id = $1", second)
        assert row["sha256"] == sha256


async def test_a_deleted_job_stays_in_the_figures(context: Context, tenant: UUID, client: httpx.AsyncClient) -> None:
    for _ in range(2):
        job_id = await ended(context, tenant)
    assert (await client.delete(f"/v1/jobs/{job_id}")).status_code == 204
    [row] = (await client.get("/v1/stats?measure=count")).json()["groups"]
    assert row["count"] == 2


async def test_a_job_is_not_deleted_while_others_are_counted_for_long_and_nobody_waits_for_that(
    context: Context, tenant: UUID, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [await ended(context, tenant) for _ in range(14)]
    async with context.db.in_turn(counting.TURN):
        monkeypatch.setattr(removing, "TURN_SECONDS", 0.2)
        answers = await asyncio.gather(*(client.delete(f"/v1/jobs/{job_id}") for job_id in jobs))
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(503, "1")}
    assert (await client.delete(f"/v1/jobs/{jobs[0]}")).status_code == 204


async def test_bytes_that_are_being_deleted_are_not_stored_until_they_are_gone(context: Context, tenant: UUID) -> None:
    """The store takes its time, and the same bytes come again meanwhile."""
    job_id = await ended(context, tenant)
    await removing.remove(context.db, [job_id], Part.JOB, Keep.NOTHING)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(sha256: str) -> None:
        asked.set()
        await go_on.wait()
        await context.storage.delete(sha256)

    async def delete_slowly() -> None:
        while taken := await blobs.take_unreferenced(context.db, -1.0):
            for each in taken:
                await blobs.delete_unreferenced(context.db, slowly, each)
            await context.db.execute("UPDATE unreferenced_blobs SET since = now() + interval '1 day'")

    deleting = asyncio.create_task(delete_slowly())
    await asked.wait()
    coming = asyncio.create_task(ended(context, tenant))
    await asyncio.sleep(0.3)
    assert not coming.done()
    go_on.set()
    await deleting
    again = await coming
    for table in ("artifacts", "input_files"):
        for row in await context.db.fetch(f"SELECT sha256 FROM {table} WHERE job_id = $1", again):
            assert await context.storage.exists(row["sha256"])


async def test_a_reference_that_goes_while_another_is_looked_for_is_not_forgotten(
    context: Context, tenant: UUID
) -> None:
    first, second = await ended(context, tenant), await ended(context, tenant)
    await removing.remove(context.db, [first], Part.FILES, Keep.NOTHING)
    [taken] = await blobs.take_unreferenced(context.db, -1.0)
    await removing.remove(context.db, [second], Part.FILES, Keep.NOTHING)
    assert not await blobs.delete_unreferenced(context.db, context.storage.delete, taken)
    await context.db.execute("UPDATE unreferenced_blobs SET since = now()")
    assert await delete_all(context) == 1


async def test_a_file_that_stands_in_its_link_goes_with_the_files(context: Context, tenant: UUID) -> None:
    claim = await making.submitted(context.db, tenant)
    lifted = Lifted(files=(LiftedFile("mask", 0, PIXEL, "A truck"),))
    await endings.settle(context.db, claim.job_id, 1, making.completed(), making.heard(), "webhook", lifted)
    await removing.remove(context.db, [claim.job_id], Part.FILES, Keep.HASH)
    [row] = await context.db.fetch("SELECT * FROM artifacts")
    assert PIXEL not in str(dict(row))


async def test_nothing_of_a_removed_file_leads_to_the_providers(
    context: Context, tenant: UUID, client: httpx.AsyncClient
) -> None:
    claim = await making.submitted(context.db, tenant)
    file = LiftedFile("mask", 0, "https://example.com/0.png", "A truck", file_name="a truck.png")
    lifted = Lifted(files=(file,))
    await endings.settle(context.db, claim.job_id, 1, making.completed(), making.heard(), "webhook", lifted)
    sha256 = await stored(context, claim.job_id)
    await removing.remove(context.db, [claim.job_id], Part.FILES, Keep.HASH)
    [mask] = (await client.get(f"/v1/jobs/{claim.job_id}")).json()["masks"]
    assert [mask[name] for name in ("url", "source_url", "file_name")] == [None] * 3
    assert (mask["sha256"], mask["label"], mask["area_fraction"]) == (sha256, "A truck", 0.5)


async def test_a_redelivery_of_what_was_removed_ends(context: Context, tenant: UUID, client: httpx.AsyncClient) -> None:
    job_id = await ended(context, tenant)
    await removing.remove(context.db, [job_id], Part.RESULT, Keep.NOTHING)
    answer = await client.post(f"/v1/jobs/{job_id}/callback/redeliver")
    assert (answer.status_code, answer.json()["error_type"]) == (410, "gone")
    body = {"since": "2020-01-01T00:00:00Z"}
    assert (await client.post("/v1/callbacks/redeliver", json=body)).json()["callbacks"] == 0


async def test_what_a_provider_is_to_be_asked_to_stop_is_stopped_before_its_job_goes(
    context: Context, tenant: UUID, client: httpx.AsyncClient
) -> None:
    claim = await making.submitted(context.db, tenant)
    await endings.close(context.db, claim.job_id, making.failed(), even_if_submitted=True)
    assert (await client.delete(f"/v1/jobs/{claim.job_id}")).status_code == 409
    await context.db.execute("UPDATE attempts SET ended_at = now()")
    assert (await client.delete(f"/v1/jobs/{claim.job_id}")).status_code == 204


async def test_copies_and_removals_at_once_wait_for_each_other(context: Context, tenant: UUID) -> None:
    for part in (Part.FILES, Part.JOB) * 5:
        claim = await making.submitted(context.db, tenant)
        files = tuple(LiftedFile("mask", index, f"https://example.com/{index}.png") for index in range(4))
        await endings.settle(
            context.db, claim.job_id, 1, making.completed(), making.heard(), "webhook", Lifted(files=files)
        )
        measured = Measured("0" * 63 + str(len(files)), 1, "image/png")
        assert await records.announce(context.db, measured)
        copies = [records.OwedCopy(claim.job_id, "mask", index, "https://example.com", 1) for index in range(4)]
        await asyncio.gather(
            *(records.record_copy(context.db, each, measured) for each in copies[:2]),
            *(records.record_failure(context.db, each, "it broke", None) for each in copies[2:]),
            removing.remove(context.db, [claim.job_id], part, Keep.NOTHING),
        )


async def test_a_cost_that_no_float_holds_is_counted(context: Context, tenant: UUID) -> None:
    for usage in ("1e308", "1e-308", "-1e308"):
        claim = await making.ended(context.db, tenant)
        await context.db.execute("ALTER TABLE outcomes DISABLE TRIGGER outcomes_are_final")
        await context.db.execute(
            "UPDATE outcomes SET cost = $2::text::numeric * 1e30 WHERE job_id = $1", claim.job_id, usage
        )
        await context.db.execute("ALTER TABLE outcomes ENABLE TRIGGER outcomes_are_final")
    assert await counting.count_all(context.db) >= 3
    assert await making.count(context.db, "uncounted") == 0


async def test_a_job_is_removed_without_a_look_at_the_marks_of_all(db: Database, tenant: UUID) -> None:
    """A scan of the whole table was cheaper than the planner's other ways, and grew with the jobs that stay."""
    jobs = [(await making.ended(db, tenant, tags=[f"tag-{number}"])).job_id for number in range(10)]
    await db.execute(
        "INSERT INTO job_marks (tenant_id, name, value, job_id)"
        " SELECT $1, 'tag', 'other-' || n % 50, md5(n::text)::uuid FROM generate_series(1, 20000) AS n",
        tenant,
    )
    await db.execute("ANALYZE job_marks")
    plan = "\n".join(row[0] for row in await db.fetch(f"EXPLAIN {removing._JOB}", jobs))
    assert "pk_job_marks" in plan
    assert "Seq Scan on job_marks" not in plan
    assert await removing.remove(db, jobs, Part.JOB, Keep.NOTHING) != []
    assert await making.count(db, "job_marks") == 20_000
