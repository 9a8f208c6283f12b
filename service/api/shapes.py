"""What clients send and get, as types: requests are Pydantic models, replies are msgspec structs.

`/openapi.json` is made from both.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service.catalog.text import is_storable
from service.moments import in_utc

LONGEST_DEADLINE_SECONDS = 30 * 86_400
LONGEST_SHARE_SECONDS = 7 * 86_400


def _storable(value: str) -> str:
    if not is_storable(value):
        raise ValueError("Text may hold neither NUL nor lone surrogates")
    return value


STORABLE = AfterValidator(_storable)
# A bound stands before it, or it would be one of whatever comes out of it, and told of as such.
Text = Annotated[str, STORABLE]
Tag = Annotated[str, Field(min_length=1, max_length=128), STORABLE]
Address = Annotated[str, Field(max_length=2_048), STORABLE]


class JobRequest(BaseModel):
    """A job to be registered."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=200, description="The model's ID."), STORABLE]
    input: Annotated[dict[str, Any], Field(description="The model's input, sent on as it is.")]
    webhook_url: Annotated[Address | None, Field(description="Where the end is to be told.")] = None
    provider: Annotated[Literal["auto", "fal", "gpu"], Field(description="Who is to run it.")] = "auto"
    priority: Literal["normal", "low"] = "normal"
    deadline_seconds: Annotated[float | None, Field(gt=0, le=LONGEST_DEADLINE_SECONDS)] = None
    metadata: Annotated[dict[str, Any], Field(max_length=64, description="Yours; asked for by metadata.KEY.")] = {}
    tags: Annotated[list[Tag], Field(max_length=64)] = []


def _in_utc(moment: datetime) -> datetime:
    try:
        return in_utc(moment)
    except OverflowError:
        raise ValueError("is before or after all times") from None


NamedMoment = Annotated[datetime, Field(strict=False), AfterValidator(_in_utc)]


class RedeliveryRequest(BaseModel):
    """Callbacks to be told once more: of jobs that ended in that time, and in that state only, if one is named."""

    model_config = ConfigDict(strict=True, extra="forbid")

    since: NamedMoment
    until: NamedMoment | None = None
    state: Literal["pending", "delivered", "gone", "given_up"] | None = None


Term = Text | float | bool


