"""What jobs are measured by, and the buckets that percentiles are told from.

A measure is a phase of ours (`total_seconds` …), `cost`, `usage.NAME` or `timings.model.NAME`, the last two under the
model's own names. A bucket holds all values between two powers of GAMMA, so whatever value stands for it is wrong by
at most ACCURACY of itself (DDSketch: https://arxiv.org/abs/1908.10693).
"""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from math import exp, log
from uuid import UUID

from service.jobs.filters import MODEL_TIMINGS, PHASES, USAGE

# Every ended job has one, so these count the jobs.
TOTAL = "total_seconds"
COST = "cost"
# In place of a tenant, in series of the jobs of all of them. An operator mostly asks for these.
ALL_TENANTS = UUID(int=0)
OF_ALL_TENANTS = (TOTAL, COST)
# The same as TOTAL once more, by the type of the error, which stands behind this.
ERRORS = "errors."

# An object of more names, or a longer name, is somebody's mistake; the rest of it is not counted.
MOST_NAMES = 32
LONGEST_NAME = 100

ACCURACY = 0.02
GAMMA = (1 + ACCURACY) / (1 - ACCURACY)

# Nearer to zero than this is zero. Its bucket is 0; those above it begin with 1, those of negative values with -1.
SMALLEST = 1e-9
# What a float can hold the exponential of.
_LARGEST = 709.0
_SHIFT = 1 - round(log(SMALLEST) / log(GAMMA))


def bucket_of(value: str) -> str:
    """The bucket of a float8, as SQL."""
    above = f"ceil(ln({{}}) / {log(GAMMA)!r}::float8) + {_SHIFT}"
    return (
        f"CASE WHEN {value} > {SMALLEST} THEN greatest(1, {above.format(value)})"
        f" WHEN {value} < -{SMALLEST} THEN least(-1, -({above.format(f'-({value})')})) ELSE 0 END::int2"
    )


def clipped(count: str) -> str:
    """As int4, as SQL: of more jobs in one bucket it does not matter any more how many they are."""
    return f"(CASE WHEN {count} > {2**31 - 1} THEN {2**31 - 1} ELSE {count} END)::int4"


def middle_of(bucket: int) -> float:
    """What stands for the values of a bucket: none of them is further from it than ACCURACY."""
    if bucket == 0:
        return 0.0
    size = exp(min(log(2 / (GAMMA + 1)) + (abs(bucket) - _SHIFT) * log(GAMMA), _LARGEST))
    return size if bucket > 0 else -size


class Spread:
    """How often each bucket was met by some jobs, from an int2[] and an int4[] as `array_send` sends them, in order."""

    def __init__(self, buckets: bytes, counts: bytes) -> None:
        self._buckets = _numbers(buckets, "h")
        self._upto = list(accumulate(_numbers(counts, "i")))

    def percentile(self, hundredths: int) -> float:
        """By nearest rank."""
        rank = -(-self._upto[-1] * hundredths // 100)
        return middle_of(self._buckets[bisect_left(self._upto, rank)])


def _numbers(sent: bytes, code: str) -> Sequence[int]:
    """After 20 bytes about the array each number follows its own length, of four bytes; the highest byte comes first.

    (`array_send` in PostgreSQL's arrayfuncs.c.) A driver reads them one by one, and this takes them all at once.
    """
    words = array(code, sent[20:])
    if sys.byteorder == "little":
        words.byteswap()
    step = 1 + 4 // words.itemsize
    return words[step - 1 :: step]


def is_measure(name: str) -> bool:
    if name in PHASES or name == COST:
        return True
    return any(name.startswith(prefix) and name != prefix for prefix in (USAGE, MODEL_TIMINGS))


def _as_float(measure: str, size: str) -> str:
    """A cost may be of any size, as a model may say any number: what no float8 holds stands with the largest."""
    if measure != COST:
        return f"({size})::float8"
    clipped = f"greatest(least(({size})::numeric, 1e300), -1e300)"
    return f"(CASE WHEN abs(({size})::numeric) < 1e-300 THEN 0 WHEN ({size}) IS NOT NULL THEN {clipped} END)::float8"


def values_of(
    source: str,
    columns: str,
    sizes: Mapping[str, str],
    *,
    usage: bool = True,
    timings: bool = True,
    told: str = "true",
    rough: Collection[str] = (),
) -> str:
    """What outcomes told: rows of `columns`, measure, the value as numeric and as float8, as SQL; the known ones only.

    `sizes` are expressions by their measures, of which the `rough` ones have no numeric, since to make one takes time;
    the model's own figures are there where asked for, of those for which `told` holds.
    """
    parts = []
    if sizes:
        exact = {name: "NULL" if name in rough else f"({size})" for name, size in sizes.items()}
        rows = ", ".join(f"('{name}', {exact[name]}::numeric, {_as_float(name, sizes[name])})" for name in sizes)
        parts.append(f"(VALUES {rows}) AS each (measure, exact, size)")
    for prefix, column in ((USAGE, "usage"),) * usage + ((MODEL_TIMINGS, "model_timings"),) * timings:
        parts.append(
            f"(SELECT '{prefix}' || key AS measure, value::numeric AS exact, value::float8 AS size FROM ("
            f" SELECT * FROM jsonb_each(CASE WHEN {told} THEN {source}.{column} END)"
            f" WHERE length(key) <= {LONGEST_NAME} LIMIT {MOST_NAMES}"
            ") AS named WHERE jsonb_typeof(value) = 'number') AS each"
        )
    return " UNION ALL ".join(
        f"SELECT {columns}, each.measure, each.exact, each.size FROM {source} CROSS JOIN LATERAL {part}"
        " WHERE each.size IS NOT NULL"
        for part in parts
    )
