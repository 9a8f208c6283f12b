"""The program's commands for many jobs at once: retry, cancel, and what became of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import click

from service.local.console import data_option, end, printable, show_table
from service.operating import with_database

if TYPE_CHECKING:
    from service.bulk.asking import Preview
    from service.db import Database

filters = click.option(
    "--filter",
    "conditions",
    multiple=True,
    required=True,
    metavar="NAME=VALUE",
    help="As GET /v1/jobs takes it, such as status=failed, tag=shop or metadata.order=4711; all of them must hold.",
)
whose = click.option("--tenant", required=True, help="Whose jobs; *: everybody's.")
unasked = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command("retry")
@filters
@whose
@unasked
@data_option
def retry_jobs(conditions: tuple[str, ...], tenant: str, yes: bool, data: Path | None) -> None:
    """Repeat all failed or cancelled jobs that the filters mean, once."""
    _begin("retry", conditions, tenant, yes=yes, data=data)


@click.command("cancel")
@filters
@whose
@unasked
@data_option
def cancel_jobs(conditions: tuple[str, ...], tenant: str, yes: bool, data: Path | None) -> None:
    """Ask for the end of all jobs that the filters mean and that have not ended."""
    _begin("cancel", conditions, tenant, yes=yes, data=data)


def _begin(word: str, conditions: Sequence[str], tenant: str, *, yes: bool, data: Path | None) -> None:
    from service.bulk import beginning
    from service.bulk.beginning import Asked
    from service.bulk.lifecycle import BulkVerb
    from service.errors import Invalid

    pairs = [(name, value) for name, separator, value in (each.partition("=") for each in conditions) if separator]
    if len(pairs) < len(conditions):
        end("a filter is NAME=VALUE, such as status=failed", 2)

    async def asked(db: "Database") -> Asked:
        of_tenant = await beginning.tenant_meant(db, tenant)
        first = await db.fetchrow("SELECT id FROM tenants ORDER BY id LIMIT 1")
        if first is None:
            end("there is no tenant yet", 1)
        return Asked(of_tenant or first["id"], "command line", BulkVerb(word), of_tenant, sorted(pairs))

    async def preview(db: "Database") -> "Preview":
        return await beginning.preview(db, await asked(db))

    async def begin(db: "Database") -> UUID:
        action_id, _ = await beginning.begin(db, await asked(db), uuid4().hex)
        return action_id

    try:
        found = with_database(data, preview)
        click.echo(_words(word, found))
        if found.jobs == 0 and found.is_exact:
            return
        if not yes:
            click.confirm("Do it?", abort=True)
        action_id = with_database(data, begin)
    except Invalid as error:
        end(printable(error.message), 2)
    click.echo(
        f"Begun: {action_id}. Workers do it; `roundtrip jobs actions` shows how far it is, `jobs abort` ends it."
    )


def _words(word: str, found: "Preview") -> str:
    if found.jobs == 0 and found.is_exact and not found.skipped:
        return "No job is meant."
    least = "" if found.is_exact else "At least "
    cost = "nobody knows the cost" if found.cost is None else f"{found.cost:f} {found.currency or ''}".rstrip()
    if found.cost is not None:
        cost = f"{'it may cost' if word == 'retry' else 'it may save'} {cost}"
        cost += "" if found.cost_is_whole and found.is_exact else " or more"
    skipped = f" To {found.skipped:,} more nothing can be done." if found.skipped else ""
    return f"{least}{found.jobs:,} job{'' if found.jobs == 1 else 's'}; {cost}.{skipped}"


@click.command("actions")
@data_option
def list_actions(data: Path | None) -> None:
    """The newest actions on many jobs, and how far they are."""
    from service.bulk import records

    rows = with_database(data, lambda db: records.newest(db, None, None, 50))
    heading = (
        *("ID", "BEGUN", "ACTION", "TENANT", "STATE"),
        *("EXPECTED", "DONE", "SKIPPED", "FAILED", "FILTER", "HELD UP BY"),
    )
    show_table([heading, *(_line(row) for row in rows)])


def _line(row: Any) -> tuple[str, ...]:
    from service.bulk.records import conditions_of

    return (
        str(row["id"]),
        f"{row['created_at']:%F %T}Z",
        row["action"],
        row["of_tenant_name"] or "*",
        row["state"],
        f"{row['expected']}{'' if row['expected_is_exact'] else '+'}",
        str(row["done"]),
        str(row["skipped"]),
        str(row["failed"]),
        " ".join(f"{name}={value}" for name, value in conditions_of(row)),
        row["error"] or "",
    )


@click.command("abort")
@click.argument("action_id", metavar="ID", type=click.UUID)
@data_option
def abort_action(action_id: UUID, data: Path | None) -> None:
    """Let nothing more be begun of an action on many jobs."""
    from service.bulk import records

    async def abort(db: "Database") -> str | None:
        await records.abort(db, action_id)
        row = await records.get(db, None, action_id)
        return row["state"] if row else None

    state = with_database(data, abort)
    if state is None:
        end(f"there is no action {action_id}", 1)
    click.echo(f"{action_id} is {state}.")
