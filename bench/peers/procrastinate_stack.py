"""The same job on Procrastinate: tasks are rows of the same PostgreSQL, and workers hear of them by NOTIFY.

Its worker: `procrastinate --app=bench.peers.procrastinate_stack.queue worker`. https://procrastinate.readthedocs.io/en/stable/quickstart.html
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import aiohttp
import procrastinate
from psycopg.types.json import Jsonb
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bench.peers import signed
from bench.peers.surroundings import DATABASE_URL, TABLE, submission

REGISTER = "INSERT INTO requests (id, model, input, state) VALUES (%(id)s, %(model)s, %(input)s, 'queued')"
FIND = "SELECT model, input FROM requests WHERE id = %(id)s"
SUBMITTED = """
UPDATE requests SET state = 'submitted', provider_request_id = %(name)s, submitted_at = now()
WHERE id = %(id)s AND state = 'queued'
"""
COMPLETED = """
UPDATE requests SET state = 'completed', output = %(output)s, completed_at = now()
WHERE id = %(id)s AND state <> 'completed'
"""

connector = procrastinate.PsycopgConnector(conninfo=DATABASE_URL, min_size=8, max_size=16)
queue = procrastinate.App(connector=connector)
opened: dict[str, aiohttp.ClientSession] = {}


@queue.task(name="submit")
async def submit(request_id: str) -> None:
    row = await connector.execute_query_one_async(FIND, id=request_id)
    # One session for all tasks, made on the worker's loop.
    http = opened.get("http") or opened.setdefault("http", aiohttp.ClientSession())
    async with http.post(submission(row["model"], request_id), json=row["input"]) as answer:
        accepted = await answer.json()
    await connector.execute_query_async(SUBMITTED, id=request_id, name=accepted["request_id"])


async def register(request: Request) -> Response:
    asked, request_id = json.loads(await request.body()), str(uuid4())
    await connector.execute_query_async(REGISTER, id=request_id, model=asked["model"], input=Jsonb(asked["input"]))
    await submit.defer_async(request_id=request_id)
    return JSONResponse({"request_id": request_id}, 202)


async def hear(request: Request) -> Response:
    body = await request.body()
    signed.check(request.headers, body)
    await connector.execute_query_async(COMPLETED, id=request.path_params["id"], output=Jsonb(json.loads(body)))
    return Response()


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with queue.open_async():
        await connector.execute_query_async(TABLE)
        yield


routes = [Route("/jobs", register, methods=["POST"]), Route("/webhooks/{id}", hear, methods=["POST"])]
app = Starlette(routes=routes, lifespan=lifespan)
