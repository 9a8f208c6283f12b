"""A job as it stands in the database, read whole after each step."""

from collections import defaultdict
from dataclasses import dataclass
from uuid import UUID

from service.db import Database, Row

# What stands beside an outcome and is as final as it, until a copy is made of a file.
_READ = {
    "jobs": "SELECT jobs.*, id AS job_id, body AS input FROM jobs LEFT JOIN inputs ON job_id = id ORDER BY id",
    "live": "SELECT *, extract(epoch FROM due_at - now())::float8 AS due_in FROM live_jobs",
    "outcomes": "SELECT * FROM outcomes JOIN results USING (job_id)",
    "attempts": "SELECT * FROM attempts ORDER BY job_id, number",
    "events": "SELECT * FROM job_events ORDER BY id",
    "reports": "SELECT * FROM reports ORDER BY id",
    "files": "SELECT * FROM artifacts ORDER BY job_id, kind, index",
}


@dataclass(frozen=True)
class Seen:
    """One look at one job: `live` or `outcome` is there, if the service keeps its word."""

    job: Row
    live: Row | None
    outcome: Row | None
    attempts: tuple[Row, ...]
    events: tuple[Row, ...]
    reports: tuple[Row, ...]
    files: tuple[Row, ...]

    @property
    def status(self) -> str:
        row = self.live or self.outcome
        return str(row["status"]) if row else "gone"

    @property
    def now(self) -> Row | None:
        """The attempt that is under way, or was the last."""
        return self.attempts[-1] if self.attempts else None

    def __str__(self) -> str:
        live = f"duty={self.live['duty']} attempt={self.live['attempt']}" if self.live else "ended"
        states = " ".join(f"{row['number']}:{row['state']}" for row in self.attempts)
        events = " ".join(f"{row['event']}({row['attempt']})" for row in self.events)
        return f"job {self.job['id']}: {self.status}, {live}; attempts [{states}]; events [{events}]"


async def see_all(db: Database) -> dict[UUID, Seen]:
    found: dict[str, dict[UUID, list[Row]]] = {}
    for name, statement in _READ.items():
        found[name] = defaultdict(list)
        for row in await db.fetch(statement):
            found[name][row["job_id"]].append(row)

    def only(name: str, job_id: UUID) -> Row | None:
        rows = found[name].get(job_id, [])
        return rows[0] if rows else None

    def every(name: str, job_id: UUID) -> tuple[Row, ...]:
        return tuple(found[name].get(job_id, ()))

    return {
        job_id: Seen(
            row,
            only("live", job_id),
            only("outcomes", job_id),
            every("attempts", job_id),
            every("events", job_id),
            every("reports", job_id),
            every("files", job_id),
        )
        for job_id, [row] in found["jobs"].items()
    }
