"""The floor: Starlette, asyncpg and aiohttp with nothing between them, each job a task of the process that took it.

A crash loses every job that was not submitted yet. The pool is asyncpg's as it comes, which resets a connection after
each statement.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bench.peers import signed
from bench.peers.surroundings import DATABASE_URL, TABLE, submission

REGISTER = "INSERT INTO requests (id, model, input, state) VALUES ($1, $2, $3, 'queued')"
SUBMITTED = """
UPDATE requests SET state = 'submitted', provider_request_id = $2, submitted_at = now()
WHERE id = $1 AND state = 'queued'
"""
COMPLETED = """
UPDATE requests SET state = 'completed', output = $2, completed_at = now() WHERE id = $1 AND state <> 'completed'
"""

under_way: set[asyncio.Task[None]] = set()


async def submit(state: Any, request_id: UUID, model: str, text: str) -> None:
    headers = {"content-type": "application/json"}
    async with state.http.post(submission(model, request_id), data=text, headers=headers) as answer:
        accepted = await answer.json()
    await state.pool.execute(SUBMITTED, request_id, accepted["request_id"])


async def register(request: Request) -> Response:
    asked, request_id = json.loads(await request.body()), uuid4()
    text = json.dumps(asked["input"])
    await request.state.pool.execute(REGISTER, request_id, asked["model"], text)
    task = asyncio.create_task(submit(request.state, request_id, asked["model"], text))
    under_way.add(task)
    task.add_done_callback(under_way.discard)
    return JSONResponse({"request_id": str(request_id)}, 202)


async def hear(request: Request) -> Response:
    body = await request.body()
    signed.check(request.headers, body)
    await request.state.pool.execute(COMPLETED, UUID(request.path_params["id"]), body.decode())
    return Response()


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
    async with asyncpg.create_pool(DATABASE_URL, min_size=8, max_size=16) as pool, aiohttp.ClientSession() as http:
        await pool.execute(TABLE)
        yield {"pool": pool, "http": http}


routes = [Route("/jobs", register, methods=["POST"]), Route("/webhooks/{id}", hear, methods=["POST"])]
app = Starlette(routes=routes, lifespan=lifespan)
