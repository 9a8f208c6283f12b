"""The program's commands for operators: tenants, providers, recorded webhooks, jobs that have to end."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from service.jobs.lifecycle import Verdict
from service.local.console import data_option, database_of, end, printable, settings_of, show_table

if TYPE_CHECKING:
    from service.db import Database
    from service.jobs.replaying import Replay

Result = TypeVar("Result")
PROVIDERS = click.Choice(["fal", "gpu"])


def with_database(data: Path | None, work: Callable[["Database"], Awaitable[Result]]) -> Result:
    from service.db import open_database

    async def run(url: str) -> Result:
        async with open_database(url, max_size=2) as db:
            return await work(db)

    with database_of(data) as url:
        return asyncio.run(run(url))


def note_unknown(data: Path | None, model: str) -> None:
    """Say so where no model of this ID is known: it may be a slip, or a model that there was."""
    from service.catalog import Catalog

    known = [each.id for each in Catalog(settings_of(data).models).models]
    if model not in known:
        click.echo(f"Note: no model {model} is known here, only {', '.join(known)} and ROUNDTRIP_MODELS.", err=True)


@click.group()
def tenants() -> None:
    """Tenants, and what they want done otherwise."""


@tenants.command("list")
@data_option
def list_tenants(data: Path | None) -> None:
    from service.tenants import tenants

    rows = with_database(data, tenants)
    show_table(
        [
            ("TENANT", "IN DOUBT", "CALLBACKS", "JOINS", "MADE", "USER ID"),
            *(
                (
                    row["name"],
                    row["on_doubt"],
                    row["callback_format"],
                    _joins(row["join_seconds"]),
                    f"{row['created_at']:%F}",
                    str(row["id"]),
                )
                for row in rows
            ),
        ]
    )


def _joins(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:g} s"


@tenants.command("set")
@click.argument("tenant")
@click.option(
    "--on-doubt",
    type=click.Choice(["resubmit", "fail"]),
    help="What becomes of a job whose submission was never answered and never called back: may it cost twice, or fail?",
)
@click.option("--callback-format", type=click.Choice(["fal", "standard"]), help="How its callbacks look.")
@click.option(
    "--join-seconds",
    type=click.FloatRange(0, 86_400),
    help="For how long a submission to /fal that repeats another to the byte is that one; 0: never.",
)
@data_option
def set_tenant(
    tenant: str, on_doubt: str | None, callback_format: str | None, join_seconds: float | None, data: Path | None
) -> None:
    """What a tenant wants done otherwise."""
    from service.callbacks.lifecycle import CallbackFormat
    from service.jobs.lifecycle import OnDoubt
    from service.tenants import set_wishes

    if on_doubt is None and callback_format is None and join_seconds is None:
        end("name --on-doubt, --callback-format or --join-seconds", 2)
    doubt = OnDoubt(on_doubt) if on_doubt else None
    form = CallbackFormat(callback_format) if callback_format else None
    wishes = with_database(data, lambda db: set_wishes(db, tenant, doubt, form, join_seconds))
    if wishes is None:
        end(f"there is no tenant {tenant}", 1)
    click.echo(
        f"Jobs of {tenant} that stay in doubt: {wishes['on_doubt']}. Callbacks: {wishes['callback_format']}. "
        f"Submissions that repeat another are joined: {_joins(wishes['join_seconds'])}."
    )


@tenants.command("secret")
@click.argument("tenant")
@click.option("--rotate", is_flag=True, help="Make a new one; the old one holds for a day.")
@click.option("--again", is_flag=True, help="Even within a day: of the older secrets only the last one then holds.")
@data_option
def show_secret(tenant: str, rotate: bool, again: bool, data: Path | None) -> None:
    """What a tenant verifies its callbacks with."""
    from service.tenants import RotatedBefore, callback_secrets

    try:
        secrets = with_database(data, lambda db: callback_secrets(db, tenant, rotate=rotate, again=again))
    except RotatedBefore:
        end(f"the secret of {tenant} was rotated within a day; --again ends the one before that at once", 1)
    if secrets is None:
        end(f"there is no tenant {tenant}", 1)
    before = "(the one before; it holds for a day after the rotation)"
    click.echo(f"v1       {secrets.secret}")
    if secrets.before is not None:
        click.echo(f"         {secrets.before}  {before}")
    click.echo(f"v1a      {secrets.public_key}")
    if secrets.public_key_before is not None:
        click.echo(f"         {secrets.public_key_before}  {before}")
    click.echo(f"user ID  {secrets.user_id}  (in fal's form)")


@click.group()
def providers() -> None:
    """Providers: paused or not."""


@providers.command("list")
@data_option
def list_providers(data: Path | None) -> None:
    from service.jobs.pauses import pauses

    rows = with_database(data, pauses)
    if not rows:
        click.echo("No provider is paused.")
        return
    heading = ("PAUSED", "SINCE", "NEXT TRY", "REASON")
    next_try = (f"{row['probe_at']:%F %T}Z" if row["probe_at"] else "by hand only" for row in rows)
    show_table(
        [
            heading,
            *(
                (row["provider"], f"{row['paused_at']:%F %T}Z", when, row["reason"])
                for row, when in zip(rows, next_try, strict=True)
            ),
        ]
    )


@providers.command("pause")
@click.argument("provider", type=PROVIDERS)
@click.option("--reason", default="An operator paused it.", show_default=True)
@data_option
def pause_provider(provider: str, reason: str, data: Path | None) -> None:
    """Submit nothing to it until `resume`. Jobs are accepted and wait."""
    from service.jobs.pauses import pause_by_hand

    with_database(data, lambda db: pause_by_hand(db, provider, reason))
    click.echo(f"{provider} is paused.")


@providers.command("resume")
@click.argument("provider", type=PROVIDERS)
@data_option
def resume_provider(provider: str, data: Path | None) -> None:
    """Submit to it again, from the next sweep on."""
    from service.jobs.pauses import resume

    if not with_database(data, lambda db: resume(db, provider)):
        end(f"{provider} is not paused", 1)
    click.echo(f"{provider} gets jobs again.")


@providers.command("drain")
@click.argument("provider", type=PROVIDERS)
@click.option("--yes", is_flag=True, help="Do it; without this, only say what would be done.")
@data_option
def drain_provider(provider: str, yes: bool, data: Path | None) -> None:
    """Take the jobs that wait for a provider to the other one.

    Not those whose client asked for it, nor those that a rule keeps where they are. What a provider has already stays.
    """
    from service.jobs.routing import OTHER
    from service.jobs.runs import workers
    from service.jobs.turns import drain, movable

    other = OTHER[provider]
    rows = with_database(data, lambda db: movable(db, provider))
    if not rows:
        click.echo(f"No job that waits for {provider} may go to {other}.")
        return
    show_table([("MODEL", "JOBS"), *((row["model"], str(row["jobs"])) for row in rows)])
    if other == "gpu":
        served = {row["model"] for row in with_database(data, workers)}
        if unserved := [row["model"] for row in rows if row["model"] not in served]:
            click.echo(f"No GPU worker of {', '.join(unserved)} was heard of; jobs wait there until one is.", err=True)
    if not yes:
        click.echo(f"{sum(row['jobs'] for row in rows)} would go to {other}; --yes does it.")
        return
    moved = with_database(data, lambda db: drain(db, provider, other))
    click.echo(f"{moved} went to {other}.")


@click.group()
def webhooks() -> None:
    """What providers said of jobs, as it was recorded."""


@webhooks.command("list")
@click.option("--job", "request_id", type=click.UUID, help="Of this job only.")
@click.option("--verdict", type=click.Choice([verdict.value for verdict in Verdict]), help="With this verdict only.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@data_option
def list_webhooks(request_id: UUID | None, verdict: str | None, limit: int, data: Path | None) -> None:
    """The newest reports, of webhooks, polls and results."""
    from service.jobs.replaying import recorded

    rows = with_database(data, lambda db: recorded(db, request_id, verdict, limit))
    heading = ("ID", "RECEIVED", "SOURCE", "VERDICT", "BYTES", "ATTEMPT", "JOB")
    show_table(
        [
            heading,
            *(
                (
                    str(row["id"]),
                    f"{row['received_at']:%F %T}Z",
                    row["source"],
                    row["verdict"],
                    str(row["size"]),
                    str(row["attempt"]),
                    str(row["job_id"]),
                )
                for row in rows
            ),
        ]
    )


@webhooks.command("replay")
@click.argument("report_id", metavar="ID", type=click.IntRange(1, 2**63 - 1))
@click.option("--apply", is_flag=True, help="Let it end its job, if it can.")
@data_option
def replay_webhook(report_id: int, apply: bool, data: Path | None) -> None:
    """Show what today's code makes of a recorded report. An end is never changed by it."""
    from service.catalog import Catalog
    from service.jobs.replaying import NoSuchReport, ReportRemoved, replay

    settings = settings_of(data)
    catalog, user_id = Catalog(settings.models), settings.fal_user_id
    try:
        replayed = with_database(data, lambda db: replay(db, catalog, report_id, user_id=user_id, apply=apply))
    except ReportRemoved:
        end(f"the bytes of report {report_id} were removed, as its tenant wanted", 1)
    except NoSuchReport:
        end(f"there is no report {report_id}", 1)
    for line in account_of(replayed, applied=apply):
        click.echo(line)
    if apply and replayed.verdict != "applied":
        end("nothing was applied", 1)


