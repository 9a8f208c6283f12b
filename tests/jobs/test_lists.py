"""Lists over twenty thousand random jobs: every filter says what a look at each of them says."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import plausible
from bench.load import fill
from service.context import Context
from service.db import Database
from service.jobs import lists
from service.jobs.filters import PHASES, Bounds, JobFilter
from service.jobs.lifecycle import Status
from service.jobs.walks import LONGEST_WALK
from service.keys import create_key
from tests.servers import Addresses, delete_all_rows

JOBS, LIVE = 20_000, 1_500
UNTIL = datetime(2026, 11, 1, tzinfo=UTC)

# The last of this many pages need not be the last of the list.
MOST_PAGES = 12


class Record:
    """All jobs of one tenant as the API shows them, newest first, and what of them it shows elsewhere."""

    def __init__(
        self, db: Database, client: httpx.AsyncClient, tenant: UUID, jobs: list[dict[str, Any]], texts: dict[str, Any]
    ) -> None:
        self.db, self.client, self.tenant, self.jobs, self.texts = db, client, tenant, jobs, texts

    def ids(self, wanted: JobFilter) -> list[UUID]:
        return [UUID(job["request_id"]) for job in self.jobs if holds(job, self.texts[job["request_id"]], wanted)]


@pytest.fixture(scope="module")
async def record(addresses: Addresses, opened: Context, api: str) -> AsyncIterator[Record]:
    await delete_all_rows(opened.db.pool)
    await fill(addresses.database, JOBS, live=LIVE, seed=7, until=UNTIL, sessions=1)
    key = await create_key(addresses.database, "default", ["read"])
    tenant = await opened.db.fetchrow("SELECT id FROM tenants WHERE name = 'default'")
    assert tenant is not None
    texts = await opened.db.fetch(
        "SELECT jobs.id, inputs.body AS input, text, cost FROM jobs JOIN inputs ON inputs.job_id = id"
        " LEFT JOIN results ON results.job_id = id LEFT JOIN outcomes ON outcomes.job_id = id"
        " WHERE jobs.tenant_id = $1",
        tenant["id"],
    )
    headers = {"authorization": f"Key {key}"}
    async with httpx.AsyncClient(base_url=api, headers=headers, trust_env=False, timeout=60) as client:
        jobs = [job async for page in answers(client, limit=200) for job in page["jobs"]]
        yield Record(opened.db, client, tenant["id"], jobs, {str(row["id"]): row for row in texts})
    await delete_all_rows(opened.db.pool)


async def answers(client: httpx.AsyncClient, **query: Any) -> AsyncIterator[dict[str, Any]]:
    """Page after page, as the API gives them."""
    while True:
        response = await client.get("/v1/jobs", params=query)
        assert response.status_code == 200, response.text
        yield (page := response.json())
        if page["next_cursor"] is None:
            return
        query["cursor"] = page["next_cursor"]


def holds(job: dict[str, Any], more: Any, wanted: JobFilter) -> bool:
    created = datetime.fromisoformat(job["created_at"])
    return (
        (not wanted.statuses or job["status"] in wanted.statuses)
        and (not wanted.models or job["model"] in wanted.models)
        and (not wanted.providers or job["provider"] in wanted.providers)
        and (not wanted.error_types or (job["error"] is not None and job["error"]["type"] in wanted.error_types))
        and set(wanted.tags) <= set(job["tags"])
        and all(key in job["metadata"] and is_said(job["metadata"][key], w) for key, w in wanted.metadata.items())
        and (wanted.created_after is None or created >= wanted.created_after)
        and (wanted.created_before is None or created < wanted.created_before)
        and ((wanted.mask_label is None and wanted.mask_area is None) or any(fits(m, wanted) for m in job["masks"]))
        and all(is_within(figure(job, more, name), bounds) for name, bounds in wanted.measures.items())
        and (wanted.text is None or wanted.text.lower() in f"{more['input']}\0{more['text']}".lower())
    )


def is_said(value: Any, word: str) -> bool:
    if isinstance(value, (bool, type(None))):
        return {True: "true", False: "false", None: "null"}[value] == word
    if isinstance(value, str):
        return value == word
    try:
        return Decimal(str(value)) == Decimal(word)
    except InvalidOperation:
        return False


def fits(mask: dict[str, Any], wanted: JobFilter) -> bool:
    named = wanted.mask_label is None or (mask["label"] or "").lower() == wanted.mask_label.lower()
    return named and (wanted.mask_area is None or is_within(mask["area_fraction"], wanted.mask_area))


def is_within(value: float | None, bounds: Bounds) -> bool:
    if value is None:
        return False
    return (bounds.low is None or value >= bounds.low) and (bounds.high is None or value <= bounds.high)


def figure(job: dict[str, Any], more: Any, name: str) -> float | None:
    if name == "cost":
        return None if more["cost"] is None else float(more["cost"])
    if name.startswith("usage."):
        return job["usage"].get(name.removeprefix("usage."))
    if name.startswith("timings.model."):
        return job["timings"]["model"].get(name.removeprefix("timings.model."))
    return job["timings"][name]


MEASURES = [*PHASES, "cost", "usage.prompt_tokens", "usage.absent", "timings.model.inference"]
ERRORS = [str(name) for name, _ in plausible.ERRORS] + ["client_cancelled", "unheard"]
LABELS = [f"A {colour} {thing}" for colour in plausible.COLOURS[:4] for thing in plausible.THINGS[:6]] + [
    "a white CAR",
    "?",
]


def several(words: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(words), min_size=1, max_size=3)


@st.composite
def filters(draw: st.DrawFn, record: Record) -> JobFilter:
    """Some conditions, most of them with words and figures that some jobs have."""

    def one(jobs: list[dict[str, Any]]) -> dict[str, Any]:
        return jobs[draw(st.integers(0, len(jobs) - 1))]

    def figures(name: str) -> Bounds:
        known = [
            value
            for job in record.jobs[:: draw(st.integers(1, 7))]
            if (value := figure(job, record.texts[job["request_id"]], name)) is not None
        ]
        some = st.sampled_from(known) if known else st.just(1.0)
        return bounds(some)

    def bounds(ends: st.SearchStrategy[float]) -> Bounds:
        low, high = draw(ends), draw(ends)
        return draw(st.sampled_from([Bounds(low=low), Bounds(high=high), Bounds(min(low, high), max(low, high))]))

    def moment() -> datetime:
        return datetime.fromisoformat(one(record.jobs)["created_at"]) + timedelta(
            seconds=draw(st.sampled_from([0, 0, 1e-6, 30]))
        )

    def metadata() -> dict[str, str]:
        key = draw(st.sampled_from(["customer", "order", "rating", "absent"]))
        known = [job["metadata"][key] for job in record.jobs[::11] if key in job["metadata"]]
        value = str(draw(st.sampled_from(known))) if known else "1"
        return {key: value + draw(st.sampled_from(["", "", "", ".0"]))}

    conditions: dict[str, Callable[[], Any]] = {
        "statuses": lambda: draw(several(list(Status))),
        "models": lambda: draw(several([str(name) for name, *_ in plausible.MODELS])),
        "providers": lambda: draw(several(["fal", "local", "none"])),
        "error_types": lambda: draw(several(ERRORS)),
        "tags": lambda: draw(st.lists(st.sampled_from([*plausible.TAGS, "campaign-1"]), min_size=1, max_size=2)),
        "metadata": metadata,
        "created_after": moment,
        "created_before": moment,
        "mask_label": lambda: draw(st.sampled_from(LABELS)),
        "mask_area": lambda: bounds(st.sampled_from([0.0, 0.01, 0.3, 0.9])),
        "measures": lambda: {name: figures(name) for name in draw(several(MEASURES))},
        "text": lambda: draw(st.sampled_from(["Car", "in the rain", "a zebra", "segment all", "100", "%", "_"])),
    }
    names = draw(st.lists(st.sampled_from(sorted(conditions)), max_size=4, unique=True))
    return JobFilter(**{name: conditions[name]() for name in names})


async def walk(record: Record, wanted: JobFilter, longest: int) -> tuple[list[UUID], list[lists.Page], bool]:
    """What page after page shows, newest first; whether they came to the end, and not only to enough of them."""
    seen: list[UUID] = []
    pages: list[lists.Page] = []
    newer = wanted.cursor is not None and wanted.cursor.newer
    for _ in range(MOST_PAGES):
        page = await lists.page(record.db, record.tenant, wanted, longest)
        pages.append(page)
        ids = [row["id"] for row in page.rows]
        ahead = page.newer if newer else page.older
        # It is full, or it says how far it came, or there is no more.
        assert len(ids) == wanted.limit or page.searched_to or ahead is None
        seen = ids + seen if newer else seen + ids
        if ahead is None:
            return seen, pages, True
        wanted = replace(wanted, cursor=ahead)
    return seen, pages, False


@settings(max_examples=200)
@given(data=st.data())
async def test_filters_agree_with_a_look_at_every_job(record: Record, data: st.DataObject) -> None:
    wanted = data.draw(filters(record))
    wanted = replace(wanted, limit=data.draw(st.sampled_from([1, 3, 50, 200])))
    longest = data.draw(st.sampled_from([LONGEST_WALK, LONGEST_WALK, 400, 30]))
    expected = record.ids(wanted)
    seen, pages, to_the_end = await walk(record, wanted, longest)
    assert seen == (expected if to_the_end else expected[: len(seen)])
    assert pages[0].newer is None
    # And from the last of these pages back to the first.
    if back := pages[-1].newer:
        newer = [job_id for job_id in expected if job_id > back.place]
        seen, pages, to_the_end = await walk(record, replace(wanted, cursor=back), longest)
        assert seen == (newer if to_the_end else newer[len(newer) - len(seen) :])
        assert pages[0].older is not None


async def test_all_jobs_come_in_batches_for_who_wants_all(record: Record) -> None:
    wanted = JobFilter(statuses=[Status.FAILED, Status.QUEUED], limit=1)
    batches = [[row["id"] for row in batch] async for batch in lists.pages(record.db, record.tenant, wanted)]
    assert [job_id for batch in batches for job_id in batch] == record.ids(wanted)
    assert all(batches)


async def test_a_search_that_finds_nothing_says_how_far_it_came_and_goes_on(record: Record) -> None:
    pages = [page async for page in answers(record.client, total_seconds_min="1e6")]
    assert len(pages) > len(record.jobs) / LONGEST_WALK
    assert all(page["jobs"] == [] for page in pages)
    reached = [page["searched_to"] for page in pages]
    assert reached.pop() is None
    assert reached == sorted(reached, reverse=True)
    assert reached[0] < record.jobs[0]["created_at"]
    assert reached[-1] >= record.jobs[-1]["created_at"][: len("2026-11-20T15:13:01.854")]
