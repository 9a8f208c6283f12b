"""The database before first use, with everything that can be wrong with it said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from service.local.errors import CannotStart
from service.migrate import upgrade


@contextmanager
def database_in_use() -> Iterator[None]:
    try:
        yield
    except asyncpg.UndefinedTableError:
        raise CannotStart("the database has no schema yet: run `roundtrip migrate`") from None
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        words = f"the database (ROUNDTRIP_DATABASE_URL) cannot be used: {error or type(error).__name__}"
        raise CannotStart(words) from None


def migrate(database_url: str) -> None:
    with database_in_use():
        upgrade(database_url)
