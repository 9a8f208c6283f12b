"""What is known of a job on its way, as plain values that the rooms hand to each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from service.jobs.lifecycle import AttemptState, Duty, Event, OnDoubt, Source, Status


@dataclass(frozen=True, slots=True)
class NewJob:
    """`input` is JSON text; `metadata` and `hints` are a JSON object's text.

    `provider` gets it first, for `reason` if somebody chose; `fallback` may get it after that, at the latest when it
    has waited for `spill_seconds`. `asked_provider` is the one that the client named. Where files of the input are kept
    apart, `input_sha256` and `input_size` are those of the text as it came.
    """

    id: UUID
    tenant_id: UUID
    model: str
    input: str
    provider: str = "fal"
    asked_provider: str | None = None
    priority: str = "normal"
    webhook_url: str | None = None
    deadline_seconds: float | None = None
    metadata: str = "{}"
    tags: Sequence[str] = ()
    retry_of: UUID | None = None
    callback_format: str | None = None
    hints: str = "{}"
    fallback: str | None = None
    spill_seconds: float | None = None
    reason: str | None = None
    input_sha256: str | None = None
    input_size: int | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A job to be submitted now, as this attempt. `input` is JSON text.

    `refused_seconds` is how long it has been put off for refusals, `waited` the seconds since it was made; `probe`
    that its provider is paused and this job tries whether it still has to be. `hints` is a JSON object's text, of
    headers that go on to the provider.
    """

    job_id: UUID
    attempt: int
    model: str
    input: str
    priority: str
    refused_seconds: float
    probe: bool = False
    hints: str = "{}"
    waited: float = 0.0
    fallback: str | None = None
    spill_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one submission, and what is owed next after `delay` seconds."""

    job_id: UUID
    attempt: int
    state: AttemptState
    duty: Duty
    delay: float
    provider_request_id: str | None = None
    gateway_request_id: str | None = None
    response_url: str | None = None
    status_url: str | None = None
    cancel_url: str | None = None
    queue_position: int | None = None
    http_status: int | None = None
    error: str | None = None
    turn: str | None = None
    """Why the other provider is to get it next, if it is."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ends: `body` is the model's own JSON text, `http_status` the one it came with."""

    event: Event
    http_status: int
    body: bytes
    error: str | None = None
    error_type: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was heard, to the byte. `headers` is a JSON object's text, `age` seconds since it arrived."""

    source: Source
    body: bytes
    headers: str = "{}"
    http_status: int | None = None
    request_id: str | None = None
    gateway_request_id: str | None = None
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class Due:
    """A live job whose time has come, with the attempt that is under way."""

    job_id: UUID
    attempt: int
    model: str
    duty: Duty
    status: Status
    past_deadline: bool
    past_start: bool
    cancel_requested: bool
    provider_request_id: str | None
    response_url: str | None
    status_url: str | None
    cancel_url: str | None
    since_claim: float
    resubmissions: int
    on_doubt: OnDoubt
    provider: str
    fallback: str | None
    spill_seconds: float | None
