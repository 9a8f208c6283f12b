"""Addresses of pages, which hold all that is chosen on them."""

from collections.abc import Iterable, Sequence
from urllib.parse import quote, urlencode, urlsplit

Query = Sequence[tuple[str, str]]


def changed(path: str, query: Iterable[tuple[str, str]], **values: str | None) -> str:
    """The address with other values of some fields; None, and whatever said which page of a list, are left out."""
    kept = [(name, value) for name, value in query if name not in values and name not in {"cursor", "said"}]
    kept += [(name, value) for name, value in values.items() if value is not None]
    return f"{path}?{encoded(kept)}" if kept else path


def encoded(query: Iterable[tuple[str, str]]) -> str:
    return urlencode(list(query), quote_via=quote, safe="/:,")


def here(url: str) -> str:
    """A stored file's address as this page's browser reaches it: at the host where it is already."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path
