"""The least that a status read can be: one route, one row by its key, no rights, no record of what is answered."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def show(request: Request) -> JSONResponse:
    row = await request.state.pool.fetchrow("SELECT model FROM jobs WHERE id = $1", request.path_params["id"])
    return JSONResponse({"status": "IN_QUEUE", "model": row["model"]})


async def keep(_: "asyncpg.Connection[asyncpg.Record]") -> None:
    return None


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
    # Without asyncpg's reset, a statement of its own after each: the service does without it, too.
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=12, max_size=12, reset=keep) as pool:
        yield {"pool": pool}


app = Starlette(routes=[Route("/{id}", show)], lifespan=lifespan)
