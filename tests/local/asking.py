"""One question to a PostgreSQL by its address."""

import asyncio
from typing import Any

import asyncpg


def ask(url: str, sql: str) -> Any:
    async def answer() -> Any:
        connection = await asyncpg.connect(url, timeout=5)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(answer())
