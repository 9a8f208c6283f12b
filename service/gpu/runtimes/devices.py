"""What torch says of its device: when it is done, when it is full, and when it is lost."""

import gc
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, TypeVar

from service.gpu.runtimes.base import DeviceLost, OutOfMemory

Size = TypeVar("Size")
Result = TypeVar("Result")

_FULL = re.compile(r"out of memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE)
# After one of these every later call fails, too. A mere mention of a device ("tensors on cuda:0 and cpu") is none.
_LOST = re.compile(
    r"CUDA error|CUDA driver error|device-side assert|illegal memory access"
    r"|CUDNN_STATUS|cuDNN error|CUBLAS_STATUS|CUSOLVER_STATUS|CUFFT_\w+|NCCL|NVML|Triton Error",
    re.IGNORECASE,
)


@contextmanager
def told_apart() -> Iterator[None]:
    """Errors of the device leave it as OutOfMemory and DeviceLost, all others as they are."""
    try:
        yield
    except RuntimeError as error:
        words = str(error)
        if _is("OutOfMemoryError", error) or _FULL.search(words):
            raise OutOfMemory(_first_line(error)) from None
        if _is("AcceleratorError", error) or _LOST.search(words):
            raise DeviceLost(_first_line(error)) from None
        raise


def _is(name: str, error: RuntimeError) -> bool:
    """Whether it is of torch's class of that name, if torch was imported at all and has such."""
    kind = getattr(sys.modules.get("torch"), name, None)
    return kind is not None and isinstance(error, kind)


def shrinking(run: Callable[[Size], Result], sizes: Iterable[Size], device: str, log: Callable[[str], None]) -> Result:
    """What `run` gives for the first size that fits into memory. Raises OutOfMemory when none does."""
    words = "there was no size to try"
    for size in sizes:
        try:
            with told_apart():
                return run(size)
        except OutOfMemory as error:
            words = str(error)
        # Only out here is the error gone, whose frames hold the tensors.
        release(device)
        log(f"out of memory with {size}: {words}")
    raise OutOfMemory(words)


def release(device: str) -> None:
    """Give back what nothing refers to any more."""
    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def synchronise(device: str) -> None:
    """Wait until the device has done what it was given; without it time moves from one part into the next."""
    if device.startswith(("cuda", "auto")):
        import torch

        torch.cuda.synchronize(None if device == "auto" else device)


def precision(name: str, device: str) -> Any:
    """torch's type by name; `auto` is bfloat16 on an accelerator and float32 on a CPU."""
    import torch

    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    return getattr(torch, name)


class Stopwatch:
    """Seconds of the parts of one run, each with the device at rest at both of its ends."""

    def __init__(self, device: str, before: float = 0.0) -> None:
        self._device = device
        self._before = before
        self._start = perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        synchronise(self._device)
        start = perf_counter()
        yield
        synchronise(self._device)
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start

    def total(self) -> float:
        """Since the stopwatch was made, and what had passed before."""
        return self._before + perf_counter() - self._start


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]
