"""What was said to the service of one job, and what the service answered: the other side of every check."""

from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID

from service.jobs.facts import NewJob

Said = tuple[int, str, int, bytes]


@dataclass
class Account:
    """Of one job. Whatever the service tells is entered here when it tells it, whatever is told to it before."""

    job: NewJob
    said: set[Said] = field(default_factory=set)
    """Ends that were really said for an attempt, under its own name: attempt, status, HTTP status, body."""
    asked: Counter[int] = field(default_factory=Counter)
    """Attempts with which the provider was called."""
    stopped: set[int] = field(default_factory=set)
    """Attempts that the provider was asked to stop."""
    applied: int = 0
    """How often somebody was told that what he brought was the job's end."""
    cancels: int = 0
    """Cancels that were answered with yes."""
    forced: int = 0
    """Forced ends, each of which asks for a cancel first."""
    aged: bool = False
    """Whether it was given a deadline because it was there too long."""
    webhooks: int = 0
    """Webhooks that were answered with 200, of which each is kept."""
    lost: bool = False
    """Whether the provider has said that it does not know the request."""
    refused: bool = False
    """Whether the provider has refused the job."""
    fails_in_doubt: bool = False
    """Whether its tenant wants no second submission of what is in doubt."""
    retried_as: UUID | None = None

    @property
    def id(self) -> UUID:
        return self.job.id
