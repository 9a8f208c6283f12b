"""The program's commands about GPU workers: one that runs as one, their keys, and which jobs go to them."""

import asyncio
import os
import socket
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import click

from service.local.console import data_option, end, settings_of, show_table
from service.operating import with_database

if TYPE_CHECKING:
    from service.gpu.config import WorkerConfig
    from service.settings import Settings

# Nothing of a GPU worker needs them, and a model's own code runs in it.
KEPT_FROM_WORKERS = ("ROUNDTRIP_DATABASE_URL", "ROUNDTRIP_ADMIN_KEY", "FAL_KEY", "ROUNDTRIP_ARTIFACTS_URL")


@click.command("gpu-worker")
@click.option("--model", required=True, help="The model that it loads and runs.")
@click.option("--device", default="cuda:0", show_default=True, help="By torch's name of it.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Folder of the model's weights.  [default: weights/MODEL in the data directory]",
)
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="For the model's runtime.")
@click.option("--runtime", metavar="MODULE:FUNCTION", help="A runtime of your own instead of ours.")
@click.option("--load-seconds", type=click.FloatRange(1), default=900, show_default=True, help="For loading, at most.")
@click.option(
    "--longest-seconds",
    type=click.FloatRange(1),
    default=3_600,
    show_default=True,
    help="For one job, or those together.",
)
@click.option(
    "--grace-seconds",
    type=click.FloatRange(0),
    default=30,
    show_default=True,
    help="For a model to heed a cancel, before its process is ended.",
)
@click.option(
    "--gather-seconds",
    type=click.FloatRange(0, 60),
    default=0.2,
    show_default=True,
    help="For the pictures of others that could run together with one whose own are there.",
)
@data_option
def gpu_worker(
    model: str,
    device: str,
    weights: Path | None,
    options: tuple[str, ...],
    runtime: str | None,
    load_seconds: float,
    longest_seconds: float,
    grace_seconds: float,
    gather_seconds: float,
    data: Path | None,
) -> None:
    """Run a model's jobs on a GPU of this machine.

    It reaches the broker and the service, ROUNDTRIP_BROKER_URL and ROUNDTRIP_PUBLIC_URL, and nothing reaches in. With a
    `roundtrip up` on the same data directory it needs neither.
    """
    from service.gpu.config import VARIABLE, WorkerConfig
    from service.gpu.queues import queue_of

    if VARIABLE in os.environ:  # We are the program that was begun anew below.
        raise SystemExit(_celery(WorkerConfig.published(), queue_of(model)))
    settings = settings_of(data)
    service_url, broker_url, database_url = _surroundings(settings)
    given = dict(option.partition("=")[::2] for option in options)
    if not all(given.values()):
        end("--option is NAME=VALUE", 2)
    config = WorkerConfig(
        worker=f"{socket.gethostname()}-{uuid4().hex[:12]}",
        model=model,
        device=device,
        folder=str((weights or settings.data / "weights" / model).resolve()),
        data=str(settings.data.resolve()),
        service_url=service_url,
        allow_private_networks=settings.allow_private_networks,
        runtime=runtime,
        options=given,
        models=list(settings.models),
        load_seconds=load_seconds,
        longest_seconds=longest_seconds,
        grace_seconds=grace_seconds,
        gather_seconds=gather_seconds,
    )
    _register(config, database_url)
    for name in KEPT_FROM_WORKERS:
        os.environ.pop(name, None)
    os.environ["ROUNDTRIP_BROKER_URL"] = broker_url
    config.publish()
    click.echo(f"{model} on {device}, for {service_url}", err=True)
    # Begun anew, because the environment that a process began with can be read in /proc as long as it lives.
    os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - It is this program, by its own arguments.


def _celery(config: "WorkerConfig", queue: str) -> int:
    status = _work(config, queue)
    if config.complaint.exists():
        why = config.complaint.read_text()
        config.complaint.unlink()
        end(f"{config.model} cannot be loaded: {why}", 1)
    return status


def _work(config: "WorkerConfig", queue: str) -> int:
    from celery.bin.celery import celery
    from celery.exceptions import SecurityWarning

    warnings.simplefilter("ignore", SecurityWarning)
    arguments = [
        *("--app", "tasks.gpu:celery_app", "--quiet", "worker", "--pool=prefork", "--concurrency=1"),
        *("--without-mingle", "--without-gossip", "-Q", queue, "--loglevel=WARNING"),
        f"--hostname=gpu-{config.worker.rpartition('-')[2]}@%h",
    ]
    try:
        celery.main(arguments, prog_name="celery", standalone_mode=False)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _surroundings(settings: "Settings") -> tuple[str, str, str | None]:
    """Where the service and the broker are, and the database, if this machine is the service's own."""
    from service.local.directory import DataDirectory

    running = DataDirectory(settings.data).published() if settings.data.is_dir() else None
    here = running or {}
    broker_url = settings.broker_url or here.get("broker_url")
    if broker_url is None:
        end(f"ROUNDTRIP_BROKER_URL is not set, and no `roundtrip up` runs on {settings.data}", 2)
    named = "public_url" in settings.model_fields_set
    url = settings.public_url if named else here.get("public_url")
    if url is None:
        end(f"ROUNDTRIP_PUBLIC_URL is not set, and no `roundtrip up` runs on {settings.data}", 2)
    return url, broker_url, settings.database_url or here.get("database_url")


