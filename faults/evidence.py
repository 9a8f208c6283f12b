"""What the checks judge: what was asked, seen and done from outside, and the rows, files and journal at the end."""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from faults.history import Json, Lines
from faults.load import Client
from faults.orders import Order

TABLES = {
    "jobs": "SELECT id, tags, created_at FROM jobs",
    "live_jobs": "SELECT job_id, status, duty, attempt, due_at FROM live_jobs",
    "outcomes": "SELECT job_id, status, attempt, source, http_status, body, error_type, completed_at"
    " FROM outcomes JOIN results USING (job_id)",
    "attempts": "SELECT job_id, number, state, provider_request_id, claimed_at, answered_at, resubmitted_at, error"
    " FROM attempts ORDER BY job_id, number",
    "reports": "SELECT job_id, attempt, source, verdict, body FROM reports ORDER BY id",
    "artifacts": "SELECT job_id, kind, index, source_url, sha256, file_size, copy_error FROM artifacts",
    "blobs": "SELECT sha256, size FROM blobs",
    "copies": "SELECT job_id, kind, index, tries FROM copies",
    # In one statement, because counting goes on: of each status how many jobs ended, wait to be counted, and are, for
    # their tenants and for all tenants together.
    "figures": "SELECT outcomes.status, count(*) AS ended, count(uncounted.job_id) AS waiting,"
    " counted.jobs AS counted, counted.together"
    " FROM outcomes LEFT JOIN uncounted ON uncounted.job_id = outcomes.job_id AND part = 'end'"
    " CROSS JOIN LATERAL (SELECT coalesce(sum(n) FILTER (WHERE tenant_id <> nil), 0)::int8 AS jobs,"
    " coalesce(sum(n) FILTER (WHERE tenant_id = nil), 0)::int8 AS together"
    " FROM tallies JOIN series ON series.id = series_id,"
    " (VALUES ('00000000-0000-0000-0000-000000000000'::uuid)) AS of_all (nil)"
    " WHERE grain = 0 AND measure = 'total_seconds' AND model <> '' AND series.status = outcomes.status) AS counted"
    " GROUP BY 1, 4, 5",
    "events": "SELECT job_id, event, status, attempt FROM job_events ORDER BY id",
}
READERS = 6


@dataclass(frozen=True)
class Stored:
    size: int
    sha256: str


@dataclass
class Evidence:
    """`history` is by kind of record; IDs are texts everywhere; times are of the clock, in seconds."""

    orders: Mapping[int, Order]
    history: Mapping[str, Sequence[Json]]
    rows: Mapping[str, Sequence[Json]]
    journal: Sequence[Json] = ()
    files: Mapping[str, Stored] = field(default_factory=dict)
    # What the API served of an artifact: its SHA-256, by job, kind and index.
    served: Mapping[tuple[str, str, int], str] = field(default_factory=dict)
    parts_left: Sequence[str] = ()
    healed: float = 0.0
    bound: float = 60.0

    def told(self) -> dict[int, set[str]]:
        """Every job ID that a client was given for a number."""
        ids: dict[int, set[str]] = {}
        for each in self.history.get("register", ()):
            if each["job"] is not None:
                ids.setdefault(each["number"], set()).add(each["job"])
        return ids

    def by_job(self, table: str) -> dict[str, list[Json]]:
        return by_job(self.rows.get(table, ()), "job_id")

    def order_by_job(self) -> dict[str, Order]:
        return {row["id"]: order for row in self.rows["jobs"] if (order := self.order_of(row)) is not None}

    def order_of(self, job: Json) -> Order | None:
        numbers = [int(tag[1:]) for tag in job["tags"] if tag[:1] == "n" and tag[1:].isdecimal()]
        return self.orders.get(numbers[0]) if numbers else None

    def requests(self) -> dict[str, Json]:
        """What the provider accepted for the service, by request ID, with job and attempt of its webhook address."""
        found = {}
        for line in self.journal:
            if line["what"] == "accepted" and "/webhooks/fal/" in (line["url"] or ""):
                job_id, attempt = line["url"].split("/webhooks/fal/")[1].split("/")[:2]
                found[line["request_id"]] = {**line, "job": job_id, "attempt": int(attempt)}
        return found


def by_job(records: Iterable[Json], name: str = "job") -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for record in records:
        found.setdefault(record[name], []).append(record)
    return found


async def read_rows(database_url: str) -> dict[str, list[Json]]:
    connection = await asyncpg.connect(database_url, timeout=10)
    try:
        return {name: [_plain(row) for row in await connection.fetch(sql)] for name, sql in TABLES.items()}
    finally:
        await connection.close()


def _plain(row: "asyncpg.Record") -> Json:
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    if hasattr(value, "timestamp"):
        return value.timestamp()
    if isinstance(value, list):
        return [_value(each) for each in value]
    return str(value) if hasattr(value, "hex") and hasattr(value, "bytes") else value


def read_journal(path: Path) -> list[Json]:
    return Lines(path).new()


def read_store(folder: Path) -> dict[str, Stored]:
    """Every blob by its name."""
    return {
        file.name: Stored(file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in folder.glob("??/*")
        if file.is_file()
    }


def parts_in(folder: Path) -> list[str]:
    """What was begun in the store and is neither whole nor gone."""
    return sorted(str(file.relative_to(folder)) for file in (folder / "spool").glob("*"))


async def read_served(client: Client, artifacts: Sequence[Json]) -> dict[tuple[str, str, int], str]:
    """What the API gives for each stored file, by way of the job that names it."""
    served = {}
    waiting = [row for row in artifacts if row["sha256"]]

    async def reader() -> None:
        while waiting:
            row = waiting.pop()
            answer = await client.call("GET", f"/v1/jobs/{row['job_id']}/{row['kind']}s/{row['index']}")
            whole = answer is not None and answer[0] == 200
            said = hashlib.sha256(answer[1]).hexdigest() if answer and whole else f"HTTP {answer and answer[0]}"
            served[row["job_id"], row["kind"], row["index"]] = said

    await asyncio.gather(*(reader() for _ in range(READERS)))
    return served


COUNTS = {
    "live_jobs": "SELECT count(*) FROM live_jobs",
    "copies": "SELECT count(*) FROM copies",
    "owed_soon": "SELECT count(*) FROM copies WHERE due_at < now() + interval '15 seconds'",
}


async def count(database_url: str, what: str) -> int:
    connection = await asyncpg.connect(database_url, timeout=5)
    try:
        return int(await connection.fetchval(COUNTS[what]))
    finally:
        await connection.close()
