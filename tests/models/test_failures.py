"""Torch's own errors, raised in the middle of a forward pass: what is lost, what is full, and what is neither."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from service.gpu.runtimes import DeviceLost, OutOfMemory, Runtime
from service.gpu.runtimes.devices import told_apart
from tests.models.witness import FLUX, LLAVA, MINICPM, NEMOTRON, SA2VA, asked, loaded, raising, run

PARTS: dict[str, Callable[[Any], Any]] = {
    LLAVA: lambda runtime: runtime._model.model.language_model,
    MINICPM: lambda runtime: runtime._model.llm,
    SA2VA: lambda runtime: runtime._model.embed,
    NEMOTRON: lambda runtime: runtime._model.encoder,
    FLUX: lambda runtime: runtime._pipeline._pipeline.transformer,
}
LOST: list[Callable[[], BaseException]] = [
    lambda: torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    lambda: RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]


@pytest.fixture(scope="module")
def runtimes(
    llava_folder: Path, minicpm_folder: Path, sa2va_folder: Path, nemotron_folder: Path, flux_folder: Path
) -> dict[str, Runtime]:
    return {
        LLAVA: loaded(LLAVA, llava_folder),
        MINICPM: loaded(MINICPM, minicpm_folder),
        SA2VA: loaded(SA2VA, sa2va_folder),
        NEMOTRON: loaded(NEMOTRON, nemotron_folder),
        FLUX: loaded(FLUX, flux_folder, tile="64", overlap="16"),
    }


@pytest.mark.parametrize("model", PARTS)
@pytest.mark.parametrize("error", LOST, ids=["accelerator", "cudnn"])
def test_a_lost_device_is_told_at_once(
    runtimes: dict[str, Runtime], picture: Image.Image, model: str, error: Callable[[], BaseException]
) -> None:
    hook, passes = raising(error, 99)
    handle = PARTS[model](runtimes[model]).register_forward_pre_hook(hook)
    try:
        with pytest.raises(DeviceLost):
            run(runtimes[model], asked(model), picture)
    finally:
        handle.remove()
    # Nothing was tried again on a device that is gone.
    assert passes == [1]


@pytest.mark.parametrize("model", PARTS)
def test_a_bug_stays_what_it_is(runtimes: dict[str, Runtime], picture: Image.Image, model: str) -> None:
    words = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
    hook, _ = raising(lambda: RuntimeError(words), 1)
    handle = PARTS[model](runtimes[model]).register_forward_pre_hook(hook)
    try:
        with pytest.raises(RuntimeError, match="same device") as raised:
            run(runtimes[model], asked(model), picture)
    finally:
        handle.remove()
    assert type(raised.value) is RuntimeError
    assert run(runtimes[model], asked(model), picture).output


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("CUDA error: device-side assert triggered", DeviceLost),
        ("CUDA error: unspecified launch failure", DeviceLost),
        ("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx", DeviceLost),
        ("NCCL error in: ProcessGroupNCCL.cpp, unhandled cuda error", DeviceLost),
        ("Triton Error [CUDA]: an illegal instruction was encountered", DeviceLost),
        ("CUDA error: out of memory", OutOfMemory),
        ("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)", OutOfMemory),
    ],
)
def test_the_words_of_libraries_tell_what_is_lost_and_what_is_full(words: str, kind: type[Exception]) -> None:
    with pytest.raises(kind), told_apart():
        raise RuntimeError(words)


def test_memory_that_a_machine_does_not_have_is_told_as_such() -> None:
    """A real failure of the CPU's own allocator."""
    with pytest.raises(OutOfMemory, match="allocate"), told_apart():
        torch.empty(2**55, dtype=torch.uint8)
