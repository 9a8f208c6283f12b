"""A time is put together from spans that hold each of its moments once."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from service.stats.spans import EARLIEST, LATEST, Grain, Span, after, ceiling, floor, spans

moments = st.one_of(
    st.none(),
    st.datetimes(datetime(1990, 1, 1), datetime(2210, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC)),  # noqa: DTZ001
    st.integers(0, 200 * 365).map(lambda days: EARLIEST + timedelta(days=days)),
)


def whole(span: Span) -> bool:
    grain = span.grain
    return grain is None or (floor(span.start, grain) == span.start and floor(span.end, grain) == span.end)


@given(moments, moments, st.sampled_from(Grain))
def test_spans_follow_each_other_from_one_end_to_the_other(
    start: datetime | None, end: datetime | None, coarsest: Grain
) -> None:
    first = min(max(start or EARLIEST, EARLIEST), LATEST)
    last = min(max(end or LATEST, EARLIEST), LATEST)
    parts = spans(start, end, coarsest)
    if first >= last:
        assert parts == []
        return
    assert (parts[0].start, parts[-1].end) == (first, last)
    assert all(one.end == other.start for one, other in pairwise(parts))
    assert all(part.start < part.end and whole(part) for part in parts)
    assert all(part.grain is None or part.grain <= coarsest for part in parts)
    # Never more than two of a kind, and single jobs for less than an hour at either end.
    assert len(parts) <= 2 * coarsest + 3
    assert all(part.end - part.start < timedelta(hours=1) for part in parts if part.grain is None) or len(parts) == 1


@given(st.datetimes(datetime(2000, 1, 1), datetime(2199, 1, 1)), st.sampled_from(Grain))  # noqa: DTZ001
def test_a_grain_begins_where_the_one_before_ends(moment: datetime, grain: Grain) -> None:
    moment = moment.replace(tzinfo=UTC)
    start = floor(moment, grain)
    assert start <= moment < after(start, grain)
    assert ceiling(moment, grain) in (start, after(start, grain))
    assert floor(after(start, grain), grain) == after(start, grain)
