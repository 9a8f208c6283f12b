"""What may be wrong with what comes in and goes out: providers, webhooks, callbacks, files, actions on many jobs."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from service.bulk.lifecycle import UNDER_WAY
from service.callbacks.lifecycle import CallbackState
from service.callbacks.records import FAILURES
from service.condition.findings import LOOKED_THROUGH, MOST_COUNTED, Finding, Severity, Surroundings, agrees, number
from service.jobs.cursors import first_id
from service.jobs.lifecycle import Duty
from service.jobs.pauses import pauses

_WAITING = f"""
SELECT count(*) FROM (
    SELECT FROM live_jobs
    WHERE duty = '{Duty.SUBMIT}' AND provider = $2 AND due_at <= now() AND ($1::uuid IS NULL OR tenant_id = $1)
    LIMIT {MOST_COUNTED + 1}
) AS due
"""


async def paused_providers(around: Surroundings) -> Sequence[Finding]:
    """What the provider said of the account is for administrators."""
    findings = []
    for row in await pauses(around.db):
        waiting = await around.db.fetchrow(_WAITING, around.tenant_id, row["provider"])
        count = int(waiting["count"]) if waiting else 0
        by_hand = row["probe_at"] is None
        why = f": {row['reason']}" if around.tenant_id is None else "."
        advice = f"When it is mended, `roundtrip providers resume {row['provider']}`"
        advice += "." if by_hand else ", or wait: one job tries again every half minute."
        findings.append(
            Finding(
                "paused_provider",
                Severity.WARNING if by_hand else Severity.CRITICAL,
                f"The provider {row['provider']} gets no jobs{', as an operator wants it' if by_hand else ''}, and"
                f" {number(count, 'job')} {agrees(count, 'waits', 'wait')}{why}",
                advice,
                row["paused_at"],
                min(count, MOST_COUNTED),
                count <= MOST_COUNTED,
                {"status": "queued", "provider": row["provider"]},
            )
        )
    return findings


# What a refusal may be for, and whether anybody but our provider could have caused it.
REASONS = {
    "headers": "without the provider's headers",
    "stale": "signed more than five minutes ago, or in the future",
    "address": "at an address that was not made here",
    "account": "signed for another account",
    "signature": "with a signature that no key of the provider made",
    "keys_away": "while the provider's keys could not be had",
}
_NOISE = {"headers", "address"}
_ADVICE = {
    "stale": "Compare this machine's clock with the provider's.",
    "account": "Compare ROUNDTRIP_FAL_USER_ID with the account that the jobs are submitted with.",
    "keys_away": "See whether ROUNDTRIP_FAL_JWKS_URL can be reached from here.",
    "signature": "Somebody forges them, or the keys of ROUNDTRIP_FAL_JWKS_URL are not those that sign.",
}
# Whoever can reach the address can send a million of them.
_NOT_KEPT = (
    "They are counted, not believed and not kept, so no page lists them; who sent them may stand in the log of the"
    " proxy in front."
)


async def refused_webhooks(around: Surroundings) -> Sequence[Finding]:
    """Of the last hour. For administrators: what is refused is nobody's."""
    if around.tenant_id is not None:
        return []
    rows = await around.db.fetch(
        "SELECT reason, sum(times)::int8 AS times, min(minute) AS since FROM refused_webhooks"
        " WHERE minute > now() - interval '1 hour' GROUP BY reason ORDER BY times DESC, reason"
    )
    if not rows:
        return []
    told = ", ".join(f"{row['times']:,} {REASONS.get(row['reason'], row['reason'])}" for row in rows)
    total = sum(int(row["times"]) for row in rows)
    serious = [row["reason"] for row in rows if row["reason"] not in _NOISE]
    advice = " ".join(_ADVICE[reason] for reason in serious if reason in _ADVICE)
    return [
        Finding(
            "refused_webhooks",
            Severity.WARNING if serious else Severity.NOTICE,
            f"{total:,} {agrees(total, 'webhook was', 'webhooks were')} refused within the hour: {told}.",
            f"{advice or 'Nothing: whoever finds the address can send such.'} {_NOT_KEPT}",
            min(row["since"] for row in rows),
            total,
        )
    ]


