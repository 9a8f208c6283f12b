"""Runs migrations on the database of the settings, or of the caller, one runner at a time."""

import asyncio
import time

from alembic import context
from sqlalchemy import Connection, text

from service.db import sqlalchemy_engine
from service.models import metadata
from service.settings import load_settings

# Any number: it only has to be the same in every process that migrates.
MIGRATION_LOCK = 7_266_338
AGAIN_SECONDS = 0.2


def run(connection: Connection) -> None:
    # The lock is the session's, so that two starts at once run one after the other. It is asked for again and again, as
    # an index that is built beside the work of others would wait for the transaction of whoever waits for a lock.
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": MIGRATION_LOCK}):
        connection.rollback()
        time.sleep(AGAIN_SECONDS)
    connection.execute(text("SET lock_timeout = '10s'"))
    connection.commit()
    context.configure(
        connection=connection, target_metadata=metadata, compare_type=True, transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_online(url: str) -> None:
    engine = sqlalchemy_engine(url)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(run_online(context.config.attributes.get("url") or load_settings().require_database_url()))
