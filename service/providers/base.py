"""What a provider can say to a submission, and what can be heard of it afterwards."""

from dataclasses import dataclass

from service.jobs.facts import Ending, Evidence


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
class Rejected:
    """The provider will never take this job: the model's own 4xx, which is the job's end."""

    ending: Ending
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Unknown:
    """The answer was lost on the way; the provider may have the job."""

    reason: str
    http_status: int | None = None


SubmitAnswer = Accepted | Refused | Rejected | Unknown


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