SHOWN_RECEIVERS = 5
_FAILING = f"""
WITH failing AS MATERIALIZED (
    SELECT * FROM (SELECT * FROM receivers WHERE $1::uuid IS NULL OR tenant_id = $1 LIMIT {LOOKED_THROUGH}) AS known
    WHERE open_until > now() OR failures >= {FAILURES}
)
SELECT tenants.name AS tenant, receiver, failures, open_until, (SELECT count(*) FROM failing) AS receivers,
       (SELECT count(*) FROM (
           SELECT FROM callbacks WHERE callbacks.state = '{CallbackState.PENDING}'
             AND callbacks.tenant_id = failing.tenant_id AND callbacks.receiver = failing.receiver
           LIMIT {MOST_COUNTED + 1}) AS pending) AS pending,
       (SELECT min(begun_at) FROM (
           SELECT begun_at FROM callbacks WHERE callbacks.state = '{CallbackState.PENDING}'
             AND callbacks.tenant_id = failing.tenant_id AND callbacks.receiver = failing.receiver
           ORDER BY due_at LIMIT 100) AS pending) AS since
FROM failing JOIN tenants ON tenants.id = failing.tenant_id
ORDER BY failures DESC, receiver LIMIT {SHOWN_RECEIVERS}
"""


async def failing_receivers(around: Surroundings) -> Sequence[Finding]:
    """Each of the worst, and how many more there are."""
    rows = await around.db.fetch(_FAILING, around.tenant_id)
    findings = []
    for row in rows:
        whose = f" of {row['tenant']}" if around.tenant_id is None else ""
        pending, failures = int(row["pending"]), int(row["failures"])
        held = f"; nothing is sent there until {row['open_until']:%H:%M:%S} UTC" if row["open_until"] else ""
        findings.append(
            Finding(
                "failing_receiver",
                Severity.WARNING,
                f"The receiver {row['receiver']}{whose} failed {failures:,} {agrees(failures, 'time', 'times')}"
                f" in a row{held}, and {number(pending, 'callback')} {agrees(pending, 'waits', 'wait')}.",
                "Its owner has to mend it. What was not delivered within two days is given up, and can be told once"
                " more: `roundtrip callbacks redeliver --since`.",
                row["since"],
                min(pending, MOST_COUNTED),
                pending <= MOST_COUNTED,
            )
        )
    if rows and (more := int(rows[0]["receivers"]) - len(rows)) > 0:
        words = f"{number(more, 'more receiver')} {agrees(more, 'fails', 'fail')}."
        findings.append(Finding("failing_receivers", Severity.WARNING, words, "See under Webhooks.", count=more))
    return findings


LATE_SECONDS = 120.0
_LATE = f"""
WITH late AS MATERIALIZED (
    SELECT tenant_id, receiver, due_at FROM callbacks
    WHERE state = '{CallbackState.PENDING}' AND due_at < now() - make_interval(secs => {LATE_SECONDS})
    ORDER BY due_at LIMIT {LOOKED_THROUGH}
)
SELECT count(*) AS callbacks, min(due_at) AS since, (SELECT count(*) FROM late) AS looked FROM late
LEFT JOIN receivers USING (tenant_id, receiver)
WHERE receivers.open_until IS NULL AND ($1::uuid IS NULL OR late.tenant_id = $1)
"""


async def late_callbacks(around: Surroundings) -> Sequence[Finding]:
    """Due, to a receiver that nothing is said against, and not sent."""
    row = await around.db.fetchrow(_LATE, around.tenant_id)
    if row is None or not row["callbacks"]:
        return []
    count = int(row["callbacks"])
    return [
        Finding(
            "late_callbacks",
            Severity.CRITICAL,
            f"{number(count, 'callback')} {agrees(count, 'is', 'are')} due and not sent.",
            "See under System whether a worker is at work; if one is, its receivers may be more than it can serve.",
            row["since"],
            min(count, MOST_COUNTED),
            count <= MOST_COUNTED and row["looked"] < LOOKED_THROUGH,
        )
    ]


