"""The figures as Markdown."""

import os
import platform
import statistics
from collections import Counter
from collections.abc import Sequence

from faults.history import Json
from faults.processes import SANDBOX_SETTINGS, SETTINGS
from faults.run import Run


def header(run: Run) -> str:
    settings = " ".join(f"{name}={value}" for name, value in (SETTINGS | SANDBOX_SETTINGS).items())
    return (
        f"Seed {run.seed}: {run.size.jobs:,} jobs in {run.size.seconds:.0f} s; {os.cpu_count()} cores, "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}.\n"
        f"Other than the defaults: {settings}"
    )


def promises(run: Run) -> str:
    rows = [("promise", "broken", "of", "")]
    rows += [(each.promise, f"{each.count:,}", f"{each.total:,}", each.note) for each in run.findings]
    return table(rows)


def suffered(run: Run) -> str:
    """What really happened, which the schedule only planned."""
    happened = [fault for fault in run.history.of("fault") if fault["phase"] in {"done", "began"}]
    rows = [("fault", "times", "")]
    for kind, words in NAMES.items():
        some = [fault for fault in happened if fault["kind"] == kind]
        counts = Counter(f"{fault['target']} {fault['detail']}".strip() for fault in some)
        if kind == "wire":
            counts = Counter(fault["detail"] for fault in some)
        rows.append((words, str(len(some)), ", ".join(f"{times} {what}" for what, times in sorted(counts.items()))))
    rows.append(("how the disk was filled", "", run.disk))
    return table(rows)


NAMES = {
    "kill": "SIGKILL",
    "stop": "SIGSTOP, then SIGCONT",
    "flush": "broker emptied",
    "wire": "edges in trouble",
    "disk": "disk full",
    "clock": "clock off, s",
}


def load(run: Run) -> str:
    tries, reads = run.history.of("register"), run.history.of("read")
    unknown = [each for each in tries if each["job"] is None]
    ends = Counter(row["status"] for row in run.evidence.rows["outcomes"])
    verdicts = Counter(row["verdict"] for row in run.evidence.rows["reports"])
    rows = [
        ("load", ""),
        ("registrations sent, of which without a good answer", f"{len(tries):,}, {len(unknown):,}"),
        ("reads", f"{len(reads):,}"),
        ("ends", listed(ends)),
        ("verdicts on what the provider said", listed(verdicts)),
        ("from creation to end p50 / p99, s", spans(run)),
        ("last job's end after the last fault, s", f"{run.settled:.1f}"),
    ]
    return table(rows)


def spans(run: Run) -> str:
    ended = {row["job_id"]: row["completed_at"] for row in run.evidence.rows["outcomes"]}
    seconds = [ended[job["id"]] - job["created_at"] for job in run.evidence.rows["jobs"] if job["id"] in ended]
    if len(seconds) < 2:
        return "no jobs"
    cuts = statistics.quantiles(seconds, n=100)
    return f"{cuts[49]:.1f} / {cuts[98]:.1f}"


def examples(run: Run) -> str:
    return "\n".join(f"  {each.promise}: {example}" for each in run.red for example in each.examples)


def listed(counts: Counter[Json] | Counter[str]) -> str:
    return ", ".join(f"{times:,} {what}" for what, times in counts.most_common())


def table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines)
