"""What a run told, and watches that end it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from service.catalog import Catalog
from service.gpu.runtimes import Cancelled, Product, Runtime, find

LLAVA = "fal-ai/llava-next"
MINICPM = "fal-ai/mini-cpm"
SA2VA = "fal-ai/sa2va/8b/image"
NEMOTRON = "fal-ai/nemotron-diffusion-vlm"
FLUX = "fal-ai/flux-vision-upscaler"
URL = "https://example.com/picture.png"


class Witness:
    """`cancel_at` is the count of steps that are told before the run is to end."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.steps: list[tuple[int, int | None]] = []
        self.lines: list[str] = []
        self._cancel_at = cancel_at

    def step(self, done: int, of: int | None) -> None:
        if self._cancel_at is not None and len(self.steps) >= self._cancel_at:
            raise Cancelled
        self.steps.append((done, of))

    def log(self, line: str) -> None:
        self.lines.append(line)


def asked(model: str, **fields: Any) -> Any:
    """The catalogue's input, with what its schema requires."""
    files = {"image_urls": [URL]} if model == MINICPM else {"image_url": URL}
    prompt = {} if model == FLUX else {"prompt": "what is in this picture?"}
    schema = Catalog().find(model).Input
    assert schema is not None
    return schema.model_validate(files | prompt | fields)


def loaded(model: str, folder: Path, **options: str) -> Runtime:
    if model not in (LLAVA, FLUX):
        options = {"trust_remote_code": "yes"} | options
    runtime = find(model, folder=folder, device="cpu", options=options)
    runtime.load()
    return runtime


def run(runtime: Runtime, input: Any, *pictures: Image.Image, witness: Witness | None = None) -> Product:
    return runtime.run(input, pictures, witness or Witness())


def raising(error: Callable[[], BaseException], times: int) -> tuple[Callable[..., None], list[int]]:
    """A forward hook that raises so many times, and then no more; the list's item counts the passes."""
    passes = [0]

    def hook(*_: Any) -> None:
        passes[0] += 1
        if passes[0] <= times:
            raise error()

    return hook, passes
