"""The headers of a submission: what is kept of them, and what goes on to the provider."""

import re
from math import isfinite

from starlette.requests import Request

from service.errors import Invalid
from service.jobs.hints import SENT_ON, SHORTEST_START_TIMEOUT, START_TIMEOUT, TAGS
from service.jsontext import encode

PRIORITIES = ("normal", "low")
# The newer name wins.
TIMEOUT_HEADERS = (START_TIMEOUT, "x-fal-request-start-timeout")
LONGEST_START_TIMEOUT = 30 * 86_400.0
LONGEST_HINT = 4_096

# https://fal.ai/docs: what does not fit is dropped without a word.
MOST_TAGS = 10
LONGEST_TAGS = 1_024
_TAG = re.compile(r"(?!fal\.)[a-z0-9._-]{1,64}=[ -~]{1,256}")


def read_priority(request: Request) -> str:
    priority = request.headers.get("x-fal-queue-priority", "normal").lower()
    if priority not in PRIORITIES:
        raise Invalid.at("header", "x-fal-queue-priority", msg="Must be normal or low.", kind="enum")
    return priority


def read_tags(request: Request) -> list[str]:
    """`key=value` pairs, which become tags of the job."""
    text = request.headers.get(TAGS, "")
    if len(text) > LONGEST_TAGS:
        return []
    pairs = [pair.strip() for pair in text.split(",")]
    return [pair for pair in pairs if _TAG.fullmatch(pair)][:MOST_TAGS]


def read_hints(request: Request) -> str:
    """A JSON object's text of the headers that go on to the provider."""
    hints = {name: request.headers[name] for name in SENT_ON if name in request.headers}
    if not _is_plain(hints.get(TAGS, "")):
        hints[TAGS] = ",".join(read_tags(request))
    for name, value in hints.items():
        if not _is_plain(value):
            raise Invalid.at("header", name, msg=f"Must be at most {LONGEST_HINT:,} plain characters.")
    for name in TIMEOUT_HEADERS:
        if name in request.headers:
            hints[START_TIMEOUT] = str(_seconds(name, request.headers[name]))
    return encode(hints).decode()


def _is_plain(value: str) -> bool:
    return len(value) <= LONGEST_HINT and value.isascii() and value.isprintable()


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text) if text.isascii() else -1.0
    except ValueError:
        seconds = -1.0
    if not (isfinite(seconds) and 0 < seconds <= LONGEST_START_TIMEOUT):
        raise Invalid.at("header", name, msg="Must be a number of seconds above zero.", kind="float_parsing")
    return max(SHORTEST_START_TIMEOUT, seconds)
