"""When a link ends, as far as it says so itself."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

# How long a link is taken to last of which nobody knows. fal keeps what it makes for an hour, unless told otherwise.
LINK_SECONDS = 3_600
# So long after the end of its job such a link is tried all the same: many last for good.
TRIED_SECONDS = 86_400
# And no other for longer than this.
LONGEST_TRIED_SECONDS = 7 * 86_400
# Until when one is tried that is owed now, as SQL; the first where it is not known, to which the rest of a day comes.
OWED_UNTIL = f"""least(
    coalesce(source_expires_at, now() + make_interval(secs => {LINK_SECONDS})),
    now() + make_interval(secs => {LONGEST_TRIED_SECONDS})
)"""

LONGEST_SECONDS = 10 * 365 * 86_400
# Signed by time and duration: Amazon's signature version 4, and Google's.
SIGNED = (("x-amz-date", "x-amz-expires"), ("x-goog-date", "x-goog-expires"))
# The ends that are believed, in seconds since 1970: 2001 to 2286. To the database and to Python times end somewhere.
EPOCH = range(10**9, 10**10)


def expiry_of(url: str) -> datetime | None:
    """The end of a link, in UTC, by its signature: Amazon's, Google's, CloudFront's, Azure's. None: it does not say."""
    if not url[:8].lower().startswith(("http://", "https://")):
        return None
    try:
        query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
    except ValueError:
        return None
    end = min((end for end in _signed(query) if end in EPOCH), default=None)
    return None if end is None else datetime.fromtimestamp(end, UTC)


def _signed(query: Mapping[str, str]) -> Iterator[int]:
    """Ends in seconds since 1970, however far away."""
    for date, seconds in SIGNED:
        try:
            start = datetime.strptime(query.get(date, ""), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            continue
        if (lasts := _number(query.get(seconds, ""))) is not None and lasts <= LONGEST_SECONDS:
            yield int(start.timestamp()) + lasts
    # As in Amazon's and Google's older signatures and CloudFront's.
    if (epoch := _number(query.get("expires", ""))) is not None:
        yield epoch
    # Azure: a time, or a day, next to the signature.
    if "sig" in query:
        try:
            end = datetime.fromisoformat(query.get("se", ""))
        except ValueError:
            return
        yield int((end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp())


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 12 else None
