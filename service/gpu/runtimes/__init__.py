"""The insides of models on a GPU of one's own; torch and its kin are imported when a runtime loads, and not before."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from pydantic import ValidationError

from service.gpu.runtimes.base import (
    Batching,
    Call,
    Cancelled,
    CannotLoad,
    DeviceLost,
    InputRefused,
    OutOfMemory,
    ProducedFile,
    Product,
    Runtime,
    RuntimeFailure,
    ServerAway,
    Watch,
)

__all__ = [
    "Batching",
    "Call",
    "Cancelled",
    "CannotLoad",
    "DeviceLost",
    "InputRefused",
    "OutOfMemory",
    "ProducedFile",
    "Product",
    "Runtime",
    "RuntimeFailure",
    "ServerAway",
    "Watch",
    "find",
]

# Each module defines `open_runtime(folder, device, options)`.
MODULES = {
    "fal-ai/flux-vision-upscaler": "flux_upscaler",
    "fal-ai/llava-next": "llava",
    "fal-ai/mini-cpm": "minicpm",
    "fal-ai/nemotron-diffusion-vlm": "nemotron",
    "fal-ai/sa2va/8b/image": "sa2va",
}


def find(model: str, *, folder: Path, device: str, options: Mapping[str, str] | None = None) -> Runtime:
    """The runtime of a model, not loaded yet. `folder` holds its weights, `device` is torch's name of the device.

    Raises CannotLoad for a model without a runtime and for options that it does not have.
    """
    if model not in MODULES:
        raise CannotLoad(f"{model} has no runtime; there is one for {', '.join(sorted(MODULES))}")
    module = import_module(f"{__name__}.{MODULES[model]}")
    try:
        runtime: Runtime = module.open_runtime(folder, device, dict(options or {}))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise CannotLoad(f"options of {model}: {problems}") from None
    return runtime
