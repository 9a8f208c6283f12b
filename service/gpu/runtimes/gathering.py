"""Inputs that come at about the same time from several threads, run together."""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from time import monotonic
from typing import Protocol

from PIL.Image import Image
from pydantic import BaseModel

from service.gpu.runtimes.base import Batching, Call, Product, Runtime, Watch


class BatchingRuntime(Runtime, Batching, Protocol): ...


class Gathering:
    """A runtime for many threads: it waits a moment for others whose settings are equal, and runs them as one batch.

    One thread of its own runs the model, so nothing else has to know of the others.
    """

    def __init__(self, runtime: BatchingRuntime, most: int = 8, window_seconds: float = 0.02) -> None:
        self._runtime = runtime
        self._most = most
        self._window = window_seconds
        self._waiting: deque[tuple[object, Call, Future[Product]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="gathering")
        self.batches: list[int] = []

    def load(self) -> None:
        self._runtime.load()
        self._thread.start()

    def run(self, input: BaseModel, pictures: Sequence[Image], watch: Watch, *, loaded_seconds: float = 0.0) -> Product:
        call = Call(input, pictures, watch, loaded_seconds)
        answer: Future[Product] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the runtime was closed")
            self._waiting.append((self._runtime.batch_key(call), call, answer))
            self._changed.notify()
        return answer.result()

    def close(self) -> None:
        """What waits is still run."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self.batches.append(len(batch))
            try:
                results = self._runtime.run_many([call for call, _ in batch])
            except BaseException as error:
                for _, answer in batch:
                    answer.set_exception(error)
                continue
            for (_, answer), result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

    def _next(self) -> list[tuple[Call, Future[Product]]]:
        """Those that wait with the settings of the first; none when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            key = self._waiting[0][0]
            until = monotonic() + self._window

            def enough() -> bool:
                return self._closed or sum(each[0] == key for each in self._waiting) >= self._most

            self._changed.wait_for(enough, max(until - monotonic(), 0))
            batch = [each for each in self._waiting if each[0] == key][: self._most]
            for each in batch:
                self._waiting.remove(each)
            return [(call, answer) for _, call, answer in batch]
