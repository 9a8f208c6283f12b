"""What may be asked of a list of jobs, and the statement that answers it."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Text, and_, any_, cast, literal, or_, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from service.errors import Invalid
from service.jobs.lifecycle import LIVE, Status
from service.jsontext import NotJSON, encode, parse
from service.models import jobs, live_jobs, outcomes

LARGEST_PAGE = 200
DEFAULT_PAGE = 50


@dataclass(frozen=True)
class JobFilter:
    """Every condition must hold; several values of one must hold one of them (tags: all)."""

    statuses: Sequence[Status] = ()
    models: Sequence[str] = ()
    providers: Sequence[str] = ()
    tags: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_after: datetime | None = None
    created_before: datetime | None = None
    text: str | None = None
    limit: int = DEFAULT_PAGE
    before: UUID | None = None


def read_filter(query: Sequence[tuple[str, str]]) -> JobFilter:
    """A query string as a filter. Raises Invalid, for a name that is not known too."""
    lists: dict[str, list[str]] = {"status": [], "model": [], "provider": [], "tag": []}
    single: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for name, value in query:
        if "\0" in name or "\0" in value:
            raise Invalid.at("query", name.replace("\0", ""), msg="Text may not hold a NUL character.")
        if name == "tag":
            lists[name].append(value)  # A tag may hold a comma.
        elif name in lists:
            lists[name].extend(part for part in value.split(",") if part)
        elif name.startswith("metadata.") and len(name) > len("metadata."):
            metadata[name.removeprefix("metadata.")] = value
        elif name in {"created_after", "created_before", "q", "limit", "cursor"}:
            single[name] = value
        else:
            raise Invalid.at("query", name, msg="There is no such filter.", kind="extra_forbidden")
    return JobFilter(
        statuses=[_status(word) for word in lists["status"]],
        models=lists["model"],
        providers=lists["provider"],
        tags=lists["tag"],
        metadata=metadata,
        created_after=_moment("created_after", single.get("created_after")),
        created_before=_moment("created_before", single.get("created_before")),
        text=single.get("q") or None,
        limit=_limit(single.get("limit")),
        before=read_cursor(single["cursor"]) if single.get("cursor") else None,
    )


def narrow(statement: Select[tuple[object, ...]], tenant_id: UUID, wanted: JobFilter) -> Select[tuple[object, ...]]:
    """Newest first, one more row than asked for, so that the caller sees whether there is a next page."""
    statement = statement.where(jobs.c.tenant_id == tenant_id)
    if wanted.statuses:
        statement = statement.where(_has_status(tenant_id, wanted.statuses))
    if wanted.models:
        statement = statement.where(_is_one_of(jobs.c.model, wanted.models))
    if wanted.providers:
        statement = statement.where(_is_one_of(jobs.c.provider, wanted.providers))
    if wanted.tags:
        # The second condition follows from the first, but only in words can the partial index see it.
        statement = statement.where(jobs.c.tags.contains(list(wanted.tags)), text("jobs.tags <> '{}'"))
    for key, value in wanted.metadata.items():
        statement = statement.where(_has_metadata(key, value), text("jobs.metadata <> '{}'"))
    if wanted.created_after:
        statement = statement.where(
            jobs.c.created_at >= wanted.created_after, jobs.c.id >= first_id(wanted.created_after)
        )
    if wanted.created_before:
        statement = statement.where(
            jobs.c.created_at < wanted.created_before, jobs.c.id <= last_id(wanted.created_before)
        )
    if wanted.text:
        pattern = "%" + wanted.text.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_") + "%"
        statement = statement.where(or_(jobs.c.input.ilike(pattern), outcomes.c.text.ilike(pattern)))
    if wanted.before:
        statement = statement.where(jobs.c.id < wanted.before)
    return statement.order_by(jobs.c.id.desc()).limit(wanted.limit + 1)


def _is_one_of(column: ColumnElement[str], words: Sequence[str]) -> ColumnElement[bool]:
    return column == any_(literal(list(words), ARRAY(Text)))


def by_place(wanted: JobFilter) -> list[JobFilter]:
    """The filter as one for live jobs and one for ended ones, when it asks for both: each has its own index."""
    live = [status for status in wanted.statuses if status in LIVE]
    ended = [status for status in wanted.statuses if status not in LIVE]
    return [replace(wanted, statuses=each) for each in (live, ended) if each] or [wanted]


def _has_status(tenant_id: UUID, statuses: Sequence[Status]) -> ColumnElement[bool]:
    words = [status.value for status in statuses]
    if all(status in LIVE for status in statuses):
        return _is_one_of(live_jobs.c.status, words)
    return and_(outcomes.c.tenant_id == tenant_id, _is_one_of(outcomes.c.status, words))


def _has_metadata(key: str, value: str) -> ColumnElement[bool]:
    """A value in a query string is text; the metadata may hold it as text, number, boolean or null."""
    meant: list[object] = [value]
    try:
        scalar = parse(value)
    except NotJSON:
        scalar = value
    if not isinstance(scalar, (str, dict, list)):
        meant.append(scalar)
    documents = [encode({key: each}).decode() for each in meant]
    return or_(*(jobs.c.metadata.contains(cast(literal(document), JSONB)) for document in documents))


def _status(word: str) -> Status:
    try:
        return Status(word)
    except ValueError:
        known = ", ".join(status.value for status in Status)
        raise Invalid.at("query", "status", msg=f"Must be one of {known}.", kind="enum") from None


def _limit(word: str | None) -> int:
    if word is None:
        return DEFAULT_PAGE
    if not (word.isascii() and word.isdecimal() and len(word) < 10 and 1 <= int(word) <= LARGEST_PAGE):
        raise Invalid.at("query", "limit", msg=f"Must be a whole number from 1 to {LARGEST_PAGE}.", kind="int_parsing")
    return int(word)


def _moment(name: str, word: str | None) -> datetime | None:
    if word is None:
        return None
    try:
        # A plus sign that was not percent-encoded arrives as a space.
        moment = datetime.fromisoformat(word.replace(" ", "+") if "T" in word else word)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise Invalid.at("query", name, msg="Must be an ISO 8601 time.", kind="datetime_parsing") from None


# IDs begin with the time in milliseconds, by the clock of the machine that made them; a minute's margin allows
# for clocks that differ.
MARGIN_MILLISECONDS = 60_000


def first_id(moment: datetime) -> UUID:
    """The smallest ID that a job of this moment can have."""
    return UUID(int=_milliseconds(moment, -MARGIN_MILLISECONDS) << 80)


def last_id(moment: datetime) -> UUID:
    """The largest one."""
    return UUID(int=((_milliseconds(moment, MARGIN_MILLISECONDS) + 1) << 80) - 1)


def _milliseconds(moment: datetime, margin: int) -> int:
    return min(max(0, int(moment.timestamp() * 1000) + margin), 2**48 - 1)


def make_cursor(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def read_cursor(word: str) -> UUID:
    """Raises Invalid."""
    try:
        return UUID(bytes=base64.urlsafe_b64decode(word + "=" * (-len(word) % 4)))
    except (binascii.Error, ValueError):
        raise Invalid.at("query", "cursor", msg="Not a cursor of this service.") from None
