"""When links end, as they themselves say it."""

import json
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import urlencode
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.rendering import Renderer
from service.artifacts.expiry import EPOCH, LONGEST_SECONDS, expiry_of
from service.artifacts.links import FileLinks
from service.catalog.base import Lifted, LiftedFile
from service.db import Database
from service.jobs import endings, reads
from tests import making

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOST = "https://files.example/a.png"


@pytest.mark.parametrize(
    ("query", "minutes"),
    [
        ("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20261120T113000Z&X-Amz-Expires=3600&X-Amz-Signature=0", 30),
        ("X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Date=20261120T120000Z&X-Goog-Expires=600&X-Goog-Signature=0", 10),
        ("x-amz-date=20261120T120000Z&x-amz-expires=60", 1),
        (f"AWSAccessKeyId=A&Signature=s&Expires={int(NOW.timestamp()) + 300}", 5),
        (f"Expires={int(NOW.timestamp()) + 120}&Key-Pair-Id=K&Signature=s", 2),
        ("sv=2024-11-04&se=2026-11-20T12%3A06%3A00Z&sp=r&sig=s", 6),
        ("sv=2024-11-04&se=2026-11-20T14%3A06%3A00%2B02%3A00&sp=r&sig=s", 6),
        ("se=2026-11-21&sig=s", 12 * 60),
        ("X-Amz-Date=20261120T110000Z&X-Amz-Expires=60", -59),
    ],
)
def test_a_signed_link_says_when_it_ends(query: str, minutes: int) -> None:
    assert expiry_of(f"{HOST}?{query}") == NOW + timedelta(minutes=minutes)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "X-Amz-Date=20261120T113000Z",
        "X-Amz-Expires=3600",
        "X-Amz-Date=20261332T993000Z&X-Amz-Expires=1",
        "X-Amz-Date=20261120T113000Z&X-Amz-Expires=-1",
        "X-Amz-Date=20261120T113000Z&X-Amz-Expires=999999999999",
        "X-Amz-Date=20261120T113000Z&X-Amz-Expires=" + "9" * 5000,
        "Expires=never",
        "Expires=3600",
        "Expires=99999999999999",
        "se=2026-11-20T12:06:00Z",
        "se=soon&sig=s",
        "se=0001-01-01T00:00:00%2B14:00&sig=s",
        "se=0001-01-01&sig=s",
        "se=9999-12-31T23:59:59.999999Z&sig=s",
        "X-Amz-Date=99991231T235959Z&X-Amz-Expires=604800",
    ],
)
def test_of_any_other_link_nobody_knows(query: str) -> None:
    assert expiry_of(f"{HOST}?{query}") is None


@pytest.mark.parametrize(
    "url", ["data:image/png;base64,AAAA?Expires=1795208621", "http://[::1", "ftp://a/?Expires=1795208621"]
)
def test_only_a_web_address_ends(url: str) -> None:
    assert expiry_of(url) is None


@given(st.text())
def test_nothing_raises(tail: str) -> None:
    for name in ("", "?se=", "?sig=x&se=", "?Expires=", "?X-Amz-Date=20261120T120000Z&X-Amz-Expires=", "?X-Goog-Date="):
        found = expiry_of(f"https://x{name}{tail}")
        assert found is None or found.tzinfo is UTC


OFFSETS = st.timedeltas(timedelta(hours=-23), timedelta(hours=23))
TIMES = st.datetimes() | st.builds(datetime.replace, st.datetimes(), tzinfo=st.builds(timezone, OFFSETS))
SPANS = st.integers(0, LONGEST_SECONDS) | st.integers()


@given(st.sampled_from(["amz", "goog"]), st.datetimes(), SPANS)
def test_whatever_time_and_span_a_link_is_signed_with_its_end_is_told_or_not_known(
    whose: str, start: datetime, seconds: int
) -> None:
    end = int(start.replace(tzinfo=UTC, microsecond=0).timestamp()) + seconds
    date = start.isoformat(timespec="seconds").replace("-", "").replace(":", "")
    found = expiry_of(f"{HOST}?X-{whose}-Date={date}Z&X-{whose}-Expires={seconds}")
    known = 0 <= seconds <= LONGEST_SECONDS and end in EPOCH
    assert found == (datetime.fromtimestamp(end, UTC) if known else None)


