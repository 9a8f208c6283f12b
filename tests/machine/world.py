"""Where the machine runs: real PostgreSQL, a provider on a socket that is told what to say, and a clock of rows."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import httpx
from sqlalchemy import DateTime
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from service.app import on_service_error
from service.condition.refusals import Refusals
from service.context import Context, open_context
from service.db import Database, Row
from service.errors import ServiceError
from service.models import attempts, jobs, live_jobs
from service.queue import Nudger
from service.settings import Settings
from service.webhooks.receive import receive_fal
from tests.machine.account import Said
from tests.provider import Call, Provider, Reply, page, reply, running_provider, says
from tests.servers import Addresses, delete_all_rows
from tests.webhooks.posting import Poster

Result = TypeVar("Result")
Work = Callable[[Context], Coroutine[Any, Any, object]]

CAT = b'{"output": "A cat."}'
IMAGES = b'{"images": [{"url": "https://example.com/a.png", "width": 7}], "seed": 12345678901234567890}'
BAD = b'{"detail": [{"loc": ["body", "prompt"], "msg": "Bad", "type": "bad"}]}'
STOPPED = b'{"detail": "Request was cancelled"}'

# What the provider may say of an end: the job's status after it, the HTTP status, the body.
ENDS: dict[str, tuple[str, int, bytes]] = {
    "cat": ("completed", 200, CAT),
    "images": ("completed", 200, IMAGES),
    "bad": ("failed", 422, BAD),
    "stopped": ("cancelled", 499, STOPPED),
}
SUBMIT_ANSWERS = ("accepted", "refused", "lost", "taken and lost", "rejected", "blocked")
SIGHTS = ("waiting", "running", "running", "missing", "silent", *ENDS)
CANCEL_ANSWERS: dict[str, Reply | None] = {
    "removed": reply({"status": "OK"}),
    "asked": reply({"status": "CANCELLATION_REQUESTED"}, 202),
    "over": reply({"status": "ALREADY_COMPLETED"}, 400),
    "missing": reply({"detail": "Not found"}, 404),
    "silent": None,
}
# What it was asked, rather than what it said.
STOP = "stop"
# Facts; all other times of these tables say when something is to be done, and pass.
FACTS = {"started_at", "cancel_requested_at", "answered_at", "ended_at", "resubmitted_at"}


_WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def name_of(job_id: UUID | str, attempt: int | str) -> str:
    """What the provider calls an attempt that it has."""
    return f"r-{job_id}-{attempt}"


@dataclass(frozen=True)
class Script:
    """What the provider says to whatever it is asked next; `submit` in turn, one job after the other."""

    submit: Sequence[str] = ("accepted",)
    sight: str = "waiting"
    cancel: str = "asked"


class World:
    """A context on a loop of its own, for all examples."""

    def __init__(self, addresses: Addresses) -> None:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.nudger = Nudger(publish=lambda _: None)
        self.run(self._open(addresses))
        self.failures: list[str] = []
        self.steps = 0
        self.tell(Script())

    async def _open(self, addresses: Addresses) -> None:
        self.provider: Provider = await self.stack.enter_async_context(running_provider())
        settings = Settings(
            database_url=addresses.database,
            broker_url=addresses.broker,
            fal_queue_url=self.provider.url,
            fal_jwks_url=f"{self.provider.url}/.well-known/jwks.json",
            fal_key="our-id:our-secret",
            submit_timeout_seconds=10,
        )
        opened = await self.stack.enter_async_context(open_context(settings))
        self.context: Context = replace(opened, nudger=self.nudger)
        self.db = self.context.db
        self.sealer = await self.context.sealer()

    def run(self, work: Awaitable[Result]) -> Result:
        """What goes wrong in a pump is logged there and nowhere else, so it is raised here."""

        async def wait() -> Result:
            return await work

        with capture_logs() as logs:
            result = self.runner.run(wait())
        failures = [entry for entry in logs if entry["event"] in {"work failed", "taking work failed"}]
        assert not failures, f"work failed: {failures}"
        return result

    def close(self) -> None:
        self.run(self.stack.aclose())
        self.nudger.close()
        self.runner.close()

    def forget(self) -> None:
        self.run(delete_all_rows(self.db.pool))
        self.tell(Script())

    def tell(self, script: Script) -> None:
        """Let the provider say this from now on."""
        self.provider.reset()
        turns: dict[str, str] = {}

        async def submit(call: Call) -> Reply | None:
            job_id, attempt = call.webhook_url.split("/")[5:7]
            word = turns.setdefault(job_id, script.submit[len(turns) % len(script.submit)])
            match word:
                case "accepted":
                    return reply(self.provider.acceptance(call, name_of(job_id, attempt)))
                case "refused":
                    return page(503)
                case "rejected":
                    return Reply(422, BAD)
                case "blocked":
                    return reply({"detail": "Who are you?"}, 401)
            return None

        self.script, self.turns = script, turns
        self.provider.submit = submit
        self.provider.cancel = says(CANCEL_ANSWERS[script.cancel])
        match script.sight:
            case "waiting":
                self.provider.status = says(reply({"status": "IN_QUEUE", "queue_position": 1}, 202))
            case "running":
                self.provider.status = says(reply({"status": "IN_PROGRESS"}, 202))
            case "missing":
                self.provider.status = says(reply({"detail": "Request not found"}, 404))
            case "silent":
                self.provider.status = says(page(502))
            case end:
                _, status, body = ENDS[end]
                self.provider.ended(Reply(status, body), None if status == 200 else f"status code: {status}")

    def heard(self) -> Iterator[tuple[UUID, int, str]]:
        """What the provider said since it was told to: of which attempt, and in which of our words."""
        for call in self.provider.calls:
            if call.method == "POST":
                job_id, attempt = call.webhook_url.split("/")[5:7]
                yield UUID(job_id), int(attempt), self.turns[job_id]
            elif "/requests/r-" in call.path and "foreign" not in call.path:
                job_id, _, attempt = call.path.split("/requests/r-")[1].split("/")[0].rpartition("-")
                yield UUID(job_id), int(attempt), STOP if call.method == "PUT" else self.script.sight
        self.provider.calls.clear()

    def door(self, context: Context) -> Poster:
        """The door for webhooks, with a context behind it."""
        app = Starlette(exception_handlers={ServiceError: on_service_error})
        app.add_route("/webhooks/fal/{job_id}/{attempt}/{seal}/{model:path}", receive_fal, methods=["POST"])

        async def enter(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": {"context": context, "refusals": Refusals()}}, receive, send)

        return Poster(httpx.AsyncClient(transport=httpx.ASGITransport(enter)), self.provider, self.sealer)

    async def post(self, context: Context, job_id: UUID, attempt: int, model: str, request_id: str, end: str) -> str:
        """A webhook as fal posts it. Returns the verdict."""
        url = f"http://roundtrip{self.sealer.path(job_id, attempt, model)}"
        fields: dict[str, Any] = {}
        if end == "incomplete":
            body, fields = b"null", {"payload_error": "It is too large."}
        else:
            _, status, body = ENDS[end]
            fields = {} if status == 200 else {"status": "ERROR", "error": f"Unexpected status code: {status}"}
        answer = await self.door(context).post(url, request_id, body, **fields)
        return str(answer["verdict"])

    async def pass_time(self, seconds: float, job_id: UUID | None = None) -> None:
        """The clock that counts is the database's, so the rows of what has not ended are moved instead."""
        await self.db.execute(
            "UPDATE provider_pauses SET paused_at = paused_at - make_interval(secs => $1),"
            " probe_at = probe_at - make_interval(secs => $1)",
            float(seconds),
        )
        for table, column in ((jobs, "id"), (live_jobs, "job_id"), (attempts, "job_id")):
            moments = [
                each.name for each in table.columns if isinstance(each.type, DateTime) and each.name not in FACTS
            ]
            moved = ", ".join(f"{name} = {name} - make_interval(secs => $1)" for name in moments)
            only = f"({column} IN (SELECT job_id FROM live_jobs) OR $3) AND ($2::uuid IS NULL OR {column} = $2)"
            await self.db.execute(
                f"UPDATE {table.name} SET {moved} WHERE {only}", float(seconds), job_id, table is attempts
            )

    async def behind_a_lock(self, job_id: UUID, works: Sequence[Work]) -> None:
        """All begin while the job's row is locked, so before any of them can change it, and go on in their order."""
        async with self.db.pool.acquire() as gate, gate.transaction():
            await gate.execute("SELECT FROM live_jobs WHERE job_id = $1 FOR UPDATE", job_id)
            tasks = await self._begin([work(self.context) for work in works])
        await asyncio.gather(*tasks)

    async def behind_a_commit(self, works: Sequence[Work]) -> None:
        """The others begin when the first has carried out its first statement and its commit takes its time."""
        slow = SlowCommit(self.db.pool)
        first = asyncio.create_task(works[0](replace(self.context, db=slow)))
        await asyncio.wait({first, asyncio.create_task(slow.carried_out.wait())}, return_when=asyncio.FIRST_COMPLETED)
        tasks = await self._begin([work(self.context) for work in works[1:]])
        slow.may_commit.set()
        await asyncio.gather(first, *tasks)

    async def _begin(self, works: Sequence[Coroutine[Any, Any, object]]) -> list[asyncio.Task[object]]:
        """One after the other; returns when each waits for a lock or is done."""
        tasks: list[asyncio.Task[object]] = []
        async with self.db.pool.acquire() as eye, asyncio.timeout(20):
            for work in works:
                tasks.append(asyncio.create_task(work))
                waiting = -1
                while waiting < sum(not task.done() for task in tasks):
                    waiting = await eye.fetchval(_WAITING)
        return tasks


class SlowCommit(Database):
    """Holds its first statement's commit back: what a statement changed is locked until its commit is on disk."""

    def __init__(self, pool: "asyncpg.Pool[Row]") -> None:
        super().__init__(pool)
        self.carried_out, self.may_commit = asyncio.Event(), asyncio.Event()

    async def fetch(self, sql: str, *values: Any) -> list[Row]:
        result: list[Row] = await self._carry_out("fetch", sql, *values)
        return result

    async def fetchrow(self, sql: str, *values: Any) -> Row | None:
        result: Row | None = await self._carry_out("fetchrow", sql, *values)
        return result

    async def execute(self, sql: str, *values: Any) -> str:
        result: str = await self._carry_out("execute", sql, *values)
        return result

    async def _carry_out(self, how: str, sql: str, *values: Any) -> Any:
        async with self.pool.acquire() as connection, connection.transaction():
            result = await getattr(connection, how)(sql, *values)
            self.carried_out.set()
            await self.may_commit.wait()
            return result


def said_of(end: str, attempt: int) -> Said:
    status, http_status, body = ENDS[end]
    return attempt, status, http_status, body
