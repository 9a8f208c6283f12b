"""Charts as SVG, drawn here, each with its figures as text and as a table.

Shapes are stretched to the room there is, so all writing stands beside them in HTML. What is unknown is a gap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from markupsafe import Markup, escape

from service.dashboard.figures import UNKNOWN

# In the units of a drawing: its height, and the width of one of its steps.
HEIGHT = 100.0
STEP = 10.0
BAR = 8.0

MOST_LABELS = 6

Say = Callable[[float | None], str]


@dataclass(frozen=True, slots=True)
class Series:
    """`kind` is the class that its colour is told by; a value is None where nobody knows."""

    name: str
    kind: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Axis:
    """The steps of time: short labels, of which some are written, and whole ones for the table."""

    short: Sequence[str]
    whole: Sequence[str]


# What an axis ends at, times a power of ten; of counts, the half of it is one, too.
MEASURING = (1, 2, 2.5, 5, 10)
COUNTING = (1, 2, 4, 6, 8, 10)


def nice(value: float, steps: Sequence[float] = MEASURING) -> float:
    """The next of these: the end of an axis."""
    if value <= 0:
        return 2.0 if steps is COUNTING else 1.0
    power = 10.0 ** floor(log10(value))
    top = float(next(step * power for step in steps if step * power >= value * 0.9999))
    return max(2.0, top) if steps is COUNTING else top


# Ends of an axis of durations, whose halves can be said shortly: from a minute to a month.
LONG = (60, 120, 240, 360, 600, 1_200, 1_800, *(3_600 * hours for hours in (1, 2, 4, 8, 12, 24, 48, 168, 336, 744)))


def nice_seconds(value: float) -> float:
    return nice(value) if value <= 50 else float(next((end for end in LONG if end >= value), nice(value)))


def bars(title: str, axis: Axis, series: Sequence[Series], say: Say, *, summary: str) -> Markup:
    """One on top of the other."""
    sums = [sum(each.values[index] or 0 for each in series) for index in range(len(axis.short))]
    top = nice(max(sums, default=0), COUNTING)
    bases = [HEIGHT] * len(axis.short)
    shapes = []
    for each in series:
        pieces = []
        for index, value in enumerate(each.values):
            height = HEIGHT * (value or 0) / top
            if height > 0:
                bases[index] -= height
                pieces.append(
                    f"M{index * STEP + (STEP - BAR) / 2:.0f} {bases[index]:.2f}h{BAR:.0f}v{height:.2f}h-{BAR:.0f}z"
                )
        shapes.append(f'<path class="fill-{escape(each.kind)}" d="{"".join(pieces)}"/>')
    return _figure(title, axis, series, say, "".join(shapes), top, summary)


def lines(
    title: str,
    axis: Axis,
    series: Sequence[Series],
    say: Say,
    *,
    summary: str,
    least: float = 0,
    end: Callable[[float], float] = nice,
) -> Markup:
    """Each from step to step; a value without neighbours is a point. The axis has its `end` at `least` or above."""
    most = max((value for each in series for value in each.values if value is not None), default=0)
    top = end(max(most, least))
    shapes = []
    for each in series:
        kind = f"line-{escape(each.kind)}"
        shapes.append(f'<path class="{kind}" d="{_path(each.values, top)}"/>')
        shapes.append(f'<path class="{kind} is-point" d="{_points(each.values, top)}"/>')
    return _figure(title, axis, series, say, "".join(shapes), top, summary)


def spread(low: float | None, high: float | None, highest: float | None, top: float | None) -> Markup:
    """From the median to the 95th percentile, and a mark at the 99th; the figures stand beside it."""
    if low is None or high is None or highest is None or not top:
        return Markup('<span class="unknown">{}</span>').format(UNKNOWN)
    start, end, mark = (min(100.0, 100 * value / top) for value in (low, high, highest))
    return Markup(
        '<svg class="spread" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        '<path class="line-rest" d="M0 5H100"/><rect class="fill-p50" x="{:.2f}" y="2" width="{:.2f}" height="6"/>'
        '<path class="line-p99" d="M{:.2f} 0V10"/></svg>'
    ).format(start, max(0.8, end - start), mark)


def _path(values: Sequence[float | None], top: float) -> str:
    pieces: list[str] = []
    before = False
    for index, value in enumerate(values):
        if value is None:
            before = False
            continue
        x, y = (index + 0.5) * STEP, HEIGHT - HEIGHT * value / top
        pieces.append(f"{'L' if before else 'M'}{x:.1f} {y:.2f}")
        before = True
    return "".join(pieces)


def _points(values: Sequence[float | None], top: float) -> str:
    """Values without neighbours, as lines of no length, whose round ends make points of them."""
    alone = [
        (index, value)
        for index, value in enumerate(values)
        if value is not None
        and not any(each is not None for each in (*values[max(0, index - 1) : index], *values[index + 1 : index + 2]))
    ]
    return "".join(f"M{(index + 0.5) * STEP:.1f} {HEIGHT - HEIGHT * value / top:.2f}h0.01" for index, value in alone)


def _figure(
    title: str, axis: Axis, series: Sequence[Series], say: Say, shapes: str, top: float, summary: str
) -> Markup:
    """All text is escaped here; it is put together without `Markup`, which takes long for hundreds of pieces."""
    width = max(1, len(axis.short)) * STEP
    whole = [str(escape(label)) for label in axis.whole]
    names = [str(escape(each.name)) for each in series]
    said = [[str(escape(say(value))) for value in each.values] for each in series]
    keys = "".join(
        '<span class="key"><svg viewBox="0 0 10 10" aria-hidden="true"><rect class="fill-'
        f'{escape(each.kind)}" width="10" height="10" rx="2"/></svg>{name}</span>'
        for each, name in zip(series, names, strict=True)
    )
    grid = "".join(f'<path class="grid" d="M0 {HEIGHT * part:.0f}H{width:.0f}"/>' for part in (0.0, 0.5, 1.0))
    touched = "".join(
        f'<rect class="step" x="{index * STEP:.0f}" width="{STEP:.0f}" height="{HEIGHT:.0f}"><title>{label}: '
        f"{', '.join(f'{name} {values[index]}' for name, values in zip(names, said, strict=True))}</title></rect>"
        for index, label in enumerate(whole)
    )
    every = max(1, ceil(len(axis.short) / MOST_LABELS))
    labels = "".join(f"<span>{escape(label)}</span>" for label in axis.short[::every])
    rows = "".join(
        f'<tr><th scope="row">{whole[index]}</th>'
        f"{''.join(f'<td class=number>{values[index]}</td>' for values in said)}</tr>"
        for index in reversed(range(len(whole)))
    )
    heads = "".join(f'<th scope="col" class="number">{name}</th>' for name in names)
    return Markup(  # noqa: S704  # Words and names are escaped; the rest is numbers and times.
        f'<figure class="chart"><figcaption><span class="title">{escape(title)}</span><span class="keys">{keys}</span>'
        f'</figcaption><div class="plot"><div class="y" aria-hidden="true"><span>{escape(say(top))}</span>'
        f"<span>{escape(say(top / 2))}</span><span>{escape(say(0))}</span></div>"
        f'<svg viewBox="0 0 {width:.0f} {HEIGHT:.0f}" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape(title)}. {escape(summary)}">{grid}{shapes}{touched}</svg>'
        f'<div class="x" aria-hidden="true">{labels}</div></div><details><summary>As a table</summary>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}"><table><thead><tr>'
        f'<th scope="col">Time</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details></figure>'
    )