def _register(config: "WorkerConfig", database_url: str | None) -> None:
    """Who can write to the database may let in a key; elsewhere an operator has to."""
    from service.gpu.identity import WorkerKey, public_key_text

    key = WorkerKey.kept_in(config.place)
    from service.db import DatabaseAway, open_database

    async def add(url: str) -> None:
        from service.gpu.keys import add_key

        async with open_database(url, max_size=1) as db:
            await add_key(db, key.public, socket.gethostname())

    try:
        if database_url is not None:
            asyncio.run(add(database_url))
            return
    except (DatabaseAway, OSError):
        click.echo("The database cannot be reached.", err=True)
    host, public = urlsplit(config.service_url).hostname, public_key_text(key.public)
    click.echo(f"This machine's key, for `roundtrip gpu-keys add` at {host}: {public}", err=True)


@click.group("gpu-keys")
def gpu_keys() -> None:
    """Keys of GPU workers: whose results count."""


@gpu_keys.command("show")
@data_option
def show_key(data: Path | None) -> None:
    """Show the public key of this machine's workers."""
    from service.gpu.config import place_in
    from service.gpu.identity import WorkerKey, public_key_text

    key = WorkerKey.kept_in(place_in(settings_of(data).data))
    click.echo(f"{public_key_text(key.public)}  {key.id}")


# One key of 64 begins with a dash.
@gpu_keys.command("add", context_settings={"ignore_unknown_options": True})
@click.argument("public_key")
@click.option("--name", required=True, help="Of the machine.")
@data_option
def add_key(public_key: str, name: str, data: Path | None) -> None:
    """Let the workers of a machine run jobs; `gpu-keys show` there tells its public key."""
    from service.gpu.identity import read_public_key
    from service.gpu.keys import add_key

    try:
        raw = read_public_key(public_key)
    except ValueError as error:
        end(f"the public key {error}", 2)
    click.echo(with_database(data, lambda db: add_key(db, raw, name)))


@gpu_keys.command("list")
@data_option
def list_keys(data: Path | None) -> None:
    from service.gpu.identity import public_key_text
    from service.gpu.keys import list_keys

    rows = with_database(data, list_keys)
    show_table(
        [
            ("ID", "NAME", "ADDED", "STATE", "PUBLIC KEY"),
            *(
                (
                    row["id"],
                    row["name"],
                    f"{row['created_at']:%F}",
                    f"revoked {row['revoked_at']:%F}" if row["revoked_at"] else "valid",
                    public_key_text(row["public_key"]),
                )
                for row in rows
            ),
        ]
    )


@gpu_keys.command("revoke")
@click.argument("key", metavar="ID")
@data_option
def revoke_key(key: str, data: Path | None) -> None:
    """Believe the workers of a machine no more."""
    from service.gpu.keys import revoke_key

    if not with_database(data, lambda db: revoke_key(db, key)):
        end(f"there is no valid key {key}", 1)
    click.echo(f"Revoked {key}; every process has noticed within five seconds.")


@click.group()
def routes() -> None:
    """Rules: which provider a tenant's jobs go to."""


@routes.command("set")
@click.argument("tenant")
@click.option("--model", default="*", show_default=True, help="For this model only.")
@click.option("--prefer", type=click.Choice(["fal", "gpu"]), required=True, help="Where its jobs go first.")
@click.option("--alone", is_flag=True, help="And nowhere else, whatever happens and whatever a job asks for.")
@click.option("--spill-seconds", type=click.FloatRange(0), help="With gpu: the longest that a job waits there.")
@data_option
def set_route(
    tenant: str, model: str, prefer: Literal["fal", "gpu"], alone: bool, spill_seconds: float | None, data: Path | None
) -> None:
    """Prefer one provider to the other, which gets what the first one does not take."""
    from service.catalog import Catalog
    from service.errors import UnknownModel
    from service.jobs.routing import ALL, GPU, set_rule

    try:
        if model != ALL:
            Catalog(settings_of(data).models).find(model)
    except UnknownModel as error:
        end(error.message, 2)  # A rule for a name misspelt would keep nothing here.
    if spill_seconds is not None and (alone or prefer != GPU):
        end("--spill-seconds goes with --prefer gpu and without --alone", 2)
    wanted = with_database(
        data, lambda db: set_rule(db, tenant, model, prefer, alone=alone, spill_seconds=spill_seconds)
    )
    if not wanted:
        end(f"there is no tenant {tenant}", 1)
    click.echo(f"Jobs of {tenant} on {'all models' if model == '*' else model}: {_told(prefer, alone, spill_seconds)}.")


@routes.command("list")
@data_option
def list_routes(data: Path | None) -> None:
    """Every rule; without one, jobs go to fal."""
    from service.jobs.routing import rules

    rows = with_database(data, rules)
    show_table(
        [
            ("TENANT", "MODEL", "RULE"),
            *((row["tenant"], row["model"], _told(row["prefer"], row["alone"], row["spill_seconds"])) for row in rows),
        ]
    )


@routes.command("remove")
@click.argument("tenant")
@click.option("--model", default="*", show_default=True)
@data_option
def remove_route(tenant: str, model: str, data: Path | None) -> None:
    from service.jobs.routing import remove_rule

    if not with_database(data, lambda db: remove_rule(db, tenant, model)):
        end(f"{tenant} has no rule for {model}", 1)
    click.echo("Removed.")


def _told(prefer: str, alone: bool, spill_seconds: float | None) -> str:
    spill = "" if spill_seconds is None else f", for {spill_seconds:g} s at most"
    return f"{prefer} {'alone' if alone else 'first'}{spill}"