class BulkRequest(BaseModel):
    """An action on all jobs that a filter means. `filter` has the names and words of the filters of GET /v1/jobs."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    action: Literal["retry", "cancel"]
    filter: Annotated[
        dict[Text, Term | Annotated[list[Term], Field(max_length=100)]],
        Field(min_length=1, max_length=64, description="At least one; a list is several of the same name."),
    ]
    tenant: Annotated[
        Annotated[str, Field(min_length=1, max_length=200), STORABLE] | None,
        Field(description="For administrators: another's jobs, or everybody's (*)."),
    ] = None


class MaskLinks(msgspec.Struct):
    """The mask itself, and what is made of it: PNG, and for `rle` and `polygons` JSON. They need the key."""

    png: str
    cutout: str
    overlay: str
    rle: str
    polygons: str


class Mask(msgspec.Struct):
    """A mask of an output. `url` is the provider's, and `sha256` null, until its copy is stored; null, if removed.

    `copy_error` says why there is no copy, and whether another try will be made; `remark` what is odd about one that is
    stored: it is not what it was called, or was too much to decode and is not measured. `source_url` is the provider's
    link, which ends at `source_expires_at` if that is known; null for a file that came in the output itself.
    """

    index: int
    label: str | None
    url: str | None
    content_type: str | None
    file_name: str | None
    width: int | None
    height: int | None
    file_size: int | None
    sha256: str | None
    area_fraction: float | None
    bbox: list[int] | None
    copy_error: str | None
    remark: str | None
    source_url: str | None
    source_expires_at: datetime | None
    links: MaskLinks


class Image(msgspec.Struct):
    """An image of an output. Its fields mean what those of a mask mean."""

    index: int
    url: str | None
    content_type: str | None
    file_name: str | None
    width: int | None
    height: int | None
    file_size: int | None
    sha256: str | None
    copy_error: str | None
    remark: str | None
    source_url: str | None
    source_expires_at: datetime | None


class ShareRequest(BaseModel):
    """A file, a result, or what is made of a mask, to be read without a key for some time."""

    model_config = ConfigDict(strict=True, extra="forbid")

    url: Annotated[Address, Field(description="An address that an answer of this service named.")]
    expires_in: Annotated[int, Field(ge=1, le=LONGEST_SHARE_SECONDS, description="Seconds.")] = 3_600


class Share(msgspec.Struct):
    """An address that works without a key until `expires_at`."""

    url: str
    expires_at: datetime


class Timings(msgspec.Struct):
    """Seconds; null: not over yet, or nobody knows. `model` holds the model's own figures under its own names.

    The provider's share is its queue and its run, where it told when the run began. Copies and callback come after the
    end, and are no part of the total.
    """

    queued_seconds: float | None
    submit_seconds: float | None
    provider_queue_seconds: float | None
    run_seconds: float | None
    provider_seconds: float | None
    webhook_seconds: float | None
    total_seconds: float | None
    copy_seconds: float | None
    callback_seconds: float | None
    model: dict[str, float]


class Removed(msgspec.Struct):
    """What was removed of a job: when, and hash and size in bytes where those were to stay."""

    at: datetime
    sha256: str | None
    size: int | None


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
    logs: str
    cancel: str
    retry: str
    stream: str
    evidence: str
    callback: str | None


class Progress(msgspec.Struct):
    """Tokens, steps or masks that are done, and of how many, if that is known."""

    done: int
    of: int | None


class JobSummary(msgspec.Struct):
    """A job in a list: all but its input and its output."""

    request_id: str
    model: str
    status: Literal["queued", "submitted", "in_progress", "completed", "failed", "cancelled"]
    provider: str
    provider_request_id: str | None
    provider_reason: str | None
    priority: str
    tags: list[str] | None
    metadata: dict[str, Any] | None
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
    progress: Progress | None
    error: JobError | None
    masks: list[Mask]
    images: list[Image]
    seed: int | None
    usage: dict[str, float]
    billable_units: float | None
    cost: str | None
    timings: Timings
    links: Links


class Job(JobSummary):
    """A job, whole. `output` is what the model gave, with the addresses of the stored copies.

    `cost_of_others` is what attempts are known to have cost that did not complete the job; it is not in `cost`.
    `removed` tells by part (input, result, files, evidence) what is no longer kept; a removed input is null.
    """

    input: dict[str, Any] | None
    output: Any = None
    cost_of_others: str | None = None
    held_since: datetime | None = None
    removed: dict[str, Removed] = {}


class JobPage(msgspec.Struct):
    """Newest first. `next_cursor` is null on the last page, `previous_cursor` on the first.

    A search looks at a bounded number of jobs at a time. One that found too few among them says in `searched_to` the
    time that it came to, and its cursor goes on from there: such a page may be short, or empty.
    """

    jobs: list[JobSummary]
    next_cursor: str | None
    previous_cursor: str | None
    searched_to: datetime | None


class Attempt(msgspec.Struct):
    """One submission of the job to one provider.

    `cost` is the job's if it completed the job, else that of a result that came too late; null: none is known.
    """

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
    reason: str | None
    cost: str | None


class LogLine(msgspec.Struct):
    """What a GPU worker said while it ran the job. `id` grows with time."""

    id: int
    at: datetime
    attempt: int
    run: int
    line: str


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


class BulkModel(msgspec.Struct):
    """The jobs of one model. `cost` is null when none of the model's last jobs had one."""

    model: str
    jobs: int
    cost: str | None


class BulkPreview(msgspec.Struct):
    """What an action would come to. Jobs and cost are at least that much, unless that `is_exact`.

    To those that are `skipped` nothing can be done: they were repeated before or have no input, or their end was asked
    for.

    The cost is what retries may cost, or cancels save, by what the last jobs of these models cost; null: unknown. It is
    not whole when it is unknown of some models.
    """

    action: Literal["retry", "cancel"]
    jobs: int
    skipped: int
    is_exact: bool
    cost: str | None
    cost_is_whole: bool
    currency: str | None
    models: list[BulkModel]


