"""What is drawn and laid out on the server: to the letter, and with a word for what is unknown."""

import json
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dashboard import charts, figures
from service.dashboard.charts import Axis, Series
from service.dashboard.layout import laid_out

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_json_laid_out_is_the_same_json(value: Any) -> None:
    assert json.loads(laid_out(json.dumps(value, ensure_ascii=False))) == value


@pytest.mark.parametrize("number", ["1.0", "1e400", "-0", "12345678901234567890123", "0.10"])
def test_a_number_keeps_its_digits(number: str) -> None:
    assert laid_out(f'{{"a":{number}}}') == f'{{\n  "a": {number}\n}}'


@given(st.text())
def test_what_is_no_json_is_not_lost(text: str) -> None:
    assert [each for each in laid_out(text) if not each.isspace()] == [each for each in text if not each.isspace()]


def test_a_chart_has_its_figures_as_text_too() -> None:
    axis = Axis(["1", "2", "3"], ["one", "two", "three"])
    drawn = charts.lines("<Times>", axis, [Series("<p>", "p50", [1.0, None, 3.0])], figures.seconds, summary="&")
    assert re.findall(r"<title>([^<]*)</title>", drawn) == [
        "one: &lt;p&gt; 1.00 s",
        "two: &lt;p&gt; unknown",
        "three: &lt;p&gt; 3.00 s",
    ]
    assert re.findall(r"<td class=number>([^<]*)</td>", drawn) == ["3.00 s", "unknown", "1.00 s"]
    assert 'aria-label="&lt;Times&gt;. &amp;"' in drawn
    # What is unknown is a gap: the two values are points, and no line joins them.
    assert re.findall(r'd="([^"]*)"', drawn)[-2].count("L") == 0


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_an_axis_ends_above_its_values_and_not_far(value: float) -> None:
    for nice in (charts.nice, charts.nice_seconds):
        assert value * 0.999 <= nice(value) <= max(4 * value, 60.0)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (figures.seconds(None), "unknown"),
        (figures.seconds(0.0001), "0 ms"),
        (figures.seconds(59.99), "60.0 s"),
        (figures.seconds(3_600), "1 h"),
        (figures.seconds(200_000), "2 days 7 h"),
        (figures.percent(None), "unknown"),
        (figures.percent(0.0), "0 %"),
        (figures.percent(0.00001), "< 0.1 %"),
        (figures.short(10_000_000), "10 M"),
        (figures.size(1_536), "1.54 kB"),
        (figures.money(Decimal("0.000012345"), "USD"), "0.0000123 USD"),
        (figures.money(Decimal(0), "USD"), "0 USD"),
        (figures.money(None, None), "unknown"),
        (figures.coded("a `b` <i> `<c>` ` d"), "a <code>b</code> &lt;i&gt; <code>&lt;c&gt;</code> ` d"),
        (figures.fine_money(Decimal("1E-7"), "EUR"), "0.0000001 EUR"),
        (figures.fine_money(Decimal("0.00012345678901234567"), "USD"), "0.000123457 USD"),
        (figures.fine_money(Decimal("-1.23456789"), None), "-1.23457"),
        (figures.fine_money(Decimal("1234567.891"), "USD"), "1,234,567.89 USD"),
        (figures.fine_money(Decimal("100"), "USD"), "100 USD"),
        (figures.fine_money(Decimal("0E-20"), "USD"), "0 USD"),
        (figures.fine_money(None, "USD"), "unknown"),
    ],
)
def test_a_figure_is_said_as_people_say_it(told: str, words: str) -> None:
    assert told == words
