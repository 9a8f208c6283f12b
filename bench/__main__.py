"""Start the whole service on this machine, put it under load, print what it did and what that cost."""

import argparse
import sys
from collections import Counter

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector

from bench import comparison, report
from bench import growth as growth_curves
from bench.counters import PUBLISHED_AFTER_SECONDS, Counters
from bench.driving import Driver
from bench.measuring import Idle, Meter, Phase
from bench.stacks import FLOOR, NAMES, OURS, make_environment
from bench.stand_in import running_provider
from bench.workplace import at_least_one, data_directory, filled, settings_for, tell
from service.local.errors import CannotStart
from service.local.stopping import until_stopped
from service.local.up import Running, running

QUICK = {
    "jobs": 200,
    "warm_up": 50,
    "seconds": 5.0,
    "idle": 5.0,
    "rounds": 1,
    "alone": 50,
    "webhooks": 200,
    "memory_jobs": 1_000,
}
# As in `service/context.py`: shorter than the five seconds after which the other side closes.
KEEPALIVE_SECONDS = 4.0

INTERRUPTED = 130


def record(name: str) -> str:
    """The type of an argument that names a data directory or a database."""
    return name if "://" in name else str(filled(name))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--jobs", type=at_least_one, default=2_000, help="jobs of the closed loop")
    parser.add_argument("--clients", type=at_least_one, default=32, help="clients of the closed loop")
    parser.add_argument("--rate", type=float, default=30.0, help="jobs a second of the open loop")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the open loop")
    parser.add_argument("--warm-up", type=int, default=200, help="jobs before anything is measured")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds without any job")
    parser.add_argument(
        "--settle",
        type=float,
        default=PUBLISHED_AFTER_SECONDS,
        help="seconds around each phase, for PostgreSQL to publish its counts; with fewer, transactions come out wrong",
    )
    parser.add_argument("--quick", action="store_true", help="fewer jobs, shorter phases")
    peers = parser.add_argument_group("the same work on other stacks")
    peers.add_argument("--peers", action="store_true", help="compare with the peers of bench/peers")
    peers.add_argument("--rounds", type=at_least_one, default=3, help="turns of each stack")
    peers.add_argument("--stacks", nargs="+", choices=NAMES, default=list(NAMES), help="which ones take turns")
    peers.add_argument("--alone", type=at_least_one, default=300, help="jobs registered one by one")
    peers.add_argument("--webhooks", type=at_least_one, default=1_000, help="webhooks at 200 a second")
    growth = parser.add_argument_group("how the figures grow")
    growth.add_argument("--growth", nargs="+", choices=growth_curves.NAMES, help="with what; a table for each")
    growth.add_argument("--memory-jobs", type=at_least_one, default=100_000, help="jobs of the curve of memory")
    growth.add_argument(
        "--rows-of", nargs="+", type=record, default=[], help="data directories, or addresses of databases"
    )
    if parser.parse_args().quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args()


async def measure(service: Running, provider_url: str, options: argparse.Namespace) -> tuple[list[Phase], Idle]:
    pids = {name: child.pid for name, child in service.supervisor.children.items()}
    roots = {name: pids[name] or 0 for name in ("api", "worker", "beat", "postgres", "valkey")}
    connector = TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS)
    async with (
        ClientSession(connector=connector, timeout=ClientTimeout(total=30)) as http,
        Counters(service.database_url, service.broker_url) as counters,
    ):
        driver = Driver(http, service.url, service.admin_key, provider_url)
        meter = Meter(counters, roots, options.settle)
        tell(f"Warming up with {options.warm_up} jobs …")
        await driver.closed_loop("warm", options.warm_up, options.clients)
        tell(f"Closed loop: {options.jobs} jobs by {options.clients} clients …")
        closed = await meter.phase(
            f"closed loop, {options.clients} clients",
            lambda: driver.closed_loop("closed", options.jobs, options.clients),
        )
        tell(f"Open loop: {options.rate:g} jobs a second for {options.seconds:g} s …")
        opened = await meter.phase(
            f"open loop, {options.rate:g}/s for {options.seconds:g} s",
            lambda: driver.open_loop("open", options.rate, options.seconds),
        )
        tell(f"Idle for {options.idle:g} s …")
        idle = await meter.idle(options.idle)
        completed = await counters.completed_jobs()
        for phase in (closed, opened):
            phase.load.completed = completed.get(phase.load.phase, 0)
        return [closed, opened], idle


def compare_with_peers(options: argparse.Namespace) -> int:
    if not {OURS, FLOOR}.issuperset(options.stacks):
        tell("Installing what the peers need into bench/peers/.venv …")
        make_environment()
    return comparison.compare(options)


def main() -> int:
    """0 if every job completed, none was submitted twice, and no process died."""
    options = read_options()
    if options.peers or options.growth:
        with until_stopped():
            return compare_with_peers(options) if options.peers else growth_curves.draw(options)
        return INTERRUPTED
    machine = report.machine()
    status = INTERRUPTED
    with until_stopped() as stop, data_directory() as data, running_provider() as provider_url:
        tell("Starting PostgreSQL, Valkey, the API, the worker and beat …")
        with running(settings_for(data, provider_url), port=0) as service:
            stop.second_time(service.supervisor.hurry)
            phases, idle = uvloop.run(measure(service, provider_url, options))
            died = [name for name, child in service.supervisor.children.items() if child.endings]
        wrong = bool(died) or any(phase.load.incomplete or phase.load.duplicate_submits for phase in phases)
        status = 1 if wrong else 0
        print(f"{machine}\n\n{report.phases_table(phases, idle)}\n\n{report.idle_table(idle)}", flush=True)
        if died:
            tell(f"Died and were started again, so that their figures are wrong: {', '.join(died)}")
        for phase in phases:
            for words, times in Counter(phase.load.refusals).most_common(3):
                tell(f"{phase.name}: {times} registrations failed: {words}")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CannotStart as error:
        tell(f"bench: {error}")
        sys.exit(error.exit_status)
