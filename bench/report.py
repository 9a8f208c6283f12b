"""The figures as Markdown."""

import math
import os
import platform
from collections.abc import Iterable, Sequence

from bench.measuring import Idle, Phase


def machine() -> str:
    one_minute = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}; "
        f"load average before the start {one_minute:.1f}"
    )


def phases_table(phases: Sequence[Phase], idle: Idle) -> str:
    """One column a phase. What the service does anyhow is taken off the transactions and the messages."""
    names = list(phases[0].cpu_seconds)
    rows = [
        ("", *(phase.name for phase in phases)),
        ("jobs", *(f"{phase.load.jobs:,}" for phase in phases)),
        ("jobs/s", *(f"{jobs_a_second(phase):,.0f}" for phase in phases)),
        ("registration p50 / p99, ms", *(percentiles(phase.load.registration_seconds) for phase in phases)),
        ("end to end p50 / p99, ms", *(percentiles(phase.load.end_to_end_seconds) for phase in phases)),
        ("CPU ms a job", *(f"{a_job(phase, sum(phase.cpu_seconds.values()) * 1_000):.2f}" for phase in phases)),
        *(
            (f"- {name}", *(f"{a_job(phase, phase.cpu_seconds[name] * 1_000):.2f}" for phase in phases))
            for name in names
        ),
        ("PostgreSQL transactions a job", *(f"{a_job(phase, transactions(phase, idle)):.2f}" for phase in phases)),
        ("Celery messages a job", *(f"{a_job(phase, messages(phase, idle)):.2f}" for phase in phases)),
        ("memory (PSS), MB", *(megabytes(phase.memory_bytes.values()) for phase in phases)),
        ("webhooks posted again", *(str(phase.load.turned_away) for phase in phases)),
        ("duplicate submits", *(str(phase.load.duplicate_submits) for phase in phases)),
        ("incomplete jobs", *(str(phase.load.incomplete) for phase in phases)),
    ]
    return table(rows)


def idle_table(idle: Idle) -> str:
    minutes, seconds = idle.counts.at / 60, idle.counts.at
    return table(
        [
            (f"idle, {seconds:.0f} s", *idle.cpu_seconds, "all"),
            (
                "CPU %",
                *(f"{used / seconds * 100:.2f}" for used in idle.cpu_seconds.values()),
                f"{sum(idle.cpu_seconds.values()) / seconds * 100:.2f}",
            ),
            (
                "memory (PSS), MB",
                *(megabytes([used]) for used in idle.memory_bytes.values()),
                megabytes(idle.memory_bytes.values()),
            ),
            ("transactions a minute", *("" for _ in idle.cpu_seconds), f"{idle.counts.transactions / minutes:.0f}"),
            ("messages a minute", *("" for _ in idle.cpu_seconds), f"{idle.counts.messages / minutes:.0f}"),
        ]
    )


def jobs_a_second(phase: Phase) -> float:
    return len(phase.load.acknowledged) / (phase.load.ended - phase.load.started)


def a_job(phase: Phase, amount: float) -> float:
    return amount / phase.load.jobs


def transactions(phase: Phase, idle: Idle) -> float:
    return phase.counts.transactions - idle.counts.transactions * phase.counts.at / idle.counts.at


def messages(phase: Phase, idle: Idle) -> float:
    return phase.counts.messages - idle.counts.messages * phase.counts.at / idle.counts.at


def percentiles(seconds: Sequence[float]) -> str:
    return f"{percentile(seconds, 0.5) * 1_000:.1f} / {percentile(seconds, 0.99) * 1_000:.1f}"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all do not exceed; not a number when there is none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def megabytes(amounts: Iterable[int]) -> str:
    return f"{sum(amounts) / 1e6:.0f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines)
