"""News that ended nothing is kept, with what it amounts to."""

import asyncio
import hashlib
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from service.catalog.base import Lifted
from service.db import Database, Row
from service.jobs import endings, filing, operations
from service.jobs.facts import Claim
from service.jobs.lifecycle import Verdict
from service.retention import removing, rules
from service.retention.parts import Keep, Part
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


async def test_of_news_of_a_job_that_is_not_there_the_hash_is_kept_for_a_month(db: Database) -> None:
    assert await file_report(db, GHOST, making.completed()) == "unknown"
    assert await filing.file_report(db, GHOST.job_id, 1, making.heard(b"?"), None, Verdict.UNREADABLE) == "unknown"
    assert [kept_of(row) for row in await making.reports(db, GHOST.job_id)] == [hashed(making.CAT), hashed(b"?")]
    for age, left in (("29 days", 2), ("31 days", 0)):
        await db.execute(f"UPDATE reports SET received_at = now() - interval '{age}'")
        await filing.tidy(db)
        assert await making.count(db, "reports") == left


async def test_tidying_leaves_what_was_said_of_jobs(db: Database, tenant: UUID) -> None:
    claim = await making.ended(db, tenant)
    assert await filing.file_report(db, claim.job_id, 9, making.heard(), making.completed()) == "unknown"
    await db.execute("UPDATE reports SET received_at = now() - interval '1 year'")
    await filing.tidy(db)
    assert await making.count(db, "reports") == 2


def kept_of(report: Row) -> tuple[bytes, str, str | None, int | None]:
    return report["body"], report["headers"], report["removed_sha256"], report["removed_size"]


def hashed(body: bytes) -> tuple[bytes, str, str | None, int | None]:
    return b"", "{}", hashlib.sha256(body).hexdigest(), len(body)


@pytest.mark.parametrize("had_evidence", [True, False])
@pytest.mark.parametrize("keep", [Keep.HASH, Keep.NOTHING])
async def test_what_comes_late_is_kept_as_the_evidence_that_was_removed(
    db: Database, tenant: UUID, keep: Keep, had_evidence: bool
) -> None:
    claim = await making.submitted(db, tenant, "r")
    if had_evidence:
        assert await making.settle(db, claim)
    else:
        await endings.close(db, claim.job_id, making.failed(), even_if_submitted=True)
    await rules.set_rule(db, "ours", "*", Part.EVIDENCE, 3_600.0, keep)
    await removing.remove(db, [claim.job_id], Part.EVIDENCE, keep)
    for body in (making.DOG, b"?"):
        heard = making.heard(body, "r")
        assert await filing.file_report(db, claim.job_id, 1, heard, making.completed(body)) in {"conflict", "late"}
    late = [kept_of(row) for row in await making.reports(db, claim.job_id)][-2:]
    if keep is Keep.HASH:
        assert late == [hashed(making.DOG), hashed(b"?")]
    else:
        assert late == [(b"", "{}", None, len(making.DOG)), (b"", "{}", None, 1)]


async def test_on_a_hold_what_comes_late_is_kept_until_the_rule_comes_back(db: Database, tenant: UUID) -> None:
    claim = await making.ended(db, tenant)
    await removing.remove(db, [claim.job_id], Part.EVIDENCE, Keep.HASH)
    await removing.hold(db, claim.job_id)
    assert await file_report(db, claim, making.completed(making.DOG)) == "conflict"
    assert [row["body"] for row in await making.reports(db, claim.job_id)] == [b"", making.DOG]
    await removing.release(db, claim.job_id)
    await removing.remove(db, [claim.job_id], Part.EVIDENCE, Keep.HASH)
    assert [kept_of(row) for row in await making.reports(db, claim.job_id)] == [hashed(making.CAT), hashed(making.DOG)]


@pytest.mark.parametrize("part", [Part.EVIDENCE, Part.JOB])
async def test_what_comes_while_it_is_removed_is_removed_too(db: Database, tenant: UUID, part: Part) -> None:
    for _ in range(15):
        claim = await making.ended(db, tenant)
        await asyncio.gather(
            removing.remove(db, [claim.job_id], part, Keep.NOTHING),
            *(file_report(db, claim, making.completed(making.DOG)) for _ in range(3)),
        )
        assert {row["body"] for row in await making.reports(db, claim.job_id)} <= {b""}


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
