"""Runs migrations on the database of the settings, or of the caller, one runner at a time."""

import asyncio

from alembic import context
from sqlalchemy import Connection, text

from service.db import sqlalchemy_engine
from service.models import metadata
from service.settings import load_settings

# Any number: it only has to be the same in every process that migrates.
MIGRATION_LOCK = 7_266_338


def run(connection: Connection) -> None:
    # The lock is the session's, so that two starts at once run one after the other.
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": MIGRATION_LOCK})
    connection.execute(text("SET lock_timeout = '10s'"))
    connection.commit()
    context.configure(connection=connection, target_metadata=metadata, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


async def run_online(url: str) -> None:
    engine = sqlalchemy_engine(url)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(run_online(context.config.attributes.get("url") or load_settings().require_database_url()))
