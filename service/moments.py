"""Moments that people name."""

from datetime import UTC, datetime


def in_utc(moment: datetime) -> datetime:
    """Without a zone, it is UTC. Raises OverflowError for one that no calendar of ours has there."""
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
