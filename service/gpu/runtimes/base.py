"""What a model runtime is to the worker: it loads once, then runs one validated input after another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from PIL.Image import Image
from pydantic import BaseModel

from service.catalog.base import Problem


class Watch(Protocol):
    """What a run tells its worker, and asks of it."""

    def step(self, done: int, of: int | None) -> None:
        """So many tokens, denoising steps or masks are done; raises Cancelled when the run is to stop."""

    def log(self, line: str) -> None: ...


class Cancelled(Exception):
    """Raised out of `Watch.step`; it passes through the runtime, which can run the next input."""


class RuntimeFailure(Exception):
    """A failure of which the class says what has to follow and the words say what was wrong."""


class CannotLoad(RuntimeFailure):
    """Wrong or missing weights, a wrong version of a library, a wrong option: no later input will run either."""


class OutOfMemory(RuntimeFailure):
    """Not enough memory, also for smaller batches, which the runtime has tried itself; it can go on."""


class DeviceLost(RuntimeFailure):
    """The accelerator's context is broken for good: this process can only be replaced."""


class ServerAway(RuntimeFailure):
    """A server beside the worker that runs the model does not answer, or gave up: another try may do."""


class InputRefused(RuntimeFailure):
    """The model's own 422: running it elsewhere or again would not help."""

    def __init__(self, field: str, message: str, kind: str = "value_error") -> None:
        self.detail = [{"loc": ["body", field], "msg": message, "type": kind}]
        super().__init__(f"{field}: {message}")


def check_limits(limits: Callable[[Any], list[Problem]], input: BaseModel) -> None:
    """Raises InputRefused. `limits` are those of the catalogue's model."""
    for problem in limits(input):
        raise InputRefused(*problem)


@dataclass(frozen=True, slots=True)
class ProducedFile:
    """Stands in an output where its schema has an Image. `file_name` is 32 hex digits and an ending."""

    content: bytes
    content_type: str
    file_name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Product:
    """`output` is the payload in the model's own schema; `notes` belong to the job and not to the payload."""

    output: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """One input of several: see `Batching`."""

    input: BaseModel
    pictures: Sequence[Image]
    watch: Watch
    loaded_seconds: float = 0.0


class Runtime(Protocol):
    def load(self) -> None:
        """Raises CannotLoad. The process that loads is the one that runs: a fork after it would hang."""

    def run(self, input: BaseModel, pictures: Sequence[Image], watch: Watch, *, loaded_seconds: float = 0.0) -> Product:
        """`input` is the catalogue's `Input`, with the fields set that were sent; `pictures` are RGB, upright, and in
        the order of the input's. `loaded_seconds` is the time that fetching and decoding them took.

        Raises Cancelled, OutOfMemory, DeviceLost, ServerAway or InputRefused. Torch's own errors may pass, too: the
        worker tells them apart. Anything else is a bug, of ours or of the model's code.
        """


@runtime_checkable
class Batching(Runtime, Protocol):
    """A runtime that runs several inputs faster together, `most` at a time.

    Those that can share a batch have an equal `batch_key`, which needs no pictures.
    """

    @property
    def most(self) -> int: ...

    def batch_key(self, call: Call) -> object: ...

    def run_many(self, calls: Sequence[Call]) -> list[Product | Exception]:
        """One result a call, in order; the failure of one, Cancelled too, leaves the others alone."""
