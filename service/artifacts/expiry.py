"""When a link ends, as far as it says so itself."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

# How long a link is taken to last of which nobody knows. fal keeps what it makes for an hour, unless told otherwise.
LINK_SECONDS = 3_600
# So long after the end of its job such a link is tried all the same: many last for good.
TRIED_SECONDS = 86_400

LONGEST_SECONDS = 10 * 365 * 86_400
# Signed by time and duration: Amazon's signature version 4, and Google's.
SIGNED = (("x-amz-date", "x-amz-expires"), ("x-goog-date", "x-goog-expires"))
# Seconds since 1970, as in Amazon's and Google's older signatures and CloudFront's.
EPOCH = range(10**9, 10**10)


def expiry_of(url: str) -> datetime | None:
    """The end of a link, in UTC, by its signature: Amazon's, Google's, CloudFront's, Azure's. None: it does not say."""
    if not url[:8].lower().startswith(("http://", "https://")):
        return None
    try:
        query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
    except ValueError:
        return None
    return min(_signed(query), default=None)


def _signed(query: Mapping[str, str]) -> Iterator[datetime]:
    for date, seconds in SIGNED:
        try:
            start = datetime.strptime(query.get(date, ""), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            continue
        if (lasts := _number(query.get(seconds, ""))) is not None and lasts <= LONGEST_SECONDS:
            yield start + timedelta(seconds=lasts)
    if (epoch := _number(query.get("expires", ""))) is not None and epoch in EPOCH:
        yield datetime.fromtimestamp(epoch, UTC)
    # Azure: a time, or a day, next to the signature.
    if "sig" in query:
        try:
            end = datetime.fromisoformat(query.get("se", ""))
            yield end.astimezone(UTC) if end.tzinfo else end.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            return


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 12 else None
