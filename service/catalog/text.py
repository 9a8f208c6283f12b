"""Which text can be kept: what UTF-8 can encode and PostgreSQL can store."""

import re
from decimal import Decimal

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,6})?")
# PostgreSQL holds no number with more digits before and after the point.
DIGITS_BEFORE, DIGITS_AFTER = 131_072, 16_383


def is_storable(text: str) -> bool:
    """Whether it holds neither NUL, which PostgreSQL refuses, nor a lone surrogate, which UTF-8 does."""
    if "\x00" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def storable(value: str | None, limit: int | None = None) -> str | None:
    """What a text column can hold: NUL and lone surrogates become U+FFFD. The body keeps them."""
    if value is None:
        return None
    value = value[:limit] if limit else value
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def number_of(text: str) -> Decimal | None:
    """A number as JSON writes it. None: it is none, or one that `jsonb` cannot hold."""
    if not _NUMBER.fullmatch(text):
        return None
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    held = number.adjusted() < DIGITS_BEFORE and -exponent <= DIGITS_AFTER
    return number if held else None
