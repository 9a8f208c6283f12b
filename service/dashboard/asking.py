"""The filter bar of the list: its fields as an address with the filters of `GET /v1/jobs`, and these as words."""

from dataclasses import dataclass

from service.dashboard.addresses import Query, changed
from service.dashboard.scope import TENANT
from service.jobs.filters import MODEL_TIMINGS, PHASES, USAGE

# Fields of the form that make one filter together, since a form cannot name its fields by what is written in others.
METADATA = ("metadata_key", "metadata_value")
MEASURE = ("measure", "measure_min", "measure_max")
# What belongs to the page and is no filter.
OWN = {TENANT, "said", "limit"}

MEASURES = (*PHASES, "cost")

# Names of filters that have a field of their own.
FIELDS = (
    *("status", "model", "provider", "error_type", "tag", "q", "mask_label", "mask_area_min", "mask_area_max"),
    *("created_after", "created_before"),
)


def tidied(query: Query) -> list[tuple[str, str]]:
    """What a form sent, as the address that means it: no empty fields, and filters under their own names."""
    given = dict(query)
    kept = [(name, value) for name, value in query if value.strip() and name not in {*METADATA, *MEASURE}]
    key, value = (given.get(name, "").strip() for name in METADATA)
    if key:
        kept.append((f"metadata.{key}", value))
    measure = given.get("measure", "").strip()
    for name in MEASURE[1:]:
        if measure and given.get(name, "").strip():
            kept.append((f"{measure}{name.removeprefix('measure')}", given[name].strip()))
    return kept


def filters_of(query: Query) -> list[tuple[str, str]]:
    return [(name, value) for name, value in query if name not in OWN]


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter that is set, and the address without it."""

    name: str
    value: str
    without: str


def chips(path: str, query: Query) -> list[Chip]:
    found = []
    for index, (name, value) in enumerate(query):
        if name in OWN or name == "cursor":
            continue
        rest = [pair for place, pair in enumerate(query) if place != index]
        found.append(Chip(_called(name), value, changed(path, rest)))
    return found


def _called(name: str) -> str:
    for ending, sign in (("_min", "from"), ("_max", "to")):
        if name.endswith(ending):
            return f"{name.removesuffix(ending)} {sign}"
    words = {"q": "text", "created_after": "registered from", "created_before": "registered before"}
    return words.get(name, name.replace("_", " ") if not name.startswith("metadata.") else name)


def hidden_measures(query: Query) -> list[tuple[str, str]]:
    """Filters that the form has no field of their own for, and carries along."""
    named = ("metadata.", USAGE, MODEL_TIMINGS)
    return [
        (name, value)
        for name, value in query
        if name.startswith(named) or (name.endswith(("_min", "_max")) and name not in FIELDS)
    ]
