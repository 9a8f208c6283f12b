"""The same job on DBOS Transact: a durable workflow a job, which waits for a message that the webhook sends.

https://docs.dbos.dev/python/programming-guide and …/tutorials/workflow-communication
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
from dbos import DBOS, DBOSConfig, SetWorkflowID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bench.peers import signed
from bench.peers.surroundings import DATABASE_URL, submission

LONGEST_SECONDS = 3_600

config: DBOSConfig = {
    "name": "bench",
    "system_database_url": DATABASE_URL,
    "log_level": "ERROR",
    "run_admin_server": False,
}
DBOS(config=config)
opened: dict[str, aiohttp.ClientSession] = {}


@DBOS.step()
async def submit(request_id: str, model: str, asked: dict[str, Any]) -> str:
    async with opened["http"].post(submission(model, request_id), json=asked) as answer:
        return str((await answer.json())["request_id"])


@DBOS.workflow()
async def job(request_id: str, model: str, asked: dict[str, Any]) -> Any:
    await submit(request_id, model, asked)
    return await DBOS.recv_async("ended", timeout_seconds=LONGEST_SECONDS)


async def register(request: Request) -> Response:
    asked, request_id = json.loads(await request.body()), str(uuid4())
    with SetWorkflowID(request_id):
        await DBOS.start_workflow_async(job, request_id, asked["model"], asked["input"])
    return JSONResponse({"request_id": request_id}, 202)


async def hear(request: Request) -> Response:
    body = await request.body()
    signed.check(request.headers, body)
    name = request.headers["x-fal-webhook-request-id"]
    await DBOS.send_async(request.path_params["id"], json.loads(body), "ended", idempotency_key=name)
    return Response()


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with aiohttp.ClientSession() as opened["http"]:
        DBOS.launch()
        yield
        DBOS.destroy()


routes = [Route("/jobs", register, methods=["POST"]), Route("/webhooks/{id}", hear, methods=["POST"])]
app = Starlette(routes=routes, lifespan=lifespan)
