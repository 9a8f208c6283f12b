"""Pictures of inputs, also of those that wait: they are fetched while the device has others."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from time import monotonic
from typing import Any

from PIL import Image

from service.gpu.pictures import MOST_PIXELS_TOGETHER, Pictures
from service.gpu.runtimes.base import RuntimeFailure

# Pictures, and the seconds that it took to have them.
Loaded = tuple[list[Image.Image], float]


class AheadFailed(RuntimeFailure):
    """Pictures that were fetched before their turn are not there, and may be then."""


class Ahead:
    """Asked from the model's thread; the fetching is on the loop. Inputs go by the request IDs of their attempts."""

    def __init__(self, now: Pictures, ahead: Pictures, loop: asyncio.AbstractEventLoop) -> None:
        """What is fetched ahead never holds up what is fetched now: each has limits of its own."""
        self._now, self._ahead = now, ahead
        self._loop = loop
        self._waiting: dict[str, Future[Loaded]] = {}

    def now(self, name: str, asked: Mapping[str, Any]) -> Future[Loaded]:
        """Its turn has come. The future may raise AheadFailed, and then `anew` is asked."""
        return self.take(name) or self.anew(asked)

    def anew(self, asked: Mapping[str, Any]) -> Future[Loaded]:
        return asyncio.run_coroutine_threadsafe(_loaded(self._now, asked), self._loop)

    def look(self, inputs: Mapping[str, Mapping[str, Any]]) -> None:
        """These are next; what was fetched for others is dropped."""
        before, self._waiting = self._waiting, {}
        for name, asked in inputs.items():
            loading = before.pop(name, None)
            self._waiting[name] = loading or asyncio.run_coroutine_threadsafe(self._load_ahead(asked), self._loop)
        for dropped in before.values():
            dropped.cancel()

    def take(self, name: str) -> Future[Loaded] | None:
        return self._waiting.pop(name, None)

    def waiting(self, name: str) -> Future[Loaded] | None:
        return self._waiting.get(name)

    async def _load_ahead(self, asked: Mapping[str, Any]) -> Loaded:
        """Raises AheadFailed, from where no frame holds a picture: what has failed is kept until its turn."""
        loaded: Loaded | None = None
        with suppress(Exception):  # Whatever it was, it is told of when it comes again.
            loaded = await _loaded(self._ahead, asked)
        if loaded is not None and self._has_room(loaded):
            return loaded
        words = "it could not be had" if loaded is None else "there was no room for it"
        loaded = None
        raise AheadFailed(words)

    def _has_room(self, loaded: Loaded) -> bool:
        others = (loading.result() for loading in list(self._waiting.values()) if _is_there(loading))
        return sum(_pixels(pictures) for pictures, _ in (loaded, *others)) <= MOST_PIXELS_TOGETHER


async def _loaded(pictures: Pictures, asked: Mapping[str, Any]) -> Loaded:
    began = monotonic()
    return await pictures.of(asked), monotonic() - began


def _is_there(loading: Future[Loaded]) -> bool:
    return loading.done() and not loading.cancelled() and loading.exception() is None


def _pixels(pictures: Sequence[Image.Image]) -> int:
    return sum(picture.width * picture.height for picture in pictures)
