"""What all statements on jobs share: the lifecycle as SQL, the channel of changes, and how long excerpts are."""

from service.jobs.lifecycle import MOVES, Event

CHANNEL = "job_changed"

# A searchable excerpt; the whole text is in the outcome's body.
TEXT_EXCERPT = 8_000
NAME_EXCERPT = 200


def guard(event: Event, column: str = "status") -> str:
    return f"{column} IN ({', '.join(repr(source.value) for source in MOVES[event].sources)})"


def target(event: Event) -> str:
    return repr(MOVES[event].target.value)
