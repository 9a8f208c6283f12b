"""What may be wrong with the parts of the service itself: workers, beat, the broker, the database."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from service.condition import database
from service.condition.findings import Finding, Severity, Surroundings
from service.condition.processes import LOST_SECONDS, Shown, shown

# Of processes that were lost a longer time ago nothing is told any more.
TOLD_SECONDS = 600.0

# In a new installation the parts are seen at work one after the other.
BEGIN_SECONDS = 15.0

WORK = {
    "worker": "no worker takes messages from the broker: nothing is submitted, copied or delivered",
    "beat": "nobody asks for sweeps: what was missed stays undone, and nothing is polled",
}


async def silent_processes(around: Surroundings) -> Sequence[Finding]:
    """For administrators."""
    if around.tenant_id is not None:
        return []
    all_of_them, now = await shown(around.db), datetime.now(UTC)
    findings = []
    for kind, words in WORK.items():
        known = [each for each in all_of_them if each.kind == kind]
        if not known and _all_begins(all_of_them, now):
            continue
        if not any(each.state == "working" for each in known):
            seen = max((each.ended_at or each.seen_at for each in known), default=None)
            findings.append(
                Finding(
                    f"no_{kind}",
                    Severity.CRITICAL,
                    f"{words}.",
                    f"Start one: `roundtrip {kind}`. One that lives and is not seen here is kept from its broker.",
                    seen,
                )
            )
        findings += [_lost(each) for each in known if _is_worth_telling(each, now)]
    return findings


def _all_begins(processes: Sequence[Shown], now: datetime) -> bool:
    """The first to be seen at work was so only just now; the others of a new installation follow."""
    return bool(processes) and now - min(each.started_at for each in processes) < timedelta(seconds=BEGIN_SECONDS)


def _is_worth_telling(process: Shown, now: datetime) -> bool:
    return process.is_lost and now - process.seen_at < timedelta(seconds=TOLD_SECONDS)


def _lost(process: Shown) -> Finding:
    return Finding(
        f"lost_{process.kind}",
        Severity.WARNING,
        f"The {process.kind} {process.pid} on {process.host} was at work, and has not been for {LOST_SECONDS:.0f}"
        " seconds or more; it did not end in order.",
        "If nothing has taken its place, start one. If it still runs, its log says what it waits for.",
        process.seen_at,
        1,
    )


async def broker_away(around: Surroundings) -> Sequence[Finding]:
    """As this process sees it, which publishes to the broker and does not read from it."""
    if not around.broker_is_away or around.tenant_id is not None:
        return []
    return [
        Finding(
            "broker_away",
            Severity.CRITICAL,
            "The broker cannot be reached from here: jobs are registered, and nobody is told of them.",
            "Start it, or mend ROUNDTRIP_BROKER_URL. Nothing is lost: the rows are the truth.",
        )
    ]


OLD_TRANSACTION = timedelta(minutes=5)
OLD_ROWS = 1_500_000_000
DEAD_ROWS, DEAD_SHARE = 200_000, 0.4


async def database_strain(around: Surroundings) -> Sequence[Finding]:
    """For administrators."""
    if around.tenant_id is not None:
        return []
    state, findings = await database.server(around.db), []
    oldest = state.oldest_transaction_at
    if oldest is not None and datetime.now(UTC) - oldest > OLD_TRANSACTION:
        findings.append(
            Finding(
                "old_transaction",
                Severity.WARNING,
                "A transaction has been open for long; until it ends no dead row can be cleared away.",
                "Find it in pg_stat_activity; end it with pg_terminate_backend, if nobody needs it.",
                oldest,
            )
        )
    if state.transaction_age > OLD_ROWS:
        findings.append(
            Finding(
                "wraparound",
                Severity.CRITICAL,
                f"{state.transaction_age:,} transactions were begun since the oldest rows were frozen; at 2,000 million"
                " PostgreSQL stops.",
                "Let VACUUM (FREEZE) run, and see why autovacuum does not.",
            )
        )
    if state.connections * 10 > state.most_connections * 9:
        findings.append(
            Finding(
                "connections",
                Severity.WARNING,
                f"{state.connections} of {state.most_connections} connections of the database are in use.",
                "Raise max_connections, or run fewer processes.",
            )
        )
    for table in await database.tables(around.db):
        if table.dead_rows > DEAD_ROWS and table.dead_rows > DEAD_SHARE * (table.rows + table.dead_rows):
            findings.append(
                Finding(
                    "dead_rows",
                    Severity.WARNING,
                    f"Of the rows of {table.name}, {table.dead_rows:,} are dead and {table.rows:,} live.",
                    "Autovacuum does not keep up: see whether an old transaction holds it up.",
                    table.vacuumed_at,
                    table.dead_rows,
                )
            )
    return findings
