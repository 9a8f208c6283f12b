"""Brings the schema to the head of the migrations. Alembic is loaded where it works, not by who asks for the head."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent.parent / "migrations"


def configuration(database_url: str | None = None) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = database_url
    return config


def upgrade(database_url: str, revision: str = "head") -> None:
    """Safe to run from several processes at once: an advisory lock lets one in at a time."""
    from alembic import command

    command.upgrade(configuration(database_url), revision)


def downgrade(database_url: str, revision: str) -> None:
    from alembic import command

    command.downgrade(configuration(database_url), revision)


@cache
def head() -> str:
    """The newest revision: the highest number that a file's name begins with."""
    return max(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))