@given(TIMES)
def test_whatever_time_azure_names_a_link_says_it_or_it_is_not_known(end: datetime) -> None:
    found = expiry_of(f"{HOST}?{urlencode({'se': end.isoformat(), 'sig': 's'})}")
    seconds = int((end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp())
    assert found == (datetime.fromtimestamp(seconds, UTC) if seconds in EPOCH else None)


SIGNED_UNTIL = datetime.fromtimestamp(4_102_444_800, UTC)
SIGNED = f"{HOST}?Signature=s&Expires=4102444800"


async def expiries(db: Database, tenant: UUID, asked: str | None, *urls: str) -> list[timedelta | datetime | None]:
    """Of each file, how long after the end of its job its link ends, or when, if it is signed."""
    hints = json.dumps({"x-fal-object-lifecycle-preference": asked} if asked is not None else {})
    claim = await making.submitted(db, tenant, hints=hints)
    files = tuple(LiftedFile("image", index, url) for index, url in enumerate(urls))
    await endings.settle(db, claim.job_id, 1, making.completed(), making.heard(), "webhook", Lifted(files=files))
    rows = await db.fetch(
        "SELECT source_expires_at, completed_at FROM artifacts JOIN outcomes USING (job_id) WHERE job_id = $1"
        " ORDER BY index",
        claim.job_id,
    )
    ends = [(row["source_expires_at"], row["completed_at"]) for row in rows]
    return [end if end is None or end == SIGNED_UNTIL else end - done for end, done in ends]


@pytest.mark.parametrize(
    "query",
    ["X-Amz-Date=99991231T235959Z&X-Amz-Expires=604800", "se=9999-12-31T23:59:59.999999Z&sig=s", "se=0001-01-01&sig=s"],
)
async def test_a_job_ends_and_is_told_whatever_its_links_say_of_their_end(
    db: Database, tenant: UUID, query: str
) -> None:
    claim = await making.submitted(db, tenant)
    lifted = Lifted(files=(LiftedFile("image", 0, f"{HOST}?{query}"),))
    await endings.settle(db, claim.job_id, 1, making.completed(), making.heard(), "webhook", lifted)
    row = await reads.get(db, tenant, claim.job_id)
    assert row is not None
    renderer = Renderer("https://roundtrip.example", FileLinks("https://roundtrip.example", b"secret"))
    told = await renderer.job(row)
    assert (told.status, told.images[0].source_expires_at) == ("completed", None)


async def test_what_fal_was_asked_for_counts_from_the_end_of_the_job(db: Database, tenant: UUID) -> None:
    asked = json.dumps({"expiration_duration_seconds": 90, "initial_acl": {"default": "allow"}})
    found = await expiries(db, tenant, asked, HOST, SIGNED, "data:image/png;base64,AAAA")
    assert found == [timedelta(seconds=90), timedelta(seconds=90), None]
    long = json.dumps({"expiration_duration_seconds": 999_999_999})
    assert await expiries(db, tenant, long, HOST) == [timedelta(seconds=999_999_999)]
    soon = f"{HOST}?X-Amz-Date=20261120T120000Z&X-Amz-Expires=1"
    [end] = await expiries(db, tenant, asked, soon)
    assert isinstance(end, timedelta)
    assert end < timedelta(seconds=90)


@pytest.mark.parametrize(
    "asked",
    [None, "", "{", "[]", "null", "{}", '{"expiration_duration_seconds": null}',
     '{"expiration_duration_seconds": true}',
     '{"expiration_duration_seconds": -1}', '{"expiration_duration_seconds": 1e300}', "[" * 5_000],
)  # fmt: skip
async def test_what_fal_cannot_have_understood_is_not_believed(db: Database, tenant: UUID, asked: str | None) -> None:
    assert await expiries(db, tenant, asked, HOST, SIGNED) == [None, SIGNED_UNTIL]
