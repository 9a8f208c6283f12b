"""The program's commands for files: copy those once more that were given up."""

from datetime import datetime
from pathlib import Path
from uuid import UUID

import click

from service.local.console import MOMENTS, data_option, end
from service.moments import in_utc
from service.operating import with_database


@click.group()
def files() -> None:
    """The stored copies of what outputs name."""


@files.command("copy-again")
@click.argument("request_id", metavar="[JOB]", type=click.UUID, required=False)
@click.option("--since", type=MOMENTS, help="Of all jobs that ended since then, in UTC.")
@click.option("--until", type=MOMENTS, help="And before then.")
@data_option
def copy_again(request_id: UUID | None, since: datetime | None, until: datetime | None, data: Path | None) -> None:
    """Copy files that were given up and whose links may still live, from the next sweep on."""
    from service.artifacts import records

    if (request_id is None) == (since is None):
        end("name a job, or --since a time", 2)
    if request_id is not None:
        job_id = request_id
        number = with_database(data, lambda db: records.owe_again(db, job_id))
    else:
        assert since is not None
        try:
            first, last = in_utc(since), in_utc(until) if until else None
        except OverflowError:
            end("that time is before or after all others", 2)
        number = with_database(data, lambda db: records.owe_all_again(db, first, last))
    click.echo("1 file is copied once more." if number == 1 else f"{number} files are copied once more.")
