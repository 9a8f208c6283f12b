"""The least that takes a webhook: verify it, write it as one row, answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.peers import signed
from bench.peers.surroundings import DATABASE_URL

# Anew at each start: the next turn posts under the same names.
TABLE = (
    "DROP TABLE IF EXISTS heard;"
    "CREATE TABLE heard (id text PRIMARY KEY, at timestamptz DEFAULT now(), body bytea NOT NULL)"
)


async def hear(request: Request) -> Response:
    body = await request.body()
    signed.check(request.headers, body)
    await request.state.pool.execute("INSERT INTO heard (id, body) VALUES ($1, $2)", request.path_params["id"], body)
    return Response()


async def keep(_: "asyncpg.Connection[asyncpg.Record]") -> None:
    return None


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
    # Without asyncpg's reset, a statement of its own after each: the service does without it, too.
    async with asyncpg.create_pool(DATABASE_URL, min_size=2, max_size=12, reset=keep) as pool:
        await pool.execute(TABLE)
        yield {"pool": pool}


app = Starlette(routes=[Route("/webhooks/{id}", hear, methods=["POST"])], lifespan=lifespan)
