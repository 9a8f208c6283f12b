"""Telling a watch of every token, and stopping when it says so."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from service.gpu.runtimes.base import Cancelled, Watch


class Rows:
    """The rows of one batch while tokens are generated: each has its own watch and its own most tokens."""

    def __init__(self, watches: Sequence[Watch], most: Sequence[int]) -> None:
        self._watches = watches
        self._most = most
        self._stopped = [False] * len(watches)
        self.cancelled: dict[int, Cancelled] = {}

    def criterion(self, prompt_length: int) -> Any:
        """A stopping criterion for `generate`, whose rows have prompts padded to `prompt_length` tokens."""
        import torch
        from transformers import StoppingCriteria

        rows = self

        class EndOfRows(StoppingCriteria):  # type: ignore[misc]
            flags: Any = None

            def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
                # The same tensor again while nothing changes: a new one is a copy to the device for each token.
                if rows.note(input_ids.shape[1] - prompt_length) or self.flags is None:
                    self.flags = torch.tensor(rows._stopped, dtype=torch.bool, device=input_ids.device)
                return self.flags

        return EndOfRows()

    def note(self, tokens: int) -> bool:
        """Each row has so many tokens now, those included that follow its end; whether another row has to stop."""
        changed = False
        for row, watch in enumerate(self._watches):
            if self._stopped[row]:
                continue
            try:
                watch.step(tokens, self._most[row])
            except Cancelled as cancelled:
                self.cancelled[row] = cancelled
            if row in self.cancelled or tokens >= self._most[row]:
                self._stopped[row] = changed = True
        return changed


class Onward:
    """A watch that is told of several parts of one run, whose counts begin anew, as one count without an end."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._done = 0

    def step(self, done: int, of: int | None) -> None:
        self._done += 1
        self._watch.step(self._done, None)

    def log(self, line: str) -> None:
        self._watch.log(line)


@contextmanager
def told_of_passes(module: Any, watch: Watch, most: int | None) -> Iterator[list[int]]:
    """Before each forward pass of the module the watch is told how many there were; the list's one item counts them.

    For code that has no hook of its own: Cancelled is raised out of the middle of it.
    """
    count = [0]

    def tell(*_: Any) -> None:
        watch.step(count[0], most)
        count[0] += 1

    handle = module.register_forward_pre_hook(tell)
    try:
        yield count
    finally:
        handle.remove()


def first_module(model: Any, *names: str) -> Any:
    """The first of its parts that is there, or else the model itself."""
    for name in names:
        part = getattr(model, name, None)
        if part is not None and hasattr(part, "register_forward_pre_hook"):
            return part
    return model
