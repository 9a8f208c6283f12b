"""What clients send and get, as types: requests are Pydantic models, replies are msgspec structs.

`/openapi.json` is made from both.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service.catalog.text import is_storable

LONGEST_DEADLINE_SECONDS = 30 * 86_400


def _storable(value: str) -> str:
    if not is_storable(value):
        raise ValueError("Text may hold neither NUL nor lone surrogates")
    return value


Text = Annotated[str, AfterValidator(_storable)]
Tag = Annotated[Text, Field(min_length=1, max_length=128)]


class JobRequest(BaseModel):
    """A job to be registered."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    model: Annotated[Text, Field(min_length=1, max_length=200, description="The model's ID.")]
    input: Annotated[dict[str, Any], Field(description="The model's input, sent on as it is.")]
    webhook_url: Annotated[Text | None, Field(max_length=2_048, description="Where the end is to be told.")] = None
    provider: Annotated[Literal["auto", "fal"], Field(description="Who is to run it.")] = "auto"
    priority: Literal["normal", "low"] = "normal"
    deadline_seconds: Annotated[float | None, Field(gt=0, le=LONGEST_DEADLINE_SECONDS)] = None
    metadata: Annotated[dict[str, Any], Field(max_length=64, description="Yours; asked for by metadata.KEY.")] = {}
    tags: Annotated[list[Tag], Field(max_length=64)] = []


class RedeliveryRequest(BaseModel):
    """Callbacks to be told once more: of jobs that ended in that time, and in that state only, if one is named."""

    model_config = ConfigDict(strict=True, extra="forbid")

    since: Annotated[datetime, Field(strict=False)]
    until: Annotated[datetime | None, Field(strict=False)] = None
    state: Literal["pending", "delivered", "gone", "given_up"] | None = None


class Mask(msgspec.Struct):
    """A mask of an output. `url` is the provider's, and `sha256` null, until its copy is stored."""

    index: int
    label: str | None
    url: str
    content_type: str | None
    file_name: str | None
    width: int | None
    height: int | None
    file_size: int | None
    sha256: str | None
    area_fraction: float | None
    bbox: list[int] | None


class Image(msgspec.Struct):
    """An image of an output. `url` is the provider's, and `sha256` null, until its copy is stored."""

    index: int
    url: str
    content_type: str | None
    file_name: str | None
    width: int | None
    height: int | None
    file_size: int | None
    sha256: str | None


class Timings(msgspec.Struct):
    """Seconds. `model` holds the model's own figures under its own names."""

    queued_seconds: float | None
    submit_seconds: float | None
    provider_seconds: float | None
    webhook_seconds: float | None
    total_seconds: float | None
    model: dict[str, float]


class JobError(msgspec.Struct):
    """Why a job failed or was cancelled."""

    message: str
    type: str | None
    status: int


class Links(msgspec.Struct):
    self: str
    result: str
    masks: str
    images: str
    timings: str
    attempts: str
    events: str
    cancel: str
    retry: str
    stream: str
    evidence: str
    callback: str | None


class JobSummary(msgspec.Struct):
    """A job in a list: all but its input and its output."""

    request_id: str
    model: str
    status: Literal["queued", "submitted", "in_progress", "completed", "failed", "cancelled"]
    provider: str
    provider_request_id: str | None
    priority: str
    tags: list[str]
    metadata: dict[str, Any]
    webhook_url: str | None
    attempt: int
    resubmissions: int
    retry_of: str | None
    retried_as: str | None
    created_at: datetime
    submitted_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    deadline_at: datetime | None
    cancel_requested_at: datetime | None
    queue_position: int | None
    error: JobError | None
    masks: list[Mask]
    images: list[Image]
    seed: int | None
    usage: dict[str, float]
    timings: Timings
    links: Links


class Job(JobSummary):
    """A job, whole. `output` is what the model gave, with the addresses of the stored copies."""

    input: dict[str, Any]
    output: Any = None


class JobPage(msgspec.Struct):
    """Newest first. `next_cursor` is null on the last page."""

    jobs: list[JobSummary]
    next_cursor: str | None


class Attempt(msgspec.Struct):
    """One submission of the job to one provider."""

    number: int
    provider: str
    state: str
    provider_request_id: str | None
    gateway_request_id: str | None
    claimed_at: datetime
    answered_at: datetime | None
    ended_at: datetime | None
    http_status: int | None
    error: str | None


class Event(msgspec.Struct):
    """One change of a job. `id` grows with time."""

    id: int
    at: datetime
    event: str
    status: str
    attempt: int
    note: str | None


class Report(msgspec.Struct):
    """A piece of news of a job: how it came, what was made of it, and its bytes' length and SHA-256.

    Polls that bring the same words one after another are one piece, with `times` and `last_received_at`.
    """

    id: int
    attempt: int
    source: Literal["submit", "webhook", "status", "result", "cancel"]
    received_at: datetime
    verdict: str
    times: int
    last_received_at: datetime | None
    http_status: int | None
    headers: dict[str, Any]
    size: int
    sha256: str
    url: str


class CallbackTry(msgspec.Struct):
    """One POST to the client's address. `seconds` is null when nobody knows what came of it."""

    number: int
    at: datetime
    seconds: float | None
    http_status: int | None
    error: str | None


class Callback(msgspec.Struct):
    """What the client was told of the end. `held_until`: its receiver fails, and nothing is sent there until then."""

    url: str
    state: Literal["waiting", "pending", "delivered", "gone", "given_up"]
    format: Literal["fal", "standard"] | None
    next_try_at: datetime | None
    held_until: datetime | None
    ended_at: datetime | None
    tries: list[CallbackTry]


class Redelivery(msgspec.Struct):
    """How many callbacks are told once more."""

    callbacks: int


class Provider(msgspec.Struct):
    """A provider. A paused one gets no jobs; while it is not paused by hand, one job at a time tries again."""

    name: str
    state: Literal["open", "paused"]
    reason: str | None
    http_status: int | None
    paused_at: datetime | None
    next_try_at: datetime | None


class ModelCard(msgspec.Struct):
    """A model of the catalogue; the schemas are null for one that an operator registered by ID alone."""

    id: str
    title: str
    input_schema: dict[str, Any] | None
    output_schema: dict[str, Any] | None
    example: dict[str, Any]


class Problem(msgspec.Struct):
    """Every error. `detail` is text, or fal's list of {loc, msg, type}."""

    detail: Any
    error_type: str
    message: str
