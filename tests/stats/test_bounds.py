"""What a question may cost, and where its cost falls."""

import threading
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import pytest

from service.db import Database
from service.jobs import lists
from service.stats import answers, measures, statements
from service.stats.answers import TooMuch, answer
from service.stats.counting import count_all
from service.stats.questions import Question, read_question
from tests import making
from tests.making import make_tenant
from tests.stats import drawn


@pytest.fixture
async def by_day(db: Database) -> Question:
    """A question with percentiles of many groups."""
    tenants = [await make_tenant(db, name) for name in ("ours", "theirs")]
    await drawn.write(db, drawn.draw(Random(9), tenants, 500))
    await count_all(db)
    start = (drawn.END - timedelta(days=60)).isoformat()
    return read_question([("group_by", "day"), ("created_after", start)], drawn.END)


async def test_much_is_put_together_beside_the_event_loop(
    db: Database, by_day: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()

    class Watched(measures.Spread):
        def __init__(self, buckets: bytes, counts: bytes) -> None:
            threads.add(threading.current_thread())
            super().__init__(buckets, counts)

    monkeypatch.setattr(answers, "Spread", Watched)
    monkeypatch.setattr(answers, "LONG", 10)
    found = await answer(db, None, by_day)
    assert len(found.groups) > 10
    assert threads
    assert threading.current_thread() not in threads


@pytest.mark.parametrize(
    ("query", "most"), [("tag=shop", 40), ("tag=shop&total_seconds_min=0", 20), ("tag=shop&q=prompt", 8)]
)
async def test_a_question_about_more_jobs_than_are_looked_through_says_how_many_these_are(
    db: Database, tenant: UUID, monkeypatch: pytest.MonkeyPatch, query: str, most: int
) -> None:
    monkeypatch.setattr(lists, "LONGEST_WALK", 10)
    question = read_question([tuple(pair.split("=")) for pair in query.split("&")], datetime.now(UTC))
    for _ in range(most - 1):
        await making.ended(db, tenant, tags=["shop"])
    assert (await answer(db, tenant, question)).groups[0].figures["count"] == most - 1
    for _ in range(2):
        await making.ended(db, tenant, tags=["shop"])
    with pytest.raises(TooMuch, match=f"mean more than {most} jobs, or more than {most} would"):
        await answer(db, tenant, question)


async def test_no_more_spreads_are_put_together_than_may_be(
    db: Database, by_day: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = len((await answer(db, None, by_day)).groups)
    for module in (answers, statements):
        monkeypatch.setattr(module, "MOST_SPREAD", days)
    assert len((await answer(db, None, by_day)).groups) == days
    for module in (answers, statements):
        monkeypatch.setattr(module, "MOST_SPREAD", days - 1)
    with pytest.raises(TooMuch, match=f"More than {days - 1} figures"):
        await answer(db, None, by_day)