def account_of(replayed: "Replay", *, applied: bool) -> list[str]:
    """What a replay found, in lines."""
    report, ending = replayed.report, replayed.ending
    lines = [
        f"report    {report['id']}: {report['source']}, received {report['received_at']:%F %T}Z, "
        f"{len(report['body'])} bytes, HTTP {report['http_status'] or 'none'}",
        f"job       {report['job_id']}, attempt {report['attempt']}",
        f"then      {report['verdict']}",
    ]
    if ending is None:
        return [*lines, f"today     {replayed.verdict}: it tells of no end"]
    lines.append(f"it says   {ending.event}, HTTP {ending.http_status}{_words(ending.error)}")
    facts: dict[str, Any] = {
        "text": replayed.lifted.text,
        "files": len(replayed.lifted.files) or None,
        "seed": replayed.lifted.seed,
        "usage": dict(replayed.lifted.usage) or None,
    }
    lines += [f"          {name}: {_words(value)[2:]}" for name, value in facts.items() if value is not None]
    done = {True: "applied: it ended its job now", False: "it would end its job (--apply lets it)"}[applied]
    lines.append(f"today     {done if replayed.verdict == 'applied' else replayed.verdict}")
    if replayed.differing:
        lines.append(f"          today's code lifts other facts than are kept: {', '.join(replayed.differing)}")
    return lines


def _words(value: object) -> str:
    """Text of strangers on one line, without what a terminal would obey."""
    if value is None:
        return ""
    return ": " + printable(str(value)[:200])


@click.group()
def jobs() -> None:
    """Jobs."""


@jobs.command("end")
@click.argument("request_id", type=click.UUID)
@data_option
def end_job(request_id: UUID, data: Path | None) -> None:
    """End a job as cancelled whatever its provider says; the provider is then asked to stop it."""
    from service.jobs.operations import force_end

    if not with_database(data, lambda db: force_end(db, request_id)):
        end(f"there is no job {request_id} that has not ended", 1)
    click.echo(f"{request_id} is cancelled.")
