"""What a provider is: who takes jobs, what it can say to a submission, and what can be heard of it afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol
from uuid import UUID

from service.jobs.facts import Ending, Evidence
from service.jobs.lifecycle import Verdict


@dataclass(frozen=True, slots=True)
class Offer:
    """An attempt of a job that a provider may take. `input` is JSON text; `headers` are for one that has such."""

    job_id: UUID
    attempt: int
    model: str
    input: str
    webhook_url: str
    priority: str = "normal"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taken:
    """An attempt that a provider has, with the addresses that it gave."""

    job_id: UUID
    attempt: int
    model: str
    request_id: str
    status_url: str | None = None
    response_url: str | None = None
    cancel_url: str | None = None


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


@dataclass(frozen=True, slots=True)
class Stuck:
    """It will not be run there. It may go to another provider; if it may not, this is its end, if there is one."""

    reason: str
    ending: Ending | None = None
    evidence: Evidence | None = None


Observation = Waiting | Running | Ended | Missing | Silent | Stuck


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


class Provider(Protocol):
    """Who takes jobs: a queue that speaks fal's protocol, or workers of one's own."""

    @property
    def name(self) -> str: ...

    @property
    def reads_inputs(self) -> bool:
        """Whether an offer has to bring the input with its files in it; else they are had from us later."""

    def name_of(self, job_id: UUID, attempt: int) -> str | None:
        """The request ID of an attempt, where it is known without an answer."""

    async def submit(self, offer: Offer) -> SubmitAnswer: ...

    async def look(self, taken: Taken) -> Look: ...

    async def cancel(self, taken: Taken) -> CancelReply: ...
