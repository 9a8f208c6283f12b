"""What all statements on jobs share: the lifecycle as SQL, the channel of changes, and what a text column can hold."""

from service.jobs.lifecycle import MOVES, Event

CHANNEL = "job_changed"

# A searchable excerpt; the whole text is in the outcome's body.
TEXT_EXCERPT = 8_000
NAME_EXCERPT = 200


def guard(event: Event, column: str = "status") -> str:
    return f"{column} IN ({', '.join(repr(source.value) for source in MOVES[event].sources)})"


def target(event: Event) -> str:
    return repr(MOVES[event].target.value)


def storable(value: str | None, limit: int | None = None) -> str | None:
    """What a text column can hold: NUL and lone surrogates become U+FFFD. The body keeps them."""
    if value is None:
        return None
    value = value[:limit] if limit else value
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
