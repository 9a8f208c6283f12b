"""The program's commands for callbacks: what was told, tell it once more, and a new key."""

from datetime import datetime
from pathlib import Path
from uuid import UUID

import click

from service.callbacks.lifecycle import CallbackState
from service.local.console import MOMENTS, data_option, end, show_table
from service.moments import in_utc
from service.operating import with_database

STATES = click.Choice([state.value for state in CallbackState])


@click.group()
def callbacks() -> None:
    """What clients were told of the end of their jobs."""


@callbacks.command("list")
@click.option("--state", type=STATES, help="In this state only.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@data_option
def list_callbacks(state: str | None, limit: int, data: Path | None) -> None:
    """The newest, with what came of the last try."""
    from service.callbacks.reads import newest

    rows = with_database(data, lambda db: newest(db, CallbackState(state) if state else None, limit))
    heading = ("JOB", "ENDED", "TENANT", "STATE", "TRIES", "NEXT TRY", "RECEIVER", "LAST TRY")
    show_table(
        [
            heading,
            *(
                (
                    str(row["job_id"]),
                    f"{row['created_at']:%F %T}Z",
                    row["tenant"],
                    row["state"],
                    str(row["tries"]),
                    f"{row['due_at']:%F %T}Z" if row["state"] == CallbackState.PENDING else "",
                    row["receiver"],
                    row["error"] or (f"HTTP {row['http_status']}" if row["http_status"] else ""),
                )
                for row in rows
            ),
        ]
    )


@callbacks.command("redeliver")
@click.argument("request_id", metavar="[JOB]", type=click.UUID, required=False)
@click.option("--since", type=MOMENTS, help="All jobs that ended since then, in UTC.")
@click.option("--until", type=MOMENTS, help="And before then.")
@click.option("--state", type=STATES, help="Of --since: in this state only.")
@data_option
def redeliver(
    request_id: UUID | None,
    since: datetime | None,
    until: datetime | None,
    state: str | None,
    data: Path | None,
) -> None:
    """Tell it once more, with the same ID and the same bytes, from the next sweep on."""
    from service.callbacks import again, reads

    if (request_id is None) == (since is None):
        end("name a job, or --since a time", 2)
    if request_id is not None:
        job_id = request_id
        if with_database(data, lambda db: reads.callback_of(db, job_id)) is None:
            end(f"there is no callback of {job_id}", 1)
        with_database(data, lambda db: again.redeliver(db, job_id))
        click.echo(f"The callback of {job_id} is told once more.")
        return
    assert since is not None
    try:
        first, last = in_utc(since), in_utc(until) if until else None
    except OverflowError:
        end("that time is before or after all others", 2)
    wanted = CallbackState(state) if state else None
    number = with_database(data, lambda db: again.redeliver_many(db, None, first, last, wanted))
    click.echo(f"{number} callbacks are told once more.")


@callbacks.command("rotate-key")
@click.option("--at-once", is_flag=True, help="The old key was stolen: nothing is signed or verified with it again.")
@data_option
def rotate_key(at_once: bool, data: Path | None) -> None:
    """Make a new signing key. It signs when every receiver had a day to hear of it."""
    from service.callbacks.keys import rotate

    if with_database(data, lambda db: rotate(db, at_once=at_once)):
        click.echo("Within two seconds the new key is published everywhere, and signs.")
    else:
        click.echo("Within two seconds the new key is published everywhere; it signs from tomorrow on.")
