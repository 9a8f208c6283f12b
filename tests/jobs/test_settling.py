"""A job ends once: by the first valid news of any of its attempts, whoever else has news at the time."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Coroutine
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from service.catalog.base import Lifted, LiftedFile
from service.context import Context
from service.db import Database, one_connection
from service.jobs import due, endings, operations, store
from service.jobs.facts import Answer, Ending
from service.jobs.lifecycle import Event
from service.models import outcomes
from service.queue import TaskName
from tests import making
from tests.servers import Addresses


async def test_news_of_the_end_moves_the_job_from_one_table_to_the_other(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant, "r-1")
    assert await making.settle(db, claim, evidence=making.heard(request_id="r-1", age=0.5))
    row = await making.outcome(db, claim.job_id)
    assert row is not None
    assert await making.live(db, claim.job_id) is None
    assert (row["status"], row["body"], row["attempt"], row["source"]) == ("completed", making.CAT, 1, "webhook")
    assert row["received_at"] < row["completed_at"]
    assert await making.events(db, claim.job_id) == ["registered", "submitting", "accepted", "completed"]


async def test_a_submission_whose_answer_was_overtaken_ends_with_its_job(db: Database, tenant: UUID) -> None:
    overtaken = await making.claimed(db, tenant)
    assert await making.settle(db, overtaken, evidence=making.heard(request_id="r-1", age=0.0))
    row = await making.outcome(db, overtaken.job_id)
    assert row is not None
    assert row["submit_seconds"] > 0
    assert row["provider_seconds"] == 0


async def test_a_result_of_an_earlier_attempt_overtakes_no_answer_of_its_own(db: Database, tenant: UUID) -> None:
    first = await making.claimed(db, tenant)
    await making.resubmitted(db, first)
    live = await making.live(db, first.job_id)
    assert live is not None
    assert live["duty"] == "answer"
    assert await making.settle(db, first, evidence=making.heard(request_id="r-1", age=0.0))
    row = await making.outcome(db, first.job_id)
    assert row is not None
    assert row["provider_seconds"] > 0


async def test_when_a_provider_had_a_job_is_not_known_where_its_answer_was_lost(db: Database, tenant: UUID) -> None:
    lost = await making.claimed(db, tenant)
    await making.make_due(db, lost.job_id)
    [job] = await due.take_due(db, 10, 30.0)
    assert await due.doubt(db, job, 120.0)
    assert await making.settle(db, lost, evidence=making.heard(request_id="r-1"))
    row = await making.outcome(db, lost.job_id)
    assert row is not None
    assert row["provider_seconds"] is None


async def test_the_evidence_of_an_end_is_kept_to_the_byte(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant)
    body = b'{"payload": "\\u0000\xff"}'
    await making.settle(db, claim, evidence=making.heard(body, headers='{"a": "b"}', http_status=200))
    [report] = await making.reports(db, claim.job_id)
    assert (report["body"], report["verdict"], report["http_status"]) == (body, "applied", 200)


async def test_the_files_of_an_output_are_owed_from_the_moment_of_its_end(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant)
    files = tuple(LiftedFile("mask", index, f"https://example.com/{index}.png") for index in range(3))
    await endings.settle(db, claim.job_id, 1, making.completed(), making.heard(), "webhook", Lifted(files=files))
    rows = await db.fetch("SELECT index FROM copies JOIN artifacts USING (job_id, kind, index) ORDER BY index")
    assert [row["index"] for row in rows] == [0, 1, 2]


async def test_an_outcome_cannot_be_updated(db: Database, tenant: UUID) -> None:
    claim = await making.ended(db, tenant)
    for change in (
        "outcomes SET status = 'failed', error = 'x'",
        "outcomes SET total_seconds = 1",
        "results SET body = 'x'",
    ):
        with pytest.raises(asyncpg.RaiseError, match="is final"):
            await db.execute(f"UPDATE {change} WHERE job_id = $1", claim.job_id)


async def test_only_what_comes_after_the_end_is_filled_into_an_outcome_later(db: Database, tenant: UUID) -> None:
    final = {
        row["event_object_column"]
        for row in await db.fetch(
            "SELECT event_object_column FROM information_schema.triggered_update_columns"
            " WHERE trigger_name = 'outcomes_are_final'"
        )
    }
    later = {"copy_seconds", "callback_seconds", "cost"}
    assert final == {column.name for column in outcomes.columns} - later
    claim = await making.ended(db, tenant)
    for column in later:
        await db.execute(f"UPDATE outcomes SET {column} = 1.5 WHERE job_id = $1", claim.job_id)


async def test_two_ends_at_once_leave_one(db: Database, tenant: UUID) -> None:
    for _ in range(20):
        claim = await making.submitted(db, tenant)
        endings = [making.completed(), making.completed(making.DOG), making.failed()] * 3
        settled = await asyncio.gather(*(making.settle(db, claim, ending) for ending in endings))
        assert sum(settled) == 1
        row = await making.outcome(db, claim.job_id)
        assert row is not None
        assert row["body"] == endings[settled.index(True)].body


async def test_an_end_and_its_submit_answers_do_not_wait_for_each_other(db: Database, tenant: UUID) -> None:
    for _ in range(6):
        for _ in range(20):
            await making.queued(db, tenant)
        claims = await making.claim_all(db)
        answers = [making.accepted(claim, f"r-{claim.job_id}") for claim in claims]
        random.shuffle(answers)
        work: list[Coroutine[Any, Any, Any]] = [store.record_answers(db, answers[:10])]
        work += [making.settle(db, claim, evidence=making.heard(request_id=f"r-{claim.job_id}")) for claim in claims]
        await asyncio.gather(*work, store.record_answers(db, answers[10:]))
    rows = await db.fetch("SELECT state, provider_request_id = 'r-' || job_id AS same FROM attempts")
    assert {(row["state"], row["same"]) for row in rows} == {("completed", True)}
    assert await making.count(db, "live_jobs") == 0
    assert await making.count(db, "outcomes") == 120


async def test_all_that_can_be_done_at_once_ends_in_one_outcome(db: Database, tenant: UUID) -> None:
    for _ in range(25):
        claim = await making.claimed(db, tenant)
        await making.make_due(db, claim.job_id)
        [job] = await due.take_due(db, 10, 30.0)
        work: list[Coroutine[Any, Any, Any]] = [
            store.record_answers(db, [making.accepted(claim)]),
            making.settle(db, claim),
            making.settle(db, claim, making.failed()),
            due.doubt(db, job, 60.0),
            due.record_progress(db, job, running=True, queue_position=None),
            endings.request_cancel(db, claim.job_id),
            endings.close(db, claim.job_id, operations.CANCELLED, even_if_submitted=True),
        ]
        random.shuffle(work)
        await asyncio.gather(*work)
        assert await making.live(db, claim.job_id) is None
        assert (await making.events(db, claim.job_id))[-1] == await making.status(db, claim.job_id)


async def test_the_first_valid_result_wins_though_its_attempt_was_given_up(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.ambiguous(claim, delay=0.0)])
    [job] = await due.take_due(db, 10, 30.0)
    await due.submit_again(db, job)
    [second] = await making.claim_all(db)
    assert await making.settle(db, claim, evidence=making.heard(request_id="first"))
    row = await making.outcome(db, claim.job_id)
    assert row is not None
    assert row["attempt"] == 1
    assert await making.file_report(db, second, making.completed(making.DOG)) == "late"
    assert await making.states(db, claim.job_id) == ["completed", "superseded"]


async def test_an_end_supersedes_every_other_attempt_that_is_open(db: Database, tenant: UUID) -> None:
    refused = await making.claimed(db, tenant)
    await store.record_answers(db, [making.refused(refused)])
    [unnamed] = await making.claim_all(db)
    named = await making.resubmitted(db, unnamed)
    last = await making.resubmitted(db, named)
    await store.record_answers(db, [making.accepted(named, "r-3")])
    await store.record_answers(db, [making.accepted(last, "r-4")])
    row = await endings.settle(db, last.job_id, 4, making.completed(), making.heard(), "webhook", Lifted())
    assert row is not None
    assert row["to_stop"] is True
    assert await making.states(db, last.job_id) == ["refused…", "superseded", "superseded…", "completed"]
    assert [(each.attempt, each.provider_request_id) for each in await due.take_to_stop(db, 10, 0.0)] == [(3, "r-3")]


async def test_an_end_without_a_named_rival_leaves_nothing_to_stop(db: Database, tenant: UUID) -> None:
    alone = await making.submitted(db, tenant)
    row = await endings.settle(db, alone.job_id, 1, making.completed(), making.heard(), "webhook", Lifted())
    assert row is not None
    assert row["to_stop"] is False
    second = await making.resubmitted(db, await making.claimed(db, tenant))
    row = await endings.settle(db, second.job_id, 2, making.completed(), making.heard(), "webhook", Lifted())
    assert row is not None
    assert row["to_stop"] is False
    assert await due.take_to_stop(db, 10, 0.0) == []


async def test_an_end_with_a_named_rival_wakes_the_watch(
    context: Context, tenant: UUID, nudges: list[TaskName]
) -> None:
    first = await making.claimed(context.db, tenant)
    second = await making.resubmitted(context.db, first)
    await store.record_answers(context.db, [making.accepted(second, "r-2")])
    verdict = await operations.end(
        context, first.job_id, 1, first.model, making.completed(), making.heard(request_id="r-1")
    )
    context.nudger.close()
    assert verdict == "applied"
    assert nudges == [TaskName.WATCH]


async def test_a_refused_attempt_that_a_webhook_names_after_all_gives_the_result(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.refused(claim, delay=60.0)])
    assert await making.settle(db, claim, evidence=making.heard(request_id="r-1"))
    assert await making.states(db, claim.job_id) == ["completed"]


@contextlib.asynccontextmanager
async def answer_being_written(addresses: Addresses, db: Database, answer: Answer) -> AsyncIterator[None]:
    """Inside, the answer is written and not committed; at the end it is."""
    async with one_connection(addresses.database) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await store.record_answers(Database(connection), [answer])  # type: ignore[arg-type]  # It has the same methods.
        yield
        await transaction.commit()


async def is_waiting_for_a_lock(db: Database) -> bool:
    waiting = "wait_event_type = 'Lock' AND query ~ 'FOR UPDATE'"
    row = await db.fetchrow(f"SELECT count(*) FROM pg_stat_activity WHERE {waiting}")
    assert row is not None
    return row["count"] == 1


@pytest.mark.parametrize(("heard", "ends"), [("A", True), ("B", False)])
async def test_an_answer_that_is_being_written_decides_whose_webhook_counts(
    addresses: Addresses, db: Database, tenant: UUID, heard: str, ends: bool
) -> None:
    claim = await making.claimed(db, tenant)
    async with answer_being_written(addresses, db, making.accepted(claim, "A")):
        settling = asyncio.create_task(making.settle(db, claim, evidence=making.heard(request_id=heard)))
        await making.until(lambda: is_waiting_for_a_lock(db))
    assert await settling is ends
    assert await making.status(db, claim.job_id) == ("completed" if ends else "submitted")
    [attempt] = await making.attempts(db, claim.job_id)
    assert attempt["provider_request_id"] == "A"
    if not ends:
        assert await making.file_report(db, claim, making.completed(), "B") == "foreign"


async def test_the_newest_gateway_id_is_kept(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.accepted(claim, "r-1", gateway_request_id="g-1")])
    await making.settle(db, claim, evidence=making.heard(request_id="r-1", gateway_request_id="g-2"))
    [attempt] = await making.attempts(db, claim.job_id)
    assert attempt["gateway_request_id"] == "g-2"


@pytest.mark.parametrize("says", [None, "r-1"])
async def test_a_webhook_that_names_no_new_gateway_id_leaves_the_old_one(
    db: Database, tenant: UUID, says: str | None
) -> None:
    claim = await making.claimed(db, tenant)
    await store.record_answers(db, [making.accepted(claim, "r-1", gateway_request_id="g-1")])
    await making.settle(db, claim, evidence=making.heard(request_id="r-1", gateway_request_id=says))
    [attempt] = await making.attempts(db, claim.job_id)
    assert attempt["gateway_request_id"] == "g-1"


async def test_the_gateway_id_of_an_answer_that_was_overtaken_is_the_older_one(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await making.settle(db, claim, evidence=making.heard(request_id="r-1", gateway_request_id="g-2"))
    await store.record_answers(db, [making.accepted(claim, "r-1", gateway_request_id="g-1")])
    [attempt] = await making.attempts(db, claim.job_id)
    assert attempt["gateway_request_id"] == "g-2"


async def test_news_under_a_foreign_request_id_ends_nothing(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant, "ours")
    assert not await making.settle(db, claim, evidence=making.heard(request_id="theirs"))
    assert await making.status(db, claim.job_id) == "submitted"


async def test_news_of_an_attempt_that_never_was_ends_nothing(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant)
    result = await endings.settle(db, claim.job_id, 2, making.completed(), making.heard(), "webhook", Lifted())
    assert result is None
    assert await making.status(db, claim.job_id) == "submitted"


async def test_an_early_webhook_gives_the_attempt_its_id(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    await making.settle(db, claim, evidence=making.heard(request_id="r-1", gateway_request_id="g-1"))
    [attempt] = await making.attempts(db, claim.job_id)
    assert (attempt["provider_request_id"], attempt["gateway_request_id"]) == ("r-1", "g-1")


WORDS = "\0 \ud800 é"


async def test_words_that_a_text_column_cannot_hold_are_kept_readable(db: Database, tenant: UUID) -> None:
    claim = await making.claimed(db, tenant)
    ending = Ending(Event.FAILED, 422, b'{"detail": "x"}', WORDS, WORDS)
    files = (LiftedFile("image", 0, "https://example.com/a.png", label=WORDS, file_name=WORDS, content_type=WORDS),)
    lifted = Lifted(text=WORDS, files=files)
    evidence = making.heard(request_id="r", gateway_request_id=WORDS)
    assert await endings.settle(db, claim.job_id, 1, ending, evidence, "webhook", lifted) is not None
    row = await making.outcome(db, claim.job_id)
    assert row is not None
    assert row["error"] == row["error_type"] == row["text"] == "\ufffd ? é"


@pytest.mark.parametrize(
    "lifted",
    [
        Lifted(seed=10**40),
        Lifted(usage={"tokens": 10**40}),
        Lifted(usage={"tokens": -(2**64)}),
        Lifted(timings={"total": 1e300}),
    ],
)
async def test_no_figure_of_a_model_stops_an_end(db: Database, tenant: UUID, lifted: Lifted) -> None:
    claim = await making.submitted(db, tenant)
    assert await endings.settle(db, claim.job_id, 1, making.completed(), making.heard(), "webhook", lifted) is not None


async def test_news_of_another_attempts_request_is_never_adopted(db: Database, tenant: UUID) -> None:
    known = await making.submitted(db, tenant, "A")
    unanswered = await making.claimed(db, tenant)
    assert not await making.settle(db, unanswered, evidence=making.heard(request_id="A"))
    assert await making.file_report(db, unanswered, making.completed(), "A") == "foreign"
    assert await making.settle(db, known, evidence=making.heard(request_id="A"))
    assert await making.settle(db, unanswered, evidence=making.heard(request_id="B"))
