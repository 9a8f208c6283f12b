"""What a provider can say to a submission, and what can be heard of it afterwards."""

from dataclasses import dataclass
from typing import Literal

from service.jobs.facts import Ending, Evidence
from service.jobs.lifecycle import Verdict


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider has the job and calls it `request_id`."""

    request_id: str
    gateway_request_id: str | None = None
    response_url: str | None = None
    status_url: str | None = None
    cancel_url: str | None = None
    queue_position: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider did not take the job, for sure; it may be offered again after `retry_after` seconds."""

    reason: str
    http_status: int | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Blocked:
    """The provider takes nothing from this account: its key is bad, or its balance is used up."""

    reason: str
    http_status: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """The provider will never take this job: the model's own 4xx, which is the job's end."""

    ending: Ending
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Unknown:
    """The answer was lost on the way, or proves nothing; the provider may have the job."""

    reason: str
    http_status: int | None = None
    evidence: Evidence | None = None


SubmitAnswer = Accepted | Refused | Blocked | Rejected | Unknown


@dataclass(frozen=True, slots=True)
class Waiting:
    """It stands in the provider's queue."""

    queue_position: int | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """It is being worked on."""


@dataclass(frozen=True, slots=True)
class Ended:
    """It is over, and this is how."""

    ending: Ending
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Missing:
    """The provider says that it knows no such request."""

    http_status: int


@dataclass(frozen=True, slots=True)
class Silent:
    """Nothing could be learned; ask again later."""

    reason: str


Observation = Waiting | Running | Ended | Missing | Silent


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen, and all that was heard on the way to it, but for the evidence of an end itself."""

    seen: Observation
    heard: tuple[tuple[Evidence, Verdict], ...] = ()


CancelAnswer = Literal["removed", "asked", "over", "missing"]


@dataclass(frozen=True, slots=True)
class CancelReply:
    """What the provider says to a cancel; `answer` is None when it cannot be understood."""

    answer: CancelAnswer | None
    evidence: Evidence | None = None