class BulkLinks(msgspec.Struct):
    self: str
    results: str
    abort: str


class BulkAction(msgspec.Struct):
    """An action on many jobs. Only jobs that were registered before `created_at` are touched.

    `expected_jobs` were counted then, or more unless that is exact. `error` is what holds it up at the moment, and
    `tenant` whose jobs are meant: `*` is everybody's.
    """

    id: str
    action: Literal["retry", "cancel"]
    filter: dict[str, str | list[str]]
    tenant: str
    state: Literal["running", "aborting", "done", "aborted"]
    created_at: datetime
    ended_at: datetime | None
    expected_jobs: int
    expected_is_exact: bool
    expected_cost: str | None
    done: int
    skipped: int
    failed: int
    walked_to: datetime | None
    error: str | None
    links: BulkLinks


class BulkPage(msgspec.Struct):
    """Newest first; `next_cursor` is null on the last page."""

    bulk_actions: list[BulkAction]
    next_cursor: str | None


class BulkResult(msgspec.Struct):
    """What came of one job: `planned` is not known yet. `retried_as` is the job that repeats it."""

    request_id: str
    outcome: Literal["planned", "done", "skipped", "failed"]
    reason: str | None
    retried_as: str | None


class BulkResultPage(msgspec.Struct):
    """Newest jobs first; `next_cursor` is null on the last page."""

    results: list[BulkResult]
    next_cursor: str | None


class Stats(msgspec.Struct):
    """Figures of groups of jobs, each with what it is grouped by and what was asked; null: nobody knows.

    The time is that which was taken; null is no end. `count` is of all jobs, `failure_rate` of those that completed or
    failed; mean and percentiles are of `of`, and a percentile is wrong by `percentile_accuracy` of itself at most.
    `tokens` are sums under the models' own names, `cost` is a decimal as text. `complete` is false while jobs that
    have just ended are missing.
    """

    created_after: datetime | None
    created_before: datetime | None
    group_by: list[str]
    measure: list[str]
    of: str
    percentile_accuracy: float
    currency: str | None
    complete: bool
    groups: list[dict[str, Any]]


class Price(msgspec.Struct):
    """What a model costs a unit, a decimal as text, for jobs that end from `since` on.

    `provider` is `*` where it holds for all that have no price of their own for the model.
    """

    model: str
    provider: str
    unit: str
    amount: str
    currency: str
    since: datetime


class Finding(msgspec.Struct):
    """Something that is wrong now, with what to do about it. `count` is at least so many unless it is exact.

    `filter` is that of the list of jobs which shows them, if one does; null: nobody knows.
    """

    kind: str
    severity: Literal["critical", "warning", "notice"]
    words: str
    advice: str
    since: datetime | None
    count: int | None
    count_is_exact: bool
    filter: dict[str, str]


class Condition(msgspec.Struct):
    """What is wrong now, the worst first. `unknown` names what could not be looked at: there may be more."""

    at: datetime
    findings: list[Finding]
    unknown: list[str]


class Process(msgspec.Struct):
    """A process as it was last seen: `counts` is what it has done since its start, and no more than what it does."""

    kind: Literal["api", "worker", "beat"]
    state: Literal["working", "lost", "replaced", "ended"]
    version: str
    host: str
    pid: int
    started_at: datetime
    seen_at: datetime
    ended_at: datetime | None
    progressed_at: datetime | None
    counts: dict[str, int]


class TableState(msgspec.Struct):
    """A table of the database; rows are PostgreSQL's own estimates."""

    name: str
    rows: int
    dead_rows: int
    total_bytes: int
    index_bytes: int
    vacuumed_at: datetime | None
    analyzed_at: datetime | None


class DatabaseState(msgspec.Struct):
    """The database: `transaction_age` is how many transactions were begun since its oldest row that is not frozen."""

    version: str
    started_at: datetime
    schema: str | None
    connections: int
    most_connections: int
    oldest_transaction_at: datetime | None
    transaction_age: int
    tables: list[TableState]


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
