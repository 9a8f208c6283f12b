"""What a check returns."""

from collections.abc import Iterable
from dataclasses import dataclass

SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """`count` of `total` broke the promise; none may."""

    promise: str
    count: int
    total: int
    examples: tuple[str, ...] = ()
    note: str = ""

    @property
    def red(self) -> bool:
        return self.count > 0


def finding(promise: str, broken: Iterable[str], total: int, note: str = "") -> Finding:
    """`broken` says in words what is wrong, one each."""
    listed = list(broken)
    return Finding(promise, len(listed), total, tuple(listed[:SHOWN]), note)
