"""What the program's commands share: settings, the database they work on, tables, and a last line."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from service.settings import Settings

MOMENTS = click.DateTime(
    [
        "%Y-%m-%d",
        "%Y-%m-%dT%H:%M",
        *(f"%Y-%m-%dT%H:%M:%S{rest}" for rest in ("", "%z", ".%f", ".%f%z")),
    ]
)

data_option = click.option("--data", type=click.Path(path_type=Path), help="Data directory.  [default: .roundtrip]")


def end(line: str, status: int) -> NoReturn:
    """Say one line and end."""
    click.echo(f"roundtrip: {line}", err=True)
    sys.exit(status)


def settings_of(data: Path | None = None) -> "Settings":
    from service.settings import load_settings

    return load_settings() if data is None else load_settings(data=data)


@contextmanager
def database_of(data: Path | None) -> Iterator[str]:
    """The address of the configured database, or of the data directory's own, which follows the program."""
    from service.local.schema import database_in_use, migrate
    from service.local.servers import embedded_database

    settings = settings_of(data)
    if settings.database_url is not None:
        with database_in_use():
            yield settings.database_url
        return
    if not settings.data.is_dir():
        end(f"there is no data directory {settings.data}; name one with --data, or set ROUNDTRIP_DATABASE_URL", 2)
    with embedded_database(settings.data) as url, database_in_use():
        migrate(url)
        yield url


def printable(text: str) -> str:
    """Text of strangers on one line, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def show_table(table: Sequence[Sequence[str]]) -> None:
    """The first row is the heading. When nothing was found, that is said on stderr, and nothing else is.

    Words of strangers may stand in it.
    """
    if len(table) == 1:
        click.echo("roundtrip: there are none", err=True)
        return
    rows = [[printable(word) for word in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
