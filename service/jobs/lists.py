"""Lists of jobs, page by page."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from service.db import Database, Row, Snapshot
from service.jobs import reads
from service.jobs.cursors import Cursor, moment_of
from service.jobs.filters import JobFilter
from service.jobs.lifecycle import Status
from service.jobs.places import ended_jobs, live_jobs
from service.jobs.walks import LONGEST_WALK, Place, Values, Walk

EXPORTED_AT_ONCE = 1_000

# Whose jobs: one tenant's, or those of so many together, each of which is one more index to walk.
Owners = UUID | Sequence[UUID]
MOST_OWNERS = 32


@dataclass(frozen=True)
class Page:
    """Newest first. None for a cursor: there is nothing on that side.

    `searched_to` is how far the search came, if it stopped before it had found enough; its cursor goes on from there.
    """

    rows: Sequence[Row]
    older: Cursor | None
    newer: Cursor | None
    searched_to: datetime | None


@dataclass(frozen=True)
class _Found:
    """IDs in the order of the search, and the last one that was looked at if there may be more."""

    job_ids: Sequence[UUID]
    stopped_at: UUID | None


async def page(db: Database, owners: Owners, wanted: JobFilter, longest_walk: int = LONGEST_WALK) -> Page:
    """Raises TooCostly."""
    # In one snapshot, so that a job that ends meanwhile is in one place of the two.
    async with db.snapshot() as snapshot:
        found = await _search(snapshot, owners, wanted, longest_walk)
        shown = found.job_ids[: wanted.limit]
        newer = wanted.cursor is not None and wanted.cursor.newer
        rows = await reads.several(snapshot, _each(owners), shown[::-1] if newer else shown)
    stopped_at = found.stopped_at if len(found.job_ids) <= wanted.limit else None
    ahead = _ahead(found, wanted, newer=newer)
    behind = _back(wanted.cursor, shown) if wanted.cursor else None
    older, newer_still = (behind, ahead) if newer else (ahead, behind)
    return Page(rows, older, newer_still, moment_of(stopped_at) if stopped_at else None)


def _ahead(found: _Found, wanted: JobFilter, *, newer: bool) -> Cursor | None:
    """To what was not found, or not looked at, yet."""
    if len(found.job_ids) > wanted.limit:
        return Cursor(found.job_ids[wanted.limit - 1], newer)
    return Cursor(found.stopped_at, newer) if found.stopped_at else None


def _back(cursor: Cursor, shown: Sequence[UUID]) -> Cursor:
    """To where the search came from: of an empty page that is the other side of its own place, with the place."""
    if shown:
        return Cursor(shown[0], not cursor.newer)
    beside = cursor.place.int + (1 if cursor.newer else -1)
    return Cursor(UUID(int=min(max(beside, 0), 2**128 - 1)), not cursor.newer)


async def pages(db: Database, owners: Owners, wanted: JobFilter) -> AsyncGenerator[list[Row]]:
    """All that is wanted, newest first, in batches as they are found; where little is, some are empty.

    Raises TooCostly.
    """
    cursor: Cursor | None = None
    while True:
        batch = await page(db, owners, replace(wanted, limit=EXPORTED_AT_ONCE, cursor=cursor))
        yield list(batch.rows)
        if (cursor := batch.older) is None:
            return


async def next_ids(db: Database, tenant_id: UUID, wanted: JobFilter) -> tuple[list[UUID], Cursor | None]:
    """Up to a page of IDs, and where to go on; a page may be empty before the end. Raises TooCostly."""
    async with db.snapshot() as snapshot:
        found = await _search(snapshot, tenant_id, wanted, LONGEST_WALK)
    return list(found.job_ids[: wanted.limit]), _ahead(found, wanted, newer=False)


_STATUSES = """
SELECT coalesce(live_jobs.status, outcomes.status) AS status, count(*) AS jobs
FROM unnest($1::uuid[]) AS found (job_id) LEFT JOIN live_jobs USING (job_id) LEFT JOIN outcomes USING (job_id)
GROUP BY 1
"""


async def by_status(
    db: Database, owners: Owners, wanted: JobFilter, most: int, longest_walk: int
) -> tuple[Mapping[Status, int], bool]:
    """How many of the newest `most` have each status, in one search, and whether these are all. Raises TooCostly."""
    async with db.snapshot() as snapshot:
        found = await _search(snapshot, owners, replace(wanted, limit=most, cursor=None), longest_walk)
        rows = await snapshot.fetch(_STATUSES, found.job_ids[:most])
    counts = {Status(row["status"]): int(row["jobs"]) for row in rows}
    return counts, found.stopped_at is None and len(found.job_ids) <= most


async def matching(
    snapshot: Snapshot, owners: Owners, wanted: JobFilter, limit: int, searches: int
) -> list[UUID] | None:
    """All that is wanted, newest first. None: it is more than `limit`, or takes more searches to find."""
    job_ids: list[UUID] = []
    for _ in range(searches):
        found = await _search(snapshot, owners, replace(wanted, limit=limit - len(job_ids)), LONGEST_WALK)
        job_ids.extend(found.job_ids)
        if len(job_ids) > limit:
            return None
        if found.stopped_at is None:
            return job_ids
        wanted = replace(wanted, cursor=Cursor(found.stopped_at))
    return None


def looked_through(owners: Owners, wanted: JobFilter, searches: int) -> int:
    """At so many entries of an index `matching` looks at most; at fewer where rows have to be read, or long texts."""
    places = [place(_each(owners), wanted, LONGEST_WALK, Values()) for place in (live_jobs, ended_jobs)]
    return searches * min((place.longest_walk for place in places if place), default=LONGEST_WALK)


async def _search(snapshot: Snapshot, owners: Owners, wanted: JobFilter, longest_walk: int) -> _Found:
    """The nearest jobs, up to one more than the page holds."""
    values = Values()
    newer = wanted.cursor is not None and wanted.cursor.newer
    places = [place(_each(owners), wanted, longest_walk, values) for place in (live_jobs, ended_jobs)]
    # Of a label that it knows to be frequent PostgreSQL would fetch all masks, to sort them and take the first.
    labelled = wanted.mask_label is not None
    if labelled:
        await snapshot.plan_without_values(True)
    founds = [await _walk(snapshot, place, wanted.limit + 1, values) for place in places if place]
    if labelled:
        await snapshot.plan_without_values(False)
    stops = [found.stopped_at for found in founds if found.stopped_at]
    stopped_at = (min(stops) if newer else max(stops)) if stops else None
    job_ids = sorted((job_id for found in founds for job_id in found.job_ids), reverse=not newer)
    if stopped_at:
        # Beyond it only one of the places was looked at.
        job_ids = [each for each in job_ids if (each <= stopped_at if newer else each >= stopped_at)]
    return _Found(job_ids[: wanted.limit + 1], stopped_at)


def _each(owners: Owners) -> Sequence[UUID]:
    return [owners] if isinstance(owners, UUID) else owners


async def _walk(snapshot: Snapshot, place: Place, enough: int, values: Values) -> _Found:
    walks = await _shortest_first(snapshot, place, values)
    sql, given = values.statement(place.search(walks, enough))
    job_ids = [row["job_id"] for row in await snapshot.fetch(sql, *given)]
    if len(job_ids) >= enough:
        return _Found(job_ids, None)
    sql, given = values.statement(place.end_of(walks[0]))
    end = await snapshot.fetchrow(sql, *given)
    return _Found(job_ids, end["job_id"] if end else None)


async def _shortest_first(snapshot: Snapshot, place: Place, values: Values) -> Sequence[Walk]:
    """By how many entries there are on the way."""
    if len(place.walks) == 1:
        return place.walks
    sql, given = values.statement(place.probes())
    row = await snapshot.fetchrow(sql, *given)
    assert row is not None
    newer = place.span.newer
    nowhere = UUID(int=2**128 - 1 if newer else 0)
    reaches = [reach or nowhere for reach in row]
    order = sorted(range(len(reaches)), key=reaches.__getitem__, reverse=newer)
    return [place.walks[index] for index in order]
