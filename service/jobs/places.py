"""Where the jobs of a list are, those that have ended and those that have not, and what must hold of one there."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

from service.catalog.text import number_of
from service.jobs.cursors import first_id, last_id
from service.jobs.filters import MODEL_TIMINGS, USAGE, Bounds, JobFilter
from service.jobs.lifecycle import LIVE
from service.jobs.spellings import pattern_of
from service.jobs.walks import READING_ROWS, READING_TEXTS, Place, Span, Values, Walk
from service.jsontext import encode
from service.models import LABEL_EXCERPT

# By more words of one kind than these no index is walked; they are looked up.
MOST_STRANDS = 10

# So many characters of an input or of an output's text are searched: some clients send books.
SEARCHED = 20_000

# The phases that a job has before it has ended.
_LIVE_PHASES = {
    "queued_seconds": "greatest(0, extract(epoch FROM attempts.claimed_at - jobs.created_at)::float8)",
    "submit_seconds": "greatest(0, extract(epoch FROM attempts.answered_at - attempts.claimed_at)::float8)",
}


def span_of(wanted: JobFilter) -> Span:
    after, before = UUID(int=0), UUID(int=2**128 - 1)
    if wanted.created_after:
        after = UUID(int=max(1, first_id(wanted.created_after).int) - 1)
    if wanted.created_before:
        before = last_id(wanted.created_before)
    newer = wanted.cursor is not None and wanted.cursor.newer
    if wanted.cursor and newer:
        after = max(after, wanted.cursor.place)
    elif wanted.cursor:
        before = min(before, wanted.cursor.place)
    return Span(after, before, newer)


def ended_jobs(tenants: Sequence[UUID], wanted: JobFilter, longest_walk: int, values: Values) -> Place | None:
    """None: no job that has ended is meant."""
    statuses = [status.value for status in wanted.statuses if status not in LIVE]
    if wanted.statuses and not statuses:
        return None
    span, owners = span_of(wanted), [values.place(tenant) for tenant in tenants]
    walks, conditions = [], [*_created("outcomes.created_at", wanted, values)]
    columns = {
        "status": statuses,
        "error_type": wanted.error_types,
        "model": wanted.models,
        "provider": wanted.providers,
    }
    for column, words in columns.items():
        if len(set(words)) > MOST_STRANDS:
            conditions.append(f"outcomes.{column} = ANY ({values.place(list(words))}::text[])")
        elif words:
            walks.append(_indexed("outcomes", owners, span, values, column, words))
    # Whoever is not on a walk of ended jobs is under way.
    walks = walks or [_indexed("outcomes", owners, span, values)]
    for name, bounds in wanted.measures.items():
        conditions.extend(_within(_measure(name, values), bounds, values))
    if wanted.mask_label is not None:
        walks.append(_labelled(owners, wanted.mask_label, span, values))
    if wanted.mask_label is not None or wanted.mask_area:
        conditions.append(_has_mask(wanted, values))
    described = _described(wanted, values)
    if wanted.text:
        said = f"left(results.text, {SEARCHED}) ILIKE {values.place(_pattern(wanted.text))}"
        told = f"EXISTS (SELECT FROM results WHERE results.job_id = outcomes.job_id AND {said})"
        conditions.append(f"({_asked('outcomes', wanted.text, values)} OR {told})")
    return Place(
        span,
        [*walks, *_marked(owners, wanted, span, values)],
        "outcomes JOIN jobs ON jobs.id = outcomes.job_id" if described else "outcomes",
        "outcomes.job_id",
        conditions + described,
        _shorter(longest_walk, wanted, rows=bool(conditions or described)),
    )


def live_jobs(tenants: Sequence[UUID], wanted: JobFilter, longest_walk: int, values: Values) -> Place | None:
    """None: no job that is under way is meant."""
    statuses = [status.value for status in wanted.statuses if status in LIVE]
    if (wanted.statuses and not statuses) or not wanted.measures.keys() <= _LIVE_PHASES.keys():
        return None
    if wanted.error_types or wanted.mask_label is not None or wanted.mask_area:
        return None
    span, owners = span_of(wanted), [values.place(tenant) for tenant in tenants]
    conditions = [*_created("jobs.created_at", wanted, values)]
    for column, words in {
        "live_jobs.status": statuses,
        "jobs.model": wanted.models,
        "live_jobs.provider": wanted.providers,
    }.items():
        if words:
            conditions.append(f"{column} = ANY ({values.place(list(words))}::text[])")
    for name, bounds in wanted.measures.items():
        conditions.extend(_within((_LIVE_PHASES[name], "float8"), bounds, values))
    conditions += _described(wanted, values)
    if wanted.text:
        conditions.append(_asked("live_jobs", wanted.text, values))
    tables = "live_jobs JOIN jobs ON jobs.id = live_jobs.job_id"
    if wanted.measures:
        tables += " JOIN attempts ON attempts.job_id = live_jobs.job_id AND attempts.number = live_jobs.attempt"
    return Place(
        span,
        [_indexed("live_jobs", owners, span, values), *_marked(owners, wanted, span, values)],
        tables,
        "live_jobs.job_id",
        conditions,
        _shorter(longest_walk, wanted, rows=bool(conditions)),
    )


def _shorter(longest_walk: int, wanted: JobFilter, *, rows: bool) -> int:
    return max(1, longest_walk // (READING_TEXTS if wanted.text else READING_ROWS if rows else 1))


def _indexed(
    table: str,
    owners: Sequence[str],
    span: Span,
    values: Values,
    column: str = "",
    words: Sequence[str] = (),
    fixed: str = "",
) -> Walk:
    """By an index on the tenant, what is `fixed`, a column that has one of some words if one is named, and the ID."""
    each = [f"SELECT job_id FROM {table} WHERE {mine}{fixed}" for mine in _mine(owners, span, values)]
    gate = f"SELECT FROM {table} WHERE tenant_id IN ({', '.join(owners)}){fixed} AND job_id = walk.job_id"
    if not column:
        return Walk(each, gate)
    placed = [values.place(word) for word in dict.fromkeys(words)]
    return Walk(
        [f"{entries} AND {column} = {word}" for entries in each for word in placed],
        f"{gate} AND {column} IN ({', '.join(placed)})",
    )


def _mine(owners: Sequence[str], span: Span, values: Values) -> Iterator[str]:
    """What holds of the entries of each tenant."""
    between = f"job_id > {values.place(span.after)} AND job_id < {values.place(span.before)}"
    for tenant in owners:
        yield f"tenant_id = {tenant} AND {between}"


def _created(column: str, wanted: JobFilter, values: Values) -> Iterator[str]:
    if wanted.created_after:
        yield f"{column} >= {values.place(wanted.created_after)}"
    if wanted.created_before:
        yield f"{column} < {values.place(wanted.created_before)}"


def _measure(name: str, values: Values) -> tuple[str, str]:
    """The figure of a job that has ended, and its type."""
    if name == "cost":
        return "outcomes.cost", "numeric"
    for prefix, column in ((USAGE, "outcomes.usage"), (MODEL_TIMINGS, "outcomes.model_timings")):
        if name.startswith(prefix):
            key = f"{values.place(name.removeprefix(prefix))}::text"
            number = f"({column} ->> {key})::numeric"
            return f"CASE jsonb_typeof({column} -> {key}) WHEN 'number' THEN {number} END", "numeric"
    return f"outcomes.{name}", "float8"


def _within(figure: tuple[str, str], bounds: Bounds, values: Values) -> Iterator[str]:
    sql, kind = figure
    for sign, end in ((">=", bounds.low), ("<=", bounds.high)):
        if end is not None:
            # Decimal by way of the shortest text: 0.1 is to be the 0.1 that stands in a JSON document.
            yield f"{sql} {sign} {values.place(Decimal(repr(end)) if kind == 'numeric' else end)}::{kind}"


def _labelled(owners: Sequence[str], label: str, span: Span, values: Values) -> Walk:
    cut = f"lower(left(label, {LABEL_EXCERPT})) = lower(left({values.place(label)}::text, {LABEL_EXCERPT}))"
    indexed = f"SELECT job_id FROM artifacts WHERE kind = 'mask' AND label IS NOT NULL AND {cut}"
    return Walk([f"{indexed} AND {mine}" for mine in _mine(owners, span, values)], gate="", repeats=True)


def _has_mask(wanted: JobFilter, values: Values) -> str:
    conditions = ["artifacts.job_id = outcomes.job_id", "artifacts.kind = 'mask'"]
    if wanted.mask_label is not None:
        conditions.append(f"lower(artifacts.label) = lower({values.place(wanted.mask_label)}::text)")
    if wanted.mask_area:
        conditions.extend(_within(("artifacts.area_fraction", "float8"), wanted.mask_area, values))
    # Only of a completed job are they shown.
    return f"outcomes.status = 'completed' AND EXISTS (SELECT FROM artifacts WHERE {' AND '.join(conditions)})"


def _marked(owners: Sequence[str], wanted: JobFilter, span: Span, values: Values) -> Iterator[Walk]:
    """By tags and metadata, along which jobs are whether they have ended or not."""
    sought = [("tag", [tag]) for tag in wanted.tags]
    sought += [(f"metadata.{key}", _written(value)) for key, value in wanted.metadata.items()]
    for name, written in sought:
        cut = [text[:LABEL_EXCERPT] for text in written]
        named = f" AND name = {values.place(name[:LABEL_EXCERPT])}"
        walk = _indexed("job_marks", owners, span, values, "value", cut, fixed=named)
        # Two keys of one job may begin alike.
        yield replace(walk, repeats=len(name) >= LABEL_EXCERPT)


def _described(wanted: JobFilter, values: Values) -> list[str]:
    """What is asked of the request itself, and cannot be told from its marks."""
    conditions = []
    if long := [tag for tag in wanted.tags if len(tag) >= LABEL_EXCERPT]:
        conditions.append(f"jobs.tags @> {values.place(long)}::text[]")
    for key, value in wanted.metadata.items():
        # A number that is written otherwise than `job_marks` has it would find the text that is written so, too.
        if len(f"metadata.{key}") >= LABEL_EXCERPT or len(value) >= LABEL_EXCERPT or len(_written(value)) > 1:
            documents = [encode({key: value}).decode()]
            if number_of(value) is not None or value in {"true", "false", "null"}:
                documents.append(f"{{{encode(key).decode()}:{value}}}")
            held = (f"jobs.metadata @> {values.place(document)}::jsonb" for document in documents)
            conditions.append(f"({' OR '.join(held)})")
    return conditions


def _written(value: str) -> list[str]:
    """How `job_marks` may have it: as text, true, false or null as it is, as a number without zeros at the end."""
    number = number_of(value)
    if number is None:
        return [value]
    digits = format(number, "f") if number else "0"
    return list(dict.fromkeys([value, digits.rstrip("0").rstrip(".") if "." in digits else digits]))


def _asked(table: str, text: str, values: Values) -> str:
    asked = f"left(inputs.body, {SEARCHED}) ~* {values.place(pattern_of(text))}"
    return f"EXISTS (SELECT FROM inputs WHERE inputs.job_id = {table}.job_id AND {asked})"


def _pattern(text: str) -> str:
    return "%" + text.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_") + "%"
