"""The `roundtrip` program. Each command imports what it needs when it runs, so that help is quick."""

import asyncio
import gc
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import click

from service.artifacts.commands import files
from service.bulk.commands import abort_action, cancel_jobs, list_actions, retry_jobs
from service.callbacks.commands import callbacks
from service.gpu.commands import gpu_keys, gpu_worker, routes
from service.local.console import data_option, database_of, end, settings_of, show_table
from service.local.errors import CannotStart
from service.operating import jobs, providers, tenants, webhooks
from service.retention.commands import retention
from service.stats.commands import prices, stats

if TYPE_CHECKING:
    from starlette.applications import Starlette

SCOPES = ("submit", "read", "metrics", "admin")

fd_option = click.option("--fd", type=int, hidden=True, help="Serve this open socket, which `up` holds.")


class Program(click.Group):
    """Turns what a wrong setting or a failed start raises into one line and an exit status."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().main(*arguments, **options)
        except CannotStart as error:
            end(str(error), error.exit_status)
        except SystemExit as ended:
            if ended.code == 2:
                from service.settings import SettingsError

                if isinstance(ended, SettingsError):
                    end(ended.line, 2)
            raise
        except Exception as error:
            from service.errors import Unavailable

            if not isinstance(error, Unavailable):
                raise
            if _was_interrupted(error):
                end("interrupted", 130)
            end(error.message, 1)


def _was_interrupted(error: BaseException | None) -> bool:
    """Ctrl-C in the middle of a statement looks like a database that went away."""
    while error is not None and not isinstance(error, asyncio.CancelledError):
        error = error.__cause__ or error.__context__
    return error is not None


@click.group(cls=Program)
@click.version_option(package_name="roundtrip")
def main() -> None:
    """The durable record and the switchboard between a backend and its AI inference."""
    from service.logs import configure_logs

    configure_logs()


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True)
@data_option
def up(host: str, port: int, data: Path | None) -> None:
    """Start everything on this machine, and stop it on Ctrl-C."""
    from service.local.announcing import announce
    from service.local.stopping import until_stopped
    from service.local.up import running

    settings = settings_of(data)
    with until_stopped() as stop, running(settings, host, port) as service:
        stop.second_time(service.supervisor.hurry)
        announce(service)
        stop.wait()


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True)
@fd_option
def api(host: str, port: int, fd: int | None) -> None:
    """Serve the HTTP API, the webhooks and the dashboard."""
    from service.app import create_app

    settings = settings_of()
    settings.require_database_url()
    settings.require_broker_url()
    _serve(create_app(settings), host, port, fd)


@main.command()
def worker() -> None:
    """Run the Celery worker: submits jobs, watches them, copies files."""
    from celery.utils.nodenames import default_nodename, host_format

    running = _celery_app("tasks.app").Worker(
        pool_cls="threads",
        concurrency=8,
        queues="roundtrip",
        # A name of its own, so that two workers on one host can both be remote-controlled.
        hostname=host_format(default_nodename(f"worker-{uuid4().hex[:12]}@%h")),
        without_mingle=True,
        without_gossip=True,
        # Nor a heartbeat for who watches Celery's events: a worker's own watchdog looks after it.
        without_heartbeat=True,
        loglevel="WARNING",
        quiet=True,
    )
    _leave_alone_what_is_loaded()
    running.start()
    sys.exit(running.exitcode)


@main.command()
def beat() -> None:
    """Run Celery beat: starts the sweeps by the clock. One of these is enough."""
    settings = settings_of()
    settings.data.mkdir(parents=True, exist_ok=True)
    schedule = str(settings.data / "beat-schedule")
    _celery_app("tasks.beat").Beat(schedule=schedule, loglevel="WARNING", quiet=True).run()


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=8001, show_default=True)
@fd_option
def sandbox(host: str, port: int, fd: int | None) -> None:
    """Serve a look-alike of fal, for development and tests."""
    from service.sandbox.app import SandboxConfig, create_app

    os.environ.setdefault("ROUNDTRIP_SANDBOX_PUBLIC_URL", f"http://{host}:{port}")
    _serve(create_app(SandboxConfig.from_env()), host, port, fd)


@main.command("migrate")
@data_option
def migrate_schema(data: Path | None) -> None:
    """Bring the database's schema to the newest version, and let in the admin key of the settings."""
    from service.keys import ensure_admin_key
    from service.local.schema import migrate

    settings = settings_of(data)
    with database_of(data) as url:
        migrate(url)
        if settings.admin_key is not None:
            asyncio.run(ensure_admin_key(url, settings.admin_key.get_secret_value()))
    click.echo("The schema is the newest.")


@main.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@click.option("--tenant", required=True)
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), default=SCOPES[:2], show_default=True)
@data_option
def create_key(tenant: str, scopes: tuple[str, ...], data: Path | None) -> None:
    """Make a key and print it, which nothing can do again."""
    from service.keys import create_key

    if not tenant.strip() or not tenant.isprintable() or len(tenant) > 200:
        end("a tenant needs a printable name of 1 to 200 characters", 2)
    if tenant == "*":
        end("* stands for all tenants, so none can be called so", 2)
    with database_of(data) as url:
        click.echo(asyncio.run(create_key(url, tenant, scopes)))


@keys.command("list")
@data_option
def list_keys(data: Path | None) -> None:
    """Show every key without its secret."""
    from service.keys import list_keys

    with database_of(data) as url:
        rows = [("ID", "TENANT", "SCOPES", "MADE", "STATE")]
        for key in asyncio.run(list_keys(url)):
            state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "valid"
            rows.append((key.id, key.tenant, ",".join(key.scopes), f"{key.created_at:%Y-%m-%d}", state))
    show_table(rows)


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
@data_option
def revoke_key(key_id: str, data: Path | None) -> None:
    """Take a key back."""
    from service.keys import revoke_key

    with database_of(data) as url:
        if not asyncio.run(revoke_key(url, key_id)):
            end(f"there is no valid key {key_id}", 1)
    click.echo(f"Revoked {key_id}; every process has noticed within five seconds.")


def _serve(app: "Starlette", host: str, port: int, fd: int | None) -> None:
    import socket

    import uvicorn

    from service.edge import IDLE_SECONDS, MOST_CONNECTIONS, LimitedProtocol, Server

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=LimitedProtocol,
        limit_concurrency=MOST_CONNECTIONS,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=10,
    )
    _leave_alone_what_is_loaded()
    Server(config).run(sockets=None if fd is None else [socket.socket(fileno=fd)])


def _leave_alone_what_is_loaded() -> None:
    """It stays to the end, and the collector would look at all of it now and then while every request waits."""
    gc.collect()
    gc.freeze()


def _celery_app(module: str) -> Any:
    """What Celery's own program would do with it begins here, without the 6 MB of that program's other commands."""
    settings = settings_of()
    settings.require_database_url()
    settings.require_broker_url()
    from celery.exceptions import SecurityWarning

    # Root in a container is nobody special, and the messages carry no code.
    warnings.simplefilter("ignore", SecurityWarning)
    # Named, not imported: `service` stands without `tasks`.
    return import_module(module).celery_app


for command in (tenants, providers, webhooks, jobs, callbacks, retention, prices, stats, gpu_worker, gpu_keys, routes):
    main.add_command(command)
main.add_command(files)
for command in (retry_jobs, cancel_jobs, list_actions, abort_action):
    jobs.add_command(command)


if __name__ == "__main__":
    main()
