"""What this process has done since its start, counted in its memory."""

from collections.abc import Mapping

# What a process of a kind does. Of what is not named there nothing is known, which is not zero.
DOES: Mapping[str, tuple[str, ...]] = {
    "api": ("registered", "settled"),
    "worker": ("submitted", "settled", "copied", "delivered"),
    "beat": (),
}


class Progress:
    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, what: str, number: int = 1) -> None:
        self._counts[what] = self._counts.get(what, 0) + number

    def of(self, kind: str) -> dict[str, int]:
        return {what: self._counts.get(what, 0) for what in DOES[kind]}
