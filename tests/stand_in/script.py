"""What the stand-in is told to do with the jobs of one tag."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tests.stand_in.server import Run, StandIn
    from tests.stand_in.webhooks import Post

Webhook = Callable[["StandIn", "Run"], "Post"]


@dataclass(frozen=True)
class Outcome:
    """What the model ended with: the status and the bytes of its answer."""

    body: bytes
    status: int = 200

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True)
class Answer:
    """How one request is answered. `taken` says whether a submit was accepted nevertheless."""

    kind: Literal["take", "http", "hold", "close"] = "take"
    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    taken: bool = True


TAKE = Answer()
HELD = Answer("hold")
CLOSED = Answer("close")
CLOSED_UNTAKEN = Answer("close", taken=False)
PAGE = b"<!DOCTYPE html><html><head><title>Bad gateway</title></head><body><h1>nginx</h1></body></html>"


def refusal(status: int, retry_after: str | None = None) -> Answer:
    headers = [("content-type", "application/json")]
    if retry_after is not None:
        headers.append(("retry-after", retry_after))
    return Answer("http", status, b'{"detail":"Not now."}', tuple(headers), taken=False)


def page(status: int, *, taken: bool = False) -> Answer:
    return Answer("http", status, PAGE, (("content-type", "text/html; charset=utf-8"),), taken)


def invalid(body: bytes) -> Answer:
    return Answer("http", 422, body, (("content-type", "application/json"),), taken=False)


@dataclass(frozen=True)
class Script:
    """The behaviour of every job whose submitted body contains `tag:NAME`.

    `submits`, `statuses` and `results` answer the first requests of each kind, in order; what comes after
    them is answered as fal does. A job with `holds` neither ends nor calls back before `StandIn.finish`.
    """

    submits: tuple[Answer, ...] = ()
    statuses: tuple[Answer, ...] = ()
    results: tuple[Answer, ...] = ()
    progress: tuple[str, ...] = ()
    """Words that the first status reads say, such as `IN_QUEUE`, before the true one."""
    outcome: Callable[["StandIn"], Outcome] | None = None
    webhooks: tuple[Webhook, ...] | None = None
    """What is posted when the job ends, in order. None: one good webhook; (): none at all."""
    early: bool = False
    """Whether the webhooks are posted, and answered, before the submit is."""
    holds: bool = False
    seconds: float = 0.0
    answer_seconds: tuple[float, float] = (0.0, 0.0)
    file_seconds: float | None = None
    """How long the job's files can be had after their addresses were first given away."""
    cancel: Literal["removed", "requested", "ignored"] = "requested"