TRIES = 3
_UNCOPIED = f"""
WITH owed AS MATERIALIZED (
    SELECT job_id, tries FROM copies LIMIT {LOOKED_THROUGH}
), failed AS MATERIALIZED (
    SELECT job_id, kind, index, tenant_id FROM artifacts
    WHERE sha256 IS NULL AND copy_error IS NOT NULL AND removed_at IS NULL AND job_id >= $2
    ORDER BY job_id DESC LIMIT {MOST_COUNTED + 1}
), lost AS MATERIALIZED (
    SELECT job_id, completed_at FROM failed JOIN outcomes USING (job_id)
    WHERE ($1::uuid IS NULL OR failed.tenant_id = $1)
      AND NOT EXISTS (SELECT FROM copies WHERE copies.job_id = failed.job_id AND copies.kind = failed.kind
                      AND copies.index = failed.index)
)
SELECT (SELECT count(*) FROM owed JOIN jobs ON jobs.id = owed.job_id
        WHERE tries >= {TRIES} AND ($1::uuid IS NULL OR jobs.tenant_id = $1)) AS tried,
       (SELECT min(completed_at) FROM owed JOIN outcomes USING (job_id)
        WHERE tries >= {TRIES} AND ($1::uuid IS NULL OR tenant_id = $1)) AS since,
       (SELECT count(*) FROM lost) AS given_up, (SELECT min(completed_at) FROM lost) AS lost_since,
       (SELECT job_id FROM lost ORDER BY job_id DESC LIMIT 1) AS loser,
       (SELECT count(*) FROM owed) AS looked
"""


async def uncopied_files(around: Surroundings) -> Sequence[Finding]:
    """Files whose copy fails again and again, and those of the last day that were given up."""
    a_day_ago = datetime.now(UTC) - timedelta(days=1)
    row = await around.db.fetchrow(_UNCOPIED, around.tenant_id, first_id(a_day_ago))
    assert row is not None
    findings = []
    if tried := int(row["tried"]):
        findings.append(
            Finding(
                "uncopied_files",
                Severity.WARNING,
                f"{number(tried, 'file')} could not be copied in {TRIES} tries or more, and"
                f" {agrees(tried, 'is', 'are')} tried again until {agrees(tried, 'its', 'their')} link ends.",
                "The job says why. If it is the store, look at ROUNDTRIP_ARTIFACTS_URL.",
                row["since"],
                min(tried, MOST_COUNTED),
                tried <= MOST_COUNTED and row["looked"] < LOOKED_THROUGH,
            )
        )
    if given_up := int(row["given_up"]):
        findings.append(
            Finding(
                "lost_files",
                Severity.WARNING,
                f"{number(given_up, 'file')} of the last day's jobs could not be copied, and"
                f" {agrees(given_up, 'was', 'were')} given up, the last of them of job {row['loser']}.",
                f"`roundtrip files copy-again --since {row['lost_since']:%FT%TZ}` tries those once more whose links may"
                " still live; else the same input can be registered again.",
                row["lost_since"],
                min(given_up, MOST_COUNTED),
                given_up <= MOST_COUNTED,
            )
        )
    return findings


_HELD_UP = f"""
SELECT id, action, error, created_at FROM bulk_actions
WHERE state IN ({", ".join(repr(state.value) for state in UNDER_WAY)}) AND error IS NOT NULL
  AND ($1::uuid IS NULL OR tenant_id = $1 AND of_tenant = $1)
ORDER BY id LIMIT 10
"""


async def held_up_actions(around: Surroundings) -> Sequence[Finding]:
    rows = await around.db.fetch(_HELD_UP, around.tenant_id)
    return [
        Finding(
            "held_up_action",
            Severity.WARNING,
            f"The {row['action']} of many jobs {row['id']} does not go on: {row['error']}",
            "It is tried again; abort it, and ask for less, if it stays so.",
            row["created_at"],
        )
        for row in rows
    ]
