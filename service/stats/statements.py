"""A question about jobs as one statement: from the tallies, and from single jobs where these cannot tell.

Single jobs are looked at in the part of an hour at either end of a time, where they are not counted yet, and where
something is asked for that the tallies do not know of a job. Each way has its bound, so no question costs much.
"""

from collections.abc import Sequence
from uuid import UUID

from service.jobs.cursors import first_id, last_id
from service.jobs.filters import MODEL_TIMINGS, PHASES, USAGE
from service.jobs.lifecycle import ENDED, LIVE, Status
from service.jobs.walks import Values
from service.stats.measures import ALL_TENANTS, COST, ERRORS, OF_ALL_TENANTS, TOTAL, bucket_of, clipped, values_of
from service.stats.prices import cost_of
from service.stats.questions import GROUPS, PERCENTILES, TIMES, Question
from service.stats.spans import Grain, spans

# Tallies and jobs that a question may take; percentiles are put together from all that stands in a tally.
MOST_TALLIES = 20_000
MOST_SPREAD = 4_000
MOST_JOBS = 10_000
# Jobs that just ended and those that have not come with every answer; of more than these not all do.
MOST_UNCOUNTED = 2_000
MOST_LIVE = 10_000

# Rows that are of no measure: jobs that have not ended, and percentiles.
LIVE_JOBS = "live"
SPREAD = "spread"
TOKENS = f"{USAGE}%tokens"


