"""The program's commands for retention: what is removed of ended jobs, and when."""

from pathlib import Path

import click

from service.local.console import data_option, end, show_table
from service.operating import note_unknown, with_database
from service.retention.parts import Keep, Part

DAY = 86_400.0
# An hour, and a hundred years.
FEWEST_DAYS, MOST_DAYS = 1 / 24, 36_500.0
PARTS = click.Choice([part.value for part in Part])
KEEPS = click.Choice([keep.value for keep in Keep])
for_part = click.option("--part", required=True, type=PARTS, help="Of what; `job` is all of it.")
for_model = click.option("--model", default="*", show_default=True, help="Of jobs of this model; *: of all others.")


def _days(_: click.Context, __: click.Parameter, days: float) -> float:
    if FEWEST_DAYS <= days <= MOST_DAYS:
        return days
    raise click.BadParameter(
        f"{days:g} is no time that a rule may have, and means neither at once nor for good. Write 0.042 (an hour) to"
        f" {MOST_DAYS:,.0f}; --keep all keeps a part for good, and DELETE /v1/jobs/ID removes a job at once."
    )


def _time(days: float) -> str:
    return "1 day" if days == 1 else f"{days:g} days"


@click.group()
def retention() -> None:
    """For how long what of ended jobs is kept. Without a rule: all, for good."""


@retention.command("list")
@data_option
def list_rules(data: Path | None) -> None:
    from service.retention.rules import all_rules

    rows = with_database(data, all_rules)
    if not rows:
        click.echo("Everything is kept for good.")
        return
    heading = ("TENANT", "MODEL", "PART", "AFTER", "KEEPS")
    lines = ((row["tenant"], row["model"], row["part"], _time(row["after_seconds"] / DAY), row["keep"]) for row in rows)
    show_table([heading, *lines])


@retention.command("set")
@click.argument("tenant")
@for_part
@for_model
@click.option(
    "--days",
    required=True,
    type=float,
    callback=_days,
    help="So long after a job's end; 0.042, an hour, or more.",
)
@click.option("--keep", default=Keep.NOTHING.value, show_default=True, type=KEEPS, help="What stays then.")
@data_option
def set_rule(tenant: str, part: str, model: str, days: float, keep: str, data: Path | None) -> None:
    """Remove a part of the tenant's jobs some time after their end. A job on hold keeps all."""
    from service.retention import rules

    if part == Part.JOB and keep == Keep.HASH:
        end("of a whole job no hash can be kept: --keep nothing, or all", 2)
    if model != rules.EVERY_MODEL:
        note_unknown(data, model)
    rule = with_database(data, lambda db: rules.set_rule(db, tenant, model, Part(part), days * DAY, Keep(keep)))
    if rule is None:
        end(f"there is no tenant {tenant}", 1)
    of = "every model without a rule of its own" if model == rules.EVERY_MODEL else model
    click.echo(f"Of {tenant}'s jobs of {of}, {_time(days)} after their end, of {part} is kept: {keep}.")
    if rule.warning:
        click.echo(f"Note: {rule.warning}", err=True)


@retention.command("remove")
@click.argument("tenant")
@for_part
@for_model
@data_option
def remove_rule(tenant: str, part: str, model: str, data: Path | None) -> None:
    """Remove the rule. What it removed does not come back."""
    from service.retention import rules

    if not with_database(data, lambda db: rules.remove_rule(db, tenant, model, Part(part))):
        end(f"{tenant} has no such rule", 1)
    click.echo("The rule is removed.")
