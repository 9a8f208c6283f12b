"""What is dear to find out, found out once for all who ask meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Generic, TypeVar

Value = TypeVar("Value")

# Finding it out takes a twentieth of the time at most, however dear it becomes.
REST = 20


class Remembered(Generic[Value]):
    """Found out anew when that is longer ago than it took twenty times over."""

    def __init__(self, find: Callable[[], Awaitable[Value]]) -> None:
        self._find = find
        self._again_at = float("-inf")
        self._value: Value
        self._finding: asyncio.Task[None] | None = None

    async def get(self) -> Value:
        """Raises what finding it out raised."""
        if self._finding is None and monotonic() >= self._again_at:
            self._finding = asyncio.create_task(self._find_out())
        if self._finding is not None:
            await asyncio.shield(self._finding)
        return self._value

    async def _find_out(self) -> None:
        begun = monotonic()
        try:
            self._value = await self._find()
            self._again_at = monotonic() + REST * (monotonic() - begun)
        finally:
            self._finding = None