class Statement:
    """One statement, whose first row is how much was looked at. Without a tenant it is about those of all."""

    def __init__(self, tenant_id: UUID | None, question: Question, job_ids: Sequence[UUID] | None) -> None:
        self._question = question
        self._job_ids = job_ids
        self._values = Values()
        self._tenant_id = tenant_id
        asked = set(question.measures)
        self._percentiles = [name for name in PERCENTILES if name in asked]
        # Every group is there that has jobs, also if none of them tells what is asked.
        self._names = {TOTAL}
        if self._percentiles or "mean" in asked:
            self._names.add(question.of)
        if COST in asked:
            self._names.add(COST)
        self._of = f"{self._values.place(question.of)}::text"
        self._tokens = "tokens" in asked
        self._usage = self._tokens or any(name.startswith(USAGE) for name in self._names)
        self._timings = any(name.startswith(MODEL_TIMINGS) for name in self._names)
        self._grouped = [name for name in question.group_by if name in GROUPS]
        # Of all tenants: together, where they are, or each.
        self._owner = "<>" if self._tokens or question.by_error or self._names - set(OF_ALL_TENANTS) else "="
        # What is grouped by, and its type.
        self._columns = dict.fromkeys(self._grouped, "text") | ({"start": "timestamptz"} if question.time else {})
        statuses = question.wanted.statuses
        self._ended = not statuses or any(status not in LIVE for status in statuses)
        self._all_ended = not statuses or set(ENDED) <= set(statuses)
        # Percentiles from tallies of all statuses together.
        told_apart = "status" in self._grouped or question.by_error or not self._all_ended
        self._together = bool(self._percentiles) and question.of == TOTAL and not told_apart
        self._live = (
            "count" in asked and not question.wanted.error_types and (not statuses or any(s in LIVE for s in statuses))
        )
        # Together as few as one in four has buckets.
        self.most_tallies = MOST_SPREAD if self._percentiles and not self._together else MOST_TALLIES
        coarsest = TIMES[question.time] if question.time else Grain.MONTH
        self._spans = spans(question.wanted.created_after, question.wanted.created_before, coarsest)

    def text(self) -> tuple[str, list[object]]:
        """The statement and its values."""
        columns = ", ".join(self._columns)
        comma = f", {columns}" if columns else ""
        nulls = "".join(f", NULL::{kind} AS {name}" for name, kind in self._columns.items())
        sent = "array_send(buckets), array_send(counts)"
        # Of a statement's parts only those that it names have their values sent with it.
        return self._values.statement(f"""
WITH kept AS MATERIALIZED ({self._kept()}),
waiting AS MATERIALIZED ({self._waiting()}),
job AS MATERIALIZED ({self._jobs()}),
told AS MATERIALIZED (
    SELECT ended_as, measure, bucket, count(*)::int4 AS n, sum(exact) AS total{comma}
    FROM (SELECT *, {bucket_of("size")} AS bucket FROM ({self._told()}) AS single) AS single
    WHERE {self._is_asked("measure")} GROUP BY ended_as, measure, bucket{comma}
),
live AS MATERIALIZED ({self._living()}),
cell AS (
    SELECT ended_as, measure, n, total{comma} FROM kept WHERE ended_as <> ''
    UNION ALL SELECT ended_as, measure, n, total{comma} FROM told
    UNION ALL SELECT ended_as, '{LIVE_JOBS}', 1, NULL{comma} FROM live
), summed AS (
    SELECT measure{comma}, sum(n)::int8 AS n, sum(total) AS total,
           sum(n) FILTER (WHERE ended_as = '{Status.COMPLETED}')::int8 AS completed,
           sum(n) FILTER (WHERE ended_as = '{Status.FAILED}')::int8 AS failed
    FROM cell GROUP BY measure{comma}
){self._spreads(columns) if self._percentiles else ""}
SELECT NULL AS measure, NULL::int8 AS n, NULL::numeric AS total, NULL::int8 AS completed, NULL::int8 AS failed,
       (SELECT count(*) FROM kept) AS tallies,
       (SELECT count(buckets) FROM kept) AS spreads, (SELECT count(*) FROM job WHERE is_single) AS jobs,
       {"(SELECT count(*) FROM live)" if self._looks_at_live else "0"} AS live,
       (SELECT count(*) FROM waiting) AS uncounted
       {nulls}, NULL::bytea AS buckets, NULL::bytea AS counts
UNION ALL
SELECT measure, n, total, completed, failed, NULL, NULL, NULL, NULL, NULL{comma}, NULL, NULL FROM summed
{f"UNION ALL SELECT '{SPREAD}'{', NULL' * 9}{comma}, {sent} FROM spread" if self._percentiles else ""}
""")

    def _spreads(self, columns: str) -> str:
        """What percentiles are told from: of each group its buckets, of tallies and of single jobs, put together."""
        comma = f", {columns}" if columns else ""
        grouped = f"GROUP BY {columns}" if columns else "HAVING count(*) > 0"
        return f""", parts AS MATERIALIZED (
    SELECT count(*) OVER ({f"PARTITION BY {columns}" if columns else ""}) AS parts, * FROM (
        SELECT buckets, counts{comma} FROM kept
        WHERE buckets IS NOT NULL AND (SELECT count(buckets) FROM kept) <= {MOST_SPREAD}
        UNION ALL
        SELECT array_agg(bucket ORDER BY bucket), array_agg(n ORDER BY bucket){comma} FROM (
            SELECT bucket, sum(n)::int4 AS n{comma} FROM told WHERE measure = {self._of} GROUP BY bucket{comma}
        ) AS single {grouped}
    ) AS each
), spread AS (
    SELECT buckets, counts{comma} FROM parts WHERE parts = 1
    UNION ALL
    SELECT array_agg(bucket ORDER BY bucket), array_agg(n ORDER BY bucket){comma} FROM (
        SELECT bucket, {clipped("sum(count)")} AS n{comma}
        FROM (SELECT unnest(buckets) AS bucket, unnest(counts) AS count{comma} FROM parts WHERE parts > 1) AS met
        GROUP BY bucket{comma}
    ) AS together {grouped}
)"""

    def _is_asked(self, measure: str) -> str:
        asked = f"{measure} = ANY ({self._values.place(sorted(self._names))}::text[])"
        return f"({asked} OR {measure} LIKE '{TOKENS}')" if self._tokens else asked

    def _mine(self, table: str) -> str:
        """Whose jobs are asked about."""
        if self._tenant_id is None:
            return f"series.tenant_id {self._owner} '{ALL_TENANTS}'" if table == "series" else "true"
        return f"{table}.tenant_id = {self._values.place(self._tenant_id)}::uuid"

    def _start(self, moment: str) -> str:
        time = self._question.time
        return f", date_trunc('{time}', {moment}, 'UTC') AS start" if time else ""

    def _filters(self, table: str) -> str:
        """What the jobs are asked by, when the tallies can tell it."""
        wanted = self._question.wanted
        statuses = [] if self._all_ended else [status.value for status in wanted.statuses]
        columns: dict[str, Sequence[str]] = {
            f"{table}.status": statuses,
            f"{table}.model": wanted.models,
            f"{table}.provider": wanted.providers,
        }
        if table == "outcomes":
            columns["outcomes.error_type"] = wanted.error_types
        return "".join(
            f" AND {column} = ANY ({self._values.place(list(words))}::text[])"
            for column, words in columns.items()
            if words
        )

    def _kept(self) -> str:
        """Tallies of whole hours, days and months."""
        whole = [span for span in self._spans if span.grain is not None]
        empty = self._job_ids is not None or not self._ended or not whole
        grains, starts, ends = ([getattr(span, part) for span in whole] for part in ("grain", "start", "end"))
        places = self._values.place([int(grain) for grain in grains]), *map(self._values.place, (starts, ends))
        wanted = self._question.wanted
        measure, is_asked = "series.measure", self._is_asked("series.measure")
        sources: dict[str, str] = {}
        if self._question.by_error:
            measure, is_asked = f"'{TOTAL}'", f"series.measure LIKE '{ERRORS}%'"
            sources["error_type"] = f"substr(series.measure, {len(ERRORS) + 1})"
            if wanted.error_types:
                names = self._values.place([ERRORS + word for word in wanted.error_types])
                is_asked += f" AND series.measure = ANY ({names}::text[])"
        grouped = "".join(f", {sources.get(name, f'series.{name}')} AS {name}" for name in self._grouped)
        apart = {"model", "provider"} & set(self._grouped) or wanted.models or wanted.providers
        shape = "NULL::int2[] AS buckets, NULL::int4[] AS counts"
        if self._percentiles:
            told = f"{measure} = {self._of} AND series.status {'=' if self._together else '<>'} ''"
            shape = ", ".join(f"CASE WHEN {told} THEN cell.{name} END AS {name}" for name in ("buckets", "counts"))
        # OFFSET 0 keeps this a look at one range of the key after the other.
        return f"""
    SELECT series.status AS ended_as, {measure} AS measure, cell.n, cell.sum AS total, {shape}{grouped}
           {self._start("cell.start")}
    FROM series
    CROSS JOIN unnest({places[0]}::int2[], {places[1]}::timestamptz[], {places[2]}::timestamptz[])
        AS span (grain, start, until)
    CROSS JOIN LATERAL (
        SELECT * FROM tallies
        WHERE tallies.series_id = series.id AND tallies.grain = span.grain AND tallies.start >= span.start
          AND tallies.start < span.until
        OFFSET 0
    ) AS cell
    WHERE {"false" if empty else "true"} AND {self._mine("series")} AND {is_asked}
        AND series.model {"<>" if apart else "="} '' {"" if self._together else "AND series.status <> ''"}
        {self._filters("series")}
    LIMIT {self.most_tallies + 1}"""

    def _waiting(self) -> str:
        """Jobs that ended and are not counted yet, the newest of all tenants."""
        return f"""SELECT job_id FROM uncounted WHERE {"part = 'end'" if self._job_ids is None else "false"}
    ORDER BY job_id DESC LIMIT {MOST_UNCOUNTED + 1}"""

    def _jobs(self) -> str:
        """Single jobs that ended; `is_single` are not those that are only not counted yet."""
        columns = ", ".join(f"outcomes.{name}" for name in sorted(self._needed()))
        if not self._ended:
            return f"SELECT {columns}, true AS is_single FROM outcomes WHERE false"
        if self._job_ids is not None:
            given = f"unnest({self._values.place(self._job_ids)}::uuid[]) AS given (job_id)"
            return f"SELECT {columns}, true AS is_single FROM {given} JOIN outcomes USING (job_id)"
        filters = self._filters("outcomes")
        single = [span for span in self._spans if span.grain is None]
        whole = [span for span in self._spans if span.grain is not None]
        starts, ends = (self._values.place([getattr(span, part) for span in single]) for part in ("start", "end"))
        firsts = self._values.place([first_id(span.start) for span in single])
        lasts = self._values.place([last_id(span.end) for span in single])
        counted = "false"
        if whole:
            counted = f"created_at >= {self._values.place(whole[0].start)}::timestamptz"
            counted += f" AND created_at < {self._values.place(whole[-1].end)}::timestamptz"
        return f"""
    SELECT {columns}, true AS is_single
    FROM unnest({starts}::timestamptz[], {ends}::timestamptz[], {firsts}::uuid[], {lasts}::uuid[])
        AS span (start, until, first, last)
    CROSS JOIN LATERAL (
        SELECT * FROM outcomes
        WHERE {self._mine("outcomes")} AND job_id >= span.first AND job_id <= span.last
          AND created_at >= span.start AND created_at < span.until {filters}
        LIMIT {MOST_JOBS + 1}
    ) AS outcomes
    UNION ALL
    SELECT {columns}, false FROM waiting JOIN outcomes USING (job_id)
    WHERE {self._mine("outcomes")} AND {counted} {filters}"""

    def _needed(self) -> set[str]:
        """Columns of an outcome."""
        needed = {"status", "model", "provider", "error_type", "created_at", *(set(PHASES) & self._names)}
        if COST in self._names:
            needed |= {"cost", "completed_at", "run_seconds", "billable_units", "usage", "model_timings"}
        if self._usage:
            needed.add("usage")
        return needed | ({"model_timings"} if self._timings else set())

    def _told(self) -> str:
        """What single jobs told of the measures that are asked."""
        sources = {"error_type": "coalesce(job.error_type, '')"}
        grouped = "".join(f", {sources.get(name, f'job.{name}')} AS {name}" for name in self._grouped)
        sizes = {name: f"job.{name}" for name in PHASES if name in self._names}
        if COST in self._names:
            sizes[COST] = f"coalesce(job.cost, {cost_of('job')})"
        columns = f"job.status AS ended_as{grouped}{self._start('job.created_at')}"
        rough = () if "mean" in self._question.measures else sizes.keys() - {COST}
        return values_of("job", columns, sizes, usage=self._usage, timings=self._timings, rough=rough)

    @property
    def _looks_at_live(self) -> bool:
        """Whether of those that have not ended more is asked than their row among them tells."""
        wanted, time = self._question.wanted, self._question.time
        asked = (wanted.models, wanted.providers, wanted.created_after, wanted.created_before, time)
        return any(asked) or bool({"model", "provider"} & set(self._grouped))

    def _living(self) -> str:
        """Jobs that have not ended."""
        if not self._live:
            return self._no_one_living()
        wanted = self._question.wanted
        conditions = self._mine("live_jobs")
        if self._job_ids is not None:
            conditions += f" AND live_jobs.job_id = ANY ({self._values.place(self._job_ids)}::uuid[])"
        if wanted.statuses:
            statuses = self._values.place([status.value for status in wanted.statuses])
            conditions += f" AND live_jobs.status = ANY ({statuses}::text[])"
        for column, words in {"jobs.model": wanted.models, "live_jobs.provider": wanted.providers}.items():
            if words:
                conditions += f" AND {column} = ANY ({self._values.place(list(words))}::text[])"
        if wanted.created_after:
            conditions += f" AND live_jobs.job_id >= {self._values.place(first_id(wanted.created_after))}::uuid"
            conditions += f" AND jobs.created_at >= {self._values.place(wanted.created_after)}::timestamptz"
        if wanted.created_before:
            conditions += f" AND live_jobs.job_id <= {self._values.place(last_id(wanted.created_before))}::uuid"
            conditions += f" AND jobs.created_at < {self._values.place(wanted.created_before)}::timestamptz"
        sources = {
            "model": "jobs.model",
            "provider": "live_jobs.provider",
            "status": "live_jobs.status",
            "error_type": "''::text",
        }
        grouped = "".join(f", {sources[name]} AS {name}" for name in self._grouped)
        joined = "JOIN jobs ON jobs.id = live_jobs.job_id" if self._looks_at_live else ""
        limit = f"LIMIT {MOST_LIVE + 1}" if self._looks_at_live else ""
        return f"""SELECT live_jobs.status AS ended_as{grouped}{self._start("jobs.created_at")}
    FROM live_jobs {joined} WHERE {conditions} {limit}"""

    def _no_one_living(self) -> str:
        grouped = "".join(f", ''::text AS {name}" for name in self._grouped)
        return f"SELECT ''::text AS ended_as{grouped}{self._start('now()')} WHERE false"
