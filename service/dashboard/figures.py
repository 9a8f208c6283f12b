"""Figures and moments as people read them. What nobody knows is `unknown`, never zero."""

import re
from datetime import UTC, datetime
from decimal import Decimal

from markupsafe import Markup

from service.marks import visible

UNKNOWN = "unknown"
_SIZES = ("bytes", "kB", "MB", "GB", "TB", "PB")


def number(value: float | None) -> str:
    """All digits of a count."""
    return UNKNOWN if value is None else f"{value:,.0f}" if value == int(value) else f"{value:,.3f}".rstrip("0")


def short(value: float | None) -> str:
    """A count in three digits."""
    if value is None:
        return UNKNOWN
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (10 if unit == "k" else 1):
            return f"{value / size:.3g} {unit}"
    return number(value)


def seconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    if value < 0.0005:
        return "0 ms"
    if value < 0.9995:
        return f"{value * 1_000:.0f} ms"
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, left = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {left} s" if left else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h" if hours and days < 10 else f"{days} days"


def percent(value: float | None) -> str:
    """Of a share, 0 to 1."""
    if value is None:
        return UNKNOWN
    share = value * 100
    return f"{share:.0f} %" if share == int(share) else f"{share:.1f} %" if share >= 0.1 else "< 0.1 %"


def size(value: int | None) -> str:
    if value is None:
        return UNKNOWN
    amount, unit = float(value), 0
    while amount >= 999.5 and unit < len(_SIZES) - 1:
        amount, unit = amount / 1_000, unit + 1
    return f"{amount:.0f} {_SIZES[unit]}" if unit == 0 or amount >= 100 else f"{amount:.3g} {_SIZES[unit]}"


def money(value: Decimal | None, currency: str | None) -> str:
    """Rounded."""
    if value is None:
        return UNKNOWN
    if abs(value) >= 1:
        digits = f"{value:,.2f}"
    else:
        # Three digits of whatever small sum it is.
        digits = format(value.quantize(Decimal(1).scaleb(value.adjusted() - 2)).normalize(), "f") if value else "0"
    return f"{digits} {currency or ''}".rstrip()


def fine_money(value: Decimal | None, currency: str | None) -> str:
    """To the hundredth, and in six digits where that is finer."""
    if value is None:
        return UNKNOWN
    digits = f"{value:,.{max(2, 5 - value.adjusted())}f}".rstrip("0").rstrip(".")
    return f"{digits} {currency or ''}".rstrip()


def moment(value: datetime | None, *, date: bool = True) -> str:
    """In UTC, to the second; the whole of it is in the element."""
    if value is None:
        return UNKNOWN
    utc = value.astimezone(UTC)
    words = f"{utc.day} {utc:%b %Y}, {utc:%H:%M:%S}" if date else f"{utc:%H:%M:%S}"
    exact = utc.isoformat().replace("+00:00", "Z")
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(exact, words)


def when(value: datetime) -> str:
    """On two lines, for columns: the time of day, and the day."""
    utc = value.astimezone(UTC)
    exact = utc.isoformat().replace("+00:00", "Z")
    return Markup('<time datetime="{0}" title="{0}">{1} <span class="sub">{2}</span></time>').format(
        exact, f"{utc:%H:%M:%S}", f"{utc.day} {utc:%b %Y}"
    )


def until(due_in: float | None) -> str:
    """When something is due, in words."""
    if due_in is None:
        return "at a time that is not known"
    return f"in {seconds(due_in)}" if due_in > 0.5 else "now" if due_in > -60 else f"since {seconds(-due_in)}"


def slashed(text: str) -> str:
    """A name that may go on on another line after each slash."""
    return Markup("/<wbr>").join(Markup.escape(visible(part)) for part in text.split("/"))


def coded(text: str) -> str:
    """Words of ours, in which what stands between backticks is code."""
    pieces = re.split("`([^`]*)`", visible(text))
    marks = [Markup("<code>{}</code>") if index % 2 else Markup("{}") for index in range(len(pieces))]
    return Markup("").join(mark.format(piece) for mark, piece in zip(marks, pieces, strict=True))
