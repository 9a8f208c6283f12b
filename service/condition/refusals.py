"""Webhooks that were refused, counted by the minute and the cause.

Whoever can reach the address can send a million of them, so a refused webhook costs a number in memory; what is written
is one small row for each minute and cause, at most every ten seconds. What a process counted since then is lost when it
is killed.
"""

from collections import Counter

from service.db import Database, DatabaseAway

FLUSH_SECONDS = 10.0
KEPT_DAYS = 30

_ADD = """
INSERT INTO refused_webhooks (minute, reason, times)
SELECT date_trunc('minute', now()), * FROM unnest($1::text[], $2::int8[])
ON CONFLICT (minute, reason) DO UPDATE SET times = refused_webhooks.times + excluded.times
"""


class Refusals:
    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, reason: str) -> None:
        """`reason` is one of a few words of our own."""
        self._counts[reason] += 1

    async def flush(self, db: Database) -> None:
        """Costs nothing where there were none. Raises DatabaseAway, and nothing is lost by that."""
        counts, self._counts = self._counts, Counter()
        if not counts:
            return
        reasons = sorted(counts)
        try:
            await db.execute(_ADD, reasons, [counts[reason] for reason in reasons])
        except DatabaseAway:
            # It may have been written all the same; too many are better than too few.
            self._counts.update(counts)
            raise


async def tidy(db: Database) -> None:
    await db.execute("DELETE FROM refused_webhooks WHERE minute < now() - make_interval(days => $1)", KEPT_DAYS)
