"""What is wrong now, ranked, in words, each with the place where something can be done about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request

from service.condition.findings import Finding, Severity, Surroundings
from service.condition.looking import condition_of
from service.context import Context
from service.dashboard.addresses import changed
from service.dashboard.figures import seconds
from service.dashboard.scope import TENANT, Scope

# All checks together; each has a limit of its own.
LIMIT_SECONDS = 4.0

# Where something can be done about it, by the beginning of the finding's kind.
PLACES = (
    ("failing_receiver", "/dashboard/webhooks/out", "Receivers"),
    ("late_callbacks", "/dashboard/webhooks/out?state=pending", "Callbacks"),
    ("held_up_action", "/dashboard/bulk", "Bulk actions"),
    ("no_", "/dashboard/system", "Processes"),
    ("lost_worker", "/dashboard/system", "Processes"),
    ("lost_beat", "/dashboard/system", "Processes"),
    ("broker_away", "/dashboard/system", "System"),
    ("old_transaction", "/dashboard/system", "Database"),
    ("wraparound", "/dashboard/system", "Database"),
    ("connections", "/dashboard/system", "Database"),
    ("dead_rows", "/dashboard/system", "Tables"),
)


@dataclass(frozen=True, slots=True)
class Trouble:
    severity: Severity
    words: str
    advice: str
    link: str | None
    link_words: str
    since: str | None


async def found_troubles(request: Request, scope: Scope) -> Mapping[str, Any]:
    context: Context = request.state.context
    around = Surroundings(context.db, scope.tenant_id, context.settings.public_url, context.nudger.is_away)
    found = await condition_of(around)
    return {"troubles": [_told(each, scope) for each in found.findings], "unknown": found.unknown}


def _told(finding: Finding, scope: Scope) -> Trouble:
    link, words = _place(finding, scope)
    lasted = (datetime.now(UTC) - finding.since).total_seconds() if finding.since else None
    since = f"for {seconds(lasted)}" if lasted is not None and lasted > 1 else None
    return Trouble(finding.severity, finding.words, finding.advice, link, words, since)


def _place(finding: Finding, scope: Scope) -> tuple[str | None, str]:
    carried = [(TENANT, scope.tenant)] if scope.tenant else []
    if finding.filter:
        return changed("/dashboard/jobs", [*carried, *finding.filter.items()]), "The jobs"
    for beginning, address, words in PLACES:
        if finding.kind.startswith(beginning):
            path, _, query = address.partition("?")
            return changed(path, [*carried, *parse_qsl(query)]), words
    return None, ""
