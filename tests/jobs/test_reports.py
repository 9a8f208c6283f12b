"""News that ended nothing is kept, with what it amounts to."""

from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from service.catalog.base import Lifted
from service.db import Database
from service.jobs import endings, filing, operations
from service.jobs.facts import Claim
from tests import making
from tests.making import file_report

GHOST = Claim(UUID(int=1), 1, making.MODEL, "{}", "normal", 0.0)


async def test_the_same_news_again_is_a_duplicate(db: Database, tenant: UUID) -> None:
    claim = await making.ended(db, tenant, request_id="r-1")
    assert await file_report(db, claim, making.completed(), "r-1") == "duplicate"


@pytest.mark.parametrize("ending", [making.completed(making.DOG), making.failed()])
async def test_other_news_of_the_same_attempt_is_a_conflict(db: Database, tenant: UUID, ending: making.Ending) -> None:
    claim = await making.ended(db, tenant, request_id="r-1")
    assert await file_report(db, claim, ending, "r-1") == "conflict"


async def test_news_of_a_job_that_we_ended_ourselves_is_late(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant, "r-1")
    await endings.close(db, claim.job_id, operations.CANCELLED, even_if_submitted=True)
    assert await file_report(db, claim, making.completed(), "r-1") == "late"


async def test_news_under_another_id_is_foreign_before_and_after_the_end(db: Database, tenant: UUID) -> None:
    claim = await making.submitted(db, tenant, "r-1")
    assert await file_report(db, claim, making.completed(), "r-2") == "foreign"
    await making.settle(db, claim)
    assert await file_report(db, claim, making.completed(), "r-2") == "foreign"


async def test_news_of_a_job_that_nobody_knows_is_unknown_and_kept(db: Database) -> None:
    assert await file_report(db, GHOST, making.completed()) == "unknown"
    assert [row["body"] for row in await making.reports(db, GHOST.job_id)] == [making.CAT]


@pytest.mark.parametrize("verdict", ["unreadable", "incomplete", "foreign"])
async def test_a_verdict_that_is_known_is_kept_as_it_is(db: Database, tenant: UUID, verdict: str) -> None:
    claim = await making.submitted(db, tenant)
    given = await filing.file_report(db, claim.job_id, 1, making.heard(b"?"), None, verdict)
    assert [row["verdict"] for row in await making.reports(db, claim.job_id)] == [given] == [verdict]


async def test_news_changes_nothing_of_an_outcome(db: Database, tenant: UUID) -> None:
    claim = await making.ended(db, tenant)
    before = await making.outcome(db, claim.job_id)
    for ending in (making.completed(making.DOG), making.failed()):
        assert not await making.settle(db, claim, ending)
        await file_report(db, claim, ending)
    assert await making.outcome(db, claim.job_id) == before


async def test_news_for_an_attempt_number_out_of_range_is_unknown(db: Database) -> None:
    job_id = uuid7()
    assert await endings.settle(db, job_id, 2**15 - 1, making.completed(), making.heard(), "webhook", Lifted()) is None
    assert await filing.file_report(db, job_id, 2**15 - 1, making.heard(), making.completed()) == "unknown"
